//! What every scenario has around it: signals, settings, kernel log, run directory.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::commands::run::Common;
use crate::commands::{HARNESS, INTERRUPTED, USAGE};
use crate::evidence::detector::{Detector, NotWatched};
use crate::evidence::guard::{self, Guard, GuardError, Recovery, Setting};
use crate::evidence::kmsg::{Kmsg, KmsgError, KmsgRecord};
use crate::evidence::machine::Machine;
use crate::evidence::message::Parser;
use crate::evidence::{procfs, trace};
pub use crate::journal::Step;
use crate::plan::blocks::{Block, HostBlocks};
use crate::projection::Headroom;
use crate::report::subject::Subject;
use crate::result::{
    CaseResult, Complaint, EvidenceState, RunId, RunResult, Status, Tool, VERSION, VcpuFacts, Verdict,
};
use crate::store::{self, RunDir};
use crate::verdict::policy::Conclusion;
use crate::{counting, lab, recover, report, verdict, vmm};

/// Why a run ended without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest could not be set up.
    #[error("{0}")]
    Vmm(#[from] vmm::Error),
    /// The run could not be stored.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// A setting could not be changed or put back.
    #[error("{0}")]
    Guard(#[from] GuardError),
    /// The kernel log could not be read on.
    #[error("{0}")]
    Kmsg(#[from] KmsgError),
    /// The image could not be read.
    #[error("cannot read the payload {0}: {1}")]
    Payload(String, io::Error),
    /// The runner was built without one.
    #[error("this build has no payload inside: build with `make build`, or name one with --payload FILE")]
    NoPayload,
    /// Signals could not be caught, so settings could not be put back.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// SIGINT or SIGTERM.
    #[error("interrupted: settings are back as they were, what was recorded is in {0}")]
    Interrupted(String),
    /// Wrong usage that only this machine could tell.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Returns the exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted(_) => INTERRUPTED,
            Self::Usage(_) | Self::Vmm(vmm::Error::TooManyVcpus(..) | vmm::Error::TooHigh(..)) => USAGE,
            _ => HARNESS,
        }
    }
}

/// A run under way.
pub struct Session {
    /// Where it is stored.
    pub dir: RunDir,
    /// What is missing and what a reader should know.
    pub evidence: EvidenceState,
    /// The machine.
    pub machine: Machine,
    /// Which maintenance the kernel does, where the scenario finds out.
    pub policy: Option<Conclusion>,
    /// How far the longest stall is from a soft lockup, where the scenario finds out.
    pub headroom: Option<Headroom>,
    guard: Option<Guard>,
    kmsg: Option<Kmsg<File>>,
    raw: File,
    interrupted: Arc<AtomicBool>,
    started: String,
    command: Vec<String>,
    common: Common,
    /// The run that this one goes on with, if any.
    pub resumed_from: Option<String>,
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Name of the run directory: the lab gives one, so that equal runs have equal output.
fn run_name(release: &str) -> String {
    match std::env::var("FAULTLINE_RUN_NAME") {
        Ok(name) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => name,
        _ => {
            let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
            format!("{time}-{release}-{:04x}", std::process::id() & 0xffff)
        }
    }
}

/// Returns what is left of the kernel log, by syslog(2): it says which mode KVM started in.
pub fn boot_log() -> Option<String> {
    const SYSLOG_ACTION_READ_ALL: i32 = 3;
    let mut buffer = vec![0u8; 1 << 20];
    let room = i32::try_from(buffer.len()).ok()?;
    // SAFETY: klogctl writes at most `room` bytes into the buffer that long.
    let length = unsafe { libc::klogctl(SYSLOG_ACTION_READ_ALL, buffer.as_mut_ptr().cast(), room) };
    buffer.truncate(usize::try_from(length).ok()?);
    Some(String::from_utf8_lossy(&buffer).into_owned())
}

/// Saves where this kernel's maintenance functions are, for the counts that the lab's plugin takes by address.
fn save_symbols(dir: &RunDir) -> Result<(), Error> {
    let kallsyms = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let path = dir.path().join(counting::SYMBOLS);
    let written = store::replace(&path, counting::excerpt(&kallsyms).as_bytes());
    written.map_err(|error| Error::Store(store::Error::Write(path, error)))
}

impl Session {
    /// Begins a run: puts back what a dead one left, catches signals, opens the kernel log, makes the directory.
    ///
    /// # Errors
    ///
    /// What cannot be had and cannot be done without.
    pub fn begin(common: &Common) -> Result<Self, Error> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(Error::Signals)?;
        }
        let machine = Machine::read(boot_log().as_deref());
        let mut evidence = EvidenceState::default();
        trace::clean_up();
        match guard::recover(&guard::default_state_dir()) {
            Ok(Recovery::Restored(paths)) => {
                evidence.notes.push(format!("put back {} settings that a dead run had left changed", paths.len()));
            }
            Err(error @ GuardError::Restore(_)) => {
                eprintln!("faultline: {error}");
                evidence.notes.push(error.to_string());
            }
            // Nothing to do, a run that is alive, or no permission to know.
            _ => {}
        }
        let started = now();
        let mut dir = RunDir::create(&common.results, &run_name(&machine.kernel_release))?;
        dir.write(store::ENVIRONMENT, &machine)?;
        let command: Vec<_> = std::env::args().skip(1).collect();
        dir.journal(&Step::Begin {
            started: started.clone(),
            boot_id: procfs::boot_id().unwrap_or_default(),
            command: command.clone(),
            release: machine.kernel_release.clone(),
            tool: Self::tool(),
        })?;
        let kmsg = match Kmsg::open() {
            Ok(kmsg) => Some(kmsg),
            Err(error) => {
                evidence.absent.push(error.to_string());
                None
            }
        };
        if machine.lab.as_ref().is_some_and(|lab| lab["counting"] == true) {
            save_symbols(&dir)?;
        }
        let raw = dir.file("kmsg.raw")?;
        let mut session = Self {
            dir,
            evidence,
            machine,
            policy: None,
            headroom: None,
            guard: None,
            kmsg,
            raw,
            interrupted,
            started,
            command,
            common: common.clone(),
            resumed_from: None,
        };
        match session.make_ready() {
            Ok(()) => Ok(session),
            Err(error) => {
                session.gave_up(&error);
                Err(error)
            }
        }
    }

    fn make_ready(&mut self) -> Result<(), Error> {
        if let Some(seconds) = self.common.watchdog_thresh {
            self.set(&Setting::WatchdogThresh, &seconds.to_string())?;
        }
        self.keep_hung_task_warnings();
        self.journal(&Step::Ready { detector: Detector::read(Path::new("/")) })
    }

    /// Writes a journal entry that must survive what comes next, even where the machine does not.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn journal(&mut self, step: &Step) -> Result<(), Error> {
        if let Step::Case { block, .. } = step {
            self.tell(&format!("case {block} begins"));
            self.mark(block);
        }
        self.dir.journal(step)?;
        // In the lab, on disk means brought out of the guest; where that fails the host notices.
        let _ = lab::guest::barrier();
        Ok(())
    }

    /// Lets the guard put back how many hung tasks the kernel will still report: the count goes down by itself. Without
    /// root, or beside another run, it stays as it becomes.
    fn keep_hung_task_warnings(&mut self) {
        if let Some(left @ 0..) = Detector::read(Path::new("/")).hung_task_warnings {
            let _ = self.set(&Setting::HungTaskWarnings, &left.to_string());
        }
    }

    /// Leaves the reason of a run without a result in its journal, if there is still room for it.
    pub fn gave_up(&mut self, error: &Error) {
        store::give_up_reserve(self.dir.path());
        let _ = self.journal(&Step::Failed { reason: error.to_string() });
    }

    /// Says in the kernel log which case begins, so that a serial console or pstore tells it when nothing else does.
    /// At warning level, or a quiet console would not show it. Without permission the log simply lacks the line.
    fn mark(&self, block: &str) {
        let run = self.dir.path().file_name().unwrap_or_default().to_string_lossy();
        if let Ok(mut log) = File::options().write(true).open("/dev/kmsg") {
            let _ = log.write_all(format!("<4>{}\n", recover::mark(&run, block)).as_bytes());
        }
    }

    /// Changes a setting until the end of the run and returns what it reads then.
    ///
    /// # Errors
    ///
    /// Of the guard.
    pub fn set(&mut self, setting: &Setting, value: &str) -> Result<String, Error> {
        if self.guard.is_none() {
            self.guard = Some(Guard::open(&guard::default_state_dir())?.0);
        }
        let reads = match &mut self.guard {
            Some(guard) => guard.set(setting, value)?,
            None => unreachable!("set just above"),
        };
        self.tell(&format!("{} = {reads}, until the end of the run", setting.path().display()));
        Ok(reads)
    }

    /// Says on standard error what goes on, for those who asked for it (`--verbose`).
    fn tell(&self, what: &str) {
        if self.common.verbose {
            eprintln!("{}", report::words::quiet(what));
        }
    }

    /// Fills the hugetlb pool for `bytes`-sized pages up to `free` free ones.
    ///
    /// # Errors
    ///
    /// Of the guard. That the kernel found fewer is no error here: the case's own check says so.
    pub fn fill_pool(&mut self, bytes: u64, free: u64) -> Result<(), Error> {
        let pool = host_blocks().hugetlb.into_iter().find(|(size, _)| *size == bytes);
        let Some((_, have)) = pool.filter(|(_, have)| *have < free) else { return Ok(()) };
        let total = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", bytes >> 10);
        let total: u64 = procfs::read_number(Path::new("/"), &total).unwrap_or(0);
        self.set(&Setting::Hugepages { bytes }, &(total + free - have).to_string())?;
        Ok(())
    }

    /// Returns whether a signal asked for the end.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Feeds new kernel log records to `parser` and to `kmsg.raw`.
    ///
    /// # Errors
    ///
    /// If the log cannot be read or copied any more.
    pub fn read_kmsg(&mut self, parser: &mut Parser) -> Result<(), Error> {
        let Some(kmsg) = &mut self.kmsg else { return Ok(()) };
        let records = kmsg.drain(&mut self.raw)?;
        if records.iter().any(KmsgRecord::is_grave) {
            // The machine may be down before the kernel writes it back by itself.
            let _ = self.raw.sync_data();
        }
        self.evidence.kmsg_lost = kmsg.lost();
        for record in records {
            for line in record.records() {
                self.tell(&format!("kernel: {}", line.text));
                parser.push(&line);
            }
        }
        Ok(())
    }

    /// Feeds the last records to `parser` and returns all complaints that it found.
    ///
    /// # Errors
    ///
    /// As [`Session::read_kmsg`].
    pub fn complaints(&mut self, parser: &mut Parser) -> Result<Vec<Complaint>, Error> {
        self.read_kmsg(parser)?;
        Ok(parser.finish().into_iter().map(Complaint::from).collect())
    }

    /// Returns why soft lockups on these CPUs would go unseen, if they would.
    pub fn unwatched(&self, detector: &Detector, cpus: &[usize]) -> Option<String> {
        match detector.watches(cpus) {
            Ok(()) if self.kmsg.is_none() => Some("the kernel log cannot be read (run as root)".into()),
            Ok(()) => None,
            Err(why @ (NotWatched::NotAvailable | NotWatched::Off | NotWatched::NoThreshold | NotWatched::Cpu(_))) => {
                Some(why.to_string())
            }
        }
    }

    /// Takes back the verdict of a case that went well by itself where the kernel log says otherwise, or could not.
    pub fn hold_against_log(&self, case: &mut CaseResult) {
        let unwatched = self.unwatched(&Detector::read(Path::new("/")), &vmm::cpus(case.vcpus as usize));
        verdict::with_kernel_log(case, self.evidence.kmsg_lost, unwatched.as_deref());
    }

    fn run_id(&self) -> RunId {
        let id = self.dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        RunId { id, started: self.started.clone(), finished: now() }
    }

    fn tool() -> Tool {
        let peak = procfs::read(Path::new("/"), "/proc/self/status").and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        });
        Tool {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("FAULTLINE_COMMIT").into(),
            peak_resident_kib: peak,
        }
    }

    /// Finishes a run whose cases went as `outcome` says; a run without a verdict leaves its reason in the journal.
    ///
    /// # Errors
    ///
    /// That of `outcome`, or of [`Session::finish`].
    pub fn end(
        mut self,
        outcome: Result<(), Error>,
        scenario: &str,
        vcpus: Vec<VcpuFacts>,
        cases: Vec<CaseResult>,
    ) -> Result<u8, Error> {
        match outcome {
            Ok(()) => self.finish(scenario, vcpus, cases),
            Err(error) => {
                self.gave_up(&error);
                Err(error)
            }
        }
    }

    /// Writes the result, puts settings back, prints the table, and returns the exit code of the verdict.
    ///
    /// # Errors
    ///
    /// If one of these fails, the others having been tried; [`Error::Interrupted`] after a signal.
    pub fn finish(mut self, scenario: &str, vcpus: Vec<VcpuFacts>, cases: Vec<CaseResult>) -> Result<u8, Error> {
        let interrupted = self.interrupted();
        let verdict = match verdict::with_policy(verdict::run(&cases), self.policy.as_ref()) {
            verdict if interrupted && verdict.status <= Status::Skip => {
                let over = cases.iter().filter(|case| case.verdict.status <= Status::Skip).count();
                Verdict::new(Status::Error, format!("interrupted after {over} cases that neither failed nor broke off"))
            }
            verdict => verdict,
        };
        let result = RunResult {
            version: VERSION,
            run: self.run_id(),
            tool: Self::tool(),
            command: self.command.clone(),
            under_test: self.common.under_test.clone(),
            scenario: scenario.into(),
            step: self.common.step.clone(),
            verdict,
            machine: self.machine.clone(),
            detector: Detector::read(Path::new("/")),
            vcpus,
            evidence: self.evidence.clone(),
            cases,
            recovered: false,
            resumed_from: self.resumed_from.clone(),
            policy: self.policy.take(),
            headroom: self.headroom.take(),
        };
        let restored = self.guard.take().map_or(Ok(0), Guard::restore);
        self.dir.write(store::RESULT, &result)?;
        report::formats::write_all(self.dir.path(), &Subject::from(&result))?;
        self.dir.journal(&Step::End)?;
        restored?;
        let path = self.dir.path().display().to_string();
        if interrupted {
            return Err(Error::Interrupted(path));
        }
        if !self.common.quiet {
            // A closed pipe is the reader's choice; the result is on disk.
            let _ = report::formats::print(&mut std::io::stdout(), self.common.format(), &Subject::from(&result));
            // In the lab the directory has another name outside, which the lab prints.
            if std::env::var_os("FAULTLINE_RUN_NAME").is_none() {
                match self.common.format() {
                    report::formats::Format::Human => println!("{path}"),
                    _ => eprintln!("{path}"),
                }
            }
        }
        Ok(result.verdict.status.exit_code())
    }
}

/// Returns the image to run.
///
/// # Errors
///
/// If there is none.
pub fn payload(common: &Common) -> Result<Vec<u8>, Error> {
    match &common.payload {
        Some(path) => std::fs::read(path).map_err(|error| Error::Payload(path.display().to_string(), error)),
        None => inside().ok_or(Error::NoPayload),
    }
}

/// Returns the image inside this program, if it was built with one.
pub fn inside() -> Option<Vec<u8>> {
    const INSIDE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/payload.img"));
    (!INSIDE.is_empty()).then(|| INSIDE.to_vec())
}

/// Reads what kinds of memory this host has.
pub fn host_blocks() -> HostBlocks {
    let root = Path::new("/");
    let thp = "/sys/kernel/mm/transparent_hugepage";
    let thp_on = procfs::read(root, &format!("{thp}/enabled")).is_some_and(|text| procfs::selected(&text) != "never");
    let mut hugetlb = Vec::new();
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kib =
            name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")).and_then(|n| n.parse::<u64>().ok());
        if let Some(kib) = kib {
            let free = format!("/sys/kernel/mm/hugepages/{name}/free_hugepages");
            hugetlb.push((kib << 10, procfs::read_number(root, &free).unwrap_or(0)));
        }
    }
    hugetlb.sort_unstable();
    let available_kib = procfs::read(root, "/proc/meminfo")
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("MemAvailable:").map(str::to_owned)))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    HostBlocks {
        page_bytes: rustix::param::page_size() as u64,
        thp_bytes: procfs::read_number(root, &format!("{thp}/hpage_pmd_size")).filter(|_| thp_on),
        hugetlb,
        available_bytes: available_kib.unwrap_or(u64::MAX >> 10) << 10,
    }
}

/// Returns every kind of memory that this host can give a region of, as `fits` says.
pub fn all_blocks(host: &HostBlocks, fits: impl Fn(Block) -> bool) -> Vec<Block> {
    let hugetlb = host.hugetlb.iter().map(|(bytes, _)| Block::Hugetlb(crate::size::Size(*bytes)));
    [Block::Page, Block::Thp].into_iter().chain(hugetlb).filter(|block| fits(*block)).collect()
}
