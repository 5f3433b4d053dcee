//! Everything that a run of any scenario has around it: signals, settings, kernel log, run directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hostfacts::guard::{self, Guard, GuardError, Recovery, Setting};
use hostfacts::kmsg::{self, Kmsg, KmsgError};
use hostfacts::memory::memory_kinds;
use hostfacts::{process, symbols, trace};
use klog::kmsg::KmsgRecord;
use klog::message::Parser;
use klog::quiet::quiet;
use record::case::{CaseResult, Complaint};
use record::detector::{Detector, NotWatched};
use record::exit::{HARNESS, INTERRUPTED, USAGE};
use record::findings::Findings;
use record::journal::{self, Entry};
use record::machine::Machine;
use record::result::{EvidenceState, RunId, RunResult, Tool, VERSION, VcpuFacts};
use record::status::{Status, Verdict};
use record::store::{self, RunDir};
use record::verdict;

use crate::options::Common;

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
            Self::Usage(_) | Self::Vmm(vmm::Error::TooManyVcpus { .. } | vmm::Error::TooHigh { .. }) => USAGE,
            _ => HARNESS,
        }
    }
}

/// The build of faultline that runs.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Its version.
    pub version: &'static str,
    /// The commit that it was built from.
    pub commit: &'static str,
    /// The payload's image inside it; empty in a build without one.
    pub payload: &'static [u8],
}

impl Build {
    fn tool(&self) -> Tool {
        Tool { version: self.version.into(), commit: self.commit.into(), peak_resident_kib: None }
    }

    /// Returns the image to run.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn image(&self, common: &Common) -> Result<Vec<u8>, Error> {
        match &common.payload {
            Some(path) => std::fs::read(path).map_err(|error| Error::Payload(path.display().to_string(), error)),
            None if self.payload.is_empty() => Err(Error::NoPayload),
            None => Ok(self.payload.to_vec()),
        }
    }
}

/// A run whose result is on disk.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its directory.
    pub directory: PathBuf,
    /// The result.
    pub result: RunResult,
    /// Whether a signal ended it.
    pub interrupted: bool,
}

/// The scenario's own part in the result of a run.
#[derive(Clone, Debug, Default)]
pub struct Conclusion {
    /// Verdict besides those of the cases.
    pub verdict: Option<Verdict>,
    /// Facts about the kernel, for comparisons.
    pub facts: BTreeMap<String, String>,
    /// Everything else.
    pub findings: Findings,
}

/// A run under way.
pub struct Session {
    /// Where it is stored.
    pub dir: RunDir,
    /// What is missing and what a reader should know.
    pub evidence: EvidenceState,
    /// The machine.
    pub machine: Machine,
    /// Conclusion of the scenario from all cases.
    pub conclusion: Conclusion,
    guard: Option<Guard>,
    kmsg: Option<Kmsg<File>>,
    raw: File,
    interrupted: Arc<AtomicBool>,
    started: String,
    command: Vec<String>,
    common: Common,
    tool: Tool,
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

/// Saves the addresses of this kernel's maintenance functions, for the counts that the lab's plugin takes by address.
fn save_symbols(dir: &RunDir) -> Result<(), Error> {
    let path = dir.path().join(symbols::FILE);
    let written = store::replace(&path, symbols::read().as_bytes());
    written.map_err(|error| Error::Store(store::Error::Write(path, error)))
}

impl Session {
    /// Begins a run: puts back what a dead one left, catches signals, opens the kernel log, makes the directory.
    ///
    /// # Errors
    ///
    /// What cannot be had and cannot be done without.
    pub fn begin(common: &Common, build: &Build) -> Result<Self, Error> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(Error::Signals)?;
        }
        let machine = hostfacts::machine::read();
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
        dir.journal(&Entry::Begin {
            started: started.clone(),
            boot_id: hostfacts::machine::boot_id().unwrap_or_default(),
            command: command.clone(),
            release: machine.kernel_release.clone(),
            tool: build.tool(),
        })?;
        let kmsg = match Kmsg::open() {
            Ok(kmsg) => Some(kmsg),
            Err(error) => {
                evidence.absent.push(error.to_string());
                None
            }
        };
        if machine.lab.as_ref().is_some_and(|lab| lab.counting) {
            save_symbols(&dir)?;
        }
        let raw = dir.file("kmsg.raw")?;
        let mut session = Self {
            dir,
            evidence,
            machine,
            conclusion: Conclusion::default(),
            tool: build.tool(),
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
        self.journal(&Entry::Ready { detector: hostfacts::detector::read() })
    }

    /// Writes a journal entry that must survive what comes next, even where the machine does not.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn journal(&mut self, entry: &Entry) -> Result<(), Error> {
        if let Entry::Case { name, .. } = entry {
            self.tell(&format!("case {name} begins"));
            self.mark(name);
        }
        Ok(self.dir.journal(entry)?)
    }

    /// Lets the guard put back how many hung tasks the kernel will still report: the count goes down by itself. Without
    /// root, or beside another run, it stays as it becomes.
    fn keep_hung_task_warnings(&mut self) {
        if let Some(left @ 0..) = hostfacts::detector::read().hung_task_warnings {
            let _ = self.set(&Setting::HungTaskWarnings, &left.to_string());
        }
    }

    /// Leaves the reason of a run without a result in its journal, if there is still room for it.
    pub fn gave_up(&mut self, error: &Error) {
        store::give_up_reserve(self.dir.path());
        let _ = self.journal(&Entry::Failed { reason: error.to_string() });
    }

    /// Says in the kernel log which case begins, so that a serial console or pstore tells it when nothing else does.
    /// At warning level, or a quiet console would not show it. Without permission the log simply lacks the line.
    fn mark(&self, case: &str) {
        let run = self.dir.path().file_name().unwrap_or_default().to_string_lossy();
        let _ = kmsg::write_warning(&journal::mark(&run, case));
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
            eprintln!("{}", quiet(what));
        }
    }

    /// Fills the hugetlb pool for `bytes`-sized pages up to `free` free ones.
    ///
    /// # Errors
    ///
    /// Of the guard. That the kernel found fewer is no error here: the case's own check says so.
    pub fn fill_pool(&mut self, bytes: u64, free: u64) -> Result<(), Error> {
        let pool = memory_kinds().hugetlb.into_iter().find(|pool| pool.page_bytes == bytes);
        let Some(pool) = pool.filter(|pool| pool.free < free) else { return Ok(()) };
        self.set(&Setting::Hugepages { bytes }, &(pool.total + free - pool.free).to_string())?;
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
        let unwatched = self.unwatched(&hostfacts::detector::read(), &vmm::cpus(case.vcpus as usize));
        verdict::with_kernel_log(case, self.evidence.kmsg_lost, unwatched.as_deref());
    }

    fn run_id(&self) -> RunId {
        let id = self.dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        RunId { id, started: self.started.clone(), finished: now() }
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
    ) -> Result<Finished, Error> {
        match outcome {
            Ok(()) => self.finish(scenario, vcpus, cases),
            Err(error) => {
                self.gave_up(&error);
                Err(error)
            }
        }
    }

    /// Writes the result and puts settings back.
    ///
    /// # Errors
    ///
    /// If one of these fails, the other having been tried.
    pub fn finish(mut self, scenario: &str, vcpus: Vec<VcpuFacts>, cases: Vec<CaseResult>) -> Result<Finished, Error> {
        let interrupted = self.interrupted();
        let verdict = match verdict::with_own(verdict::run(&cases), self.conclusion.verdict.take()) {
            verdict if interrupted && verdict.status <= Status::Skip => {
                let over = cases.iter().filter(|case| case.verdict.status <= Status::Skip).count();
                Verdict::new(Status::Error, format!("interrupted after {over} cases that neither failed nor broke off"))
            }
            verdict => verdict,
        };
        let result = RunResult {
            version: VERSION,
            run: self.run_id(),
            tool: Tool { peak_resident_kib: process::peak_resident_kib(), ..self.tool },
            command: self.command,
            under_test: self.common.under_test,
            scenario: scenario.into(),
            step: self.common.step,
            verdict,
            machine: self.machine,
            detector: hostfacts::detector::read(),
            vcpus,
            evidence: self.evidence,
            cases,
            recovered: false,
            resumed_from: self.resumed_from,
            facts: self.conclusion.facts,
            conclusion: self.conclusion.findings,
        };
        let restored = self.guard.take().map_or(Ok(0), Guard::restore);
        self.dir.write(store::RESULT, &result)?;
        self.dir.journal(&Entry::End)?;
        restored?;
        Ok(Finished { directory: self.dir.path().to_owned(), result, interrupted })
    }
}
