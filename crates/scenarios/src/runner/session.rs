//! The surroundings of a run, which are the same for all scenarios: signals, settings, kernel log, run directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use hostfacts::company::Company;
use hostfacts::guard::{self, Guard, GuardError, Recovery, Setting};
use hostfacts::interrupt::{Interrupt, NotCaught};
use hostfacts::kmsg::{self, Kmsg, KmsgError};
use hostfacts::memory::memory_kinds;
use hostfacts::phase::{NO_CASE, begin_case};
use hostfacts::{process, provenance, symbols, trace};
use klog::kmsg::KmsgRecord;
use klog::parser::Parser;
use klog::quiet::quiet;
use record::case::{AttributedComplaint, CaseResult};
use record::detector::{Detector, NotWatched};
use record::exit::{HARNESS, USAGE};
use record::findings::StoredFindings;
use record::journal::{self, Entry};
use record::machine::Machine;
use record::provenance::Provenance;
use record::result::{EvidenceState, Head, RunId, RunResult, Tool, VcpuFacts};
use record::status::{Status, Verdict};
use record::store::{self, RunDir};
use record::verdict;

use crate::options::Common;

/// Reason for a run to end without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest could not be set up.
    #[error("{0}")]
    Vmm(#[from] vmm::Error),
    /// The run could not be stored.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// A setting could not be changed or restored.
    #[error("{0}")]
    Guard(#[from] GuardError),
    /// The kernel log could not be read any further.
    #[error("{0}")]
    Kmsg(#[from] KmsgError),
    /// The guest image could not be read.
    #[error("cannot read the payload {0}: {1}")]
    Payload(String, io::Error),
    /// This build contains no guest image.
    #[error("this build has no payload inside: build with `make build`, or name one with --payload FILE")]
    NoPayload,
    /// Signal handlers could not be installed, so settings could not be restored after a signal.
    #[error("{0}")]
    Signals(#[from] NotCaught),
    /// An option has a value that is wrong on this machine.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Returns whether the reason is that this machine, or this user, can run no guests.
    pub fn is_no_guests(&self) -> bool {
        matches!(self, Self::Vmm(vmm::Error::NoKvm | vmm::Error::NoPermission))
    }

    /// Returns the exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Vmm(vmm::Error::TooManyVcpus { .. } | vmm::Error::TooHigh { .. }) => USAGE,
            _ => HARNESS,
        }
    }
}

/// Facts about this build of faultline.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Version.
    pub version: &'static str,
    /// Commit that it was built from.
    pub commit: &'static str,
    /// Guest image; empty in a build without one.
    pub payload: &'static [u8],
}

impl Build {
    fn tool(&self) -> Tool {
        Tool { version: self.version.into(), commit: self.commit.into(), peak_resident_kib: None }
    }

    /// Returns the guest image to run.
    ///
    /// # Errors
    ///
    /// Returns an error if the build has no image and `--payload` names none, or if the file cannot be read.
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
    /// The run directory.
    pub directory: PathBuf,
    /// The result.
    pub result: RunResult,
    /// True if a signal ended the run.
    pub interrupted: bool,
}

/// The part of a run's result that the scenario draws from all cases together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conclusion {
    /// Verdict, in addition to the verdicts of the cases.
    pub verdict: Option<Verdict>,
    /// True if the verdict of the run is this one, whatever the verdicts of the cases are.
    pub decides: bool,
    /// Facts about the kernel, for `faultline compare`.
    pub facts: BTreeMap<String, String>,
    /// The scenario's findings.
    pub findings: StoredFindings,
}

/// A run that is going on.
pub(crate) struct Session {
    /// Run directory.
    pub dir: RunDir,
    /// Missing parts of the evidence, and notes for the reader.
    pub evidence: EvidenceState,
    /// The machine.
    pub machine: Machine,
    /// Conclusion from all cases.
    pub conclusion: Conclusion,
    guard: Option<Guard>,
    company: Option<Company>,
    kmsg: Option<Kmsg<File>>,
    raw: File,
    interrupt: Interrupt,
    head: Head,
    common: Common,
    /// Id of the dead run that this run continues, if there is one.
    pub resumed_from: Option<String>,
    /// Number of cases that are done, those of a run that is resumed included.
    pub cases_done: u64,
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns the name of the run directory. The lab sets a fixed name, so that repeated runs print the same text.
fn run_name(release: &str) -> String {
    match std::env::var("FAULTLINE_RUN_NAME") {
        Ok(name) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => name,
        _ => {
            let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
            format!("{time}-{release}-{:04x}", std::process::id() & 0xffff)
        }
    }
}

/// Says which other runs were there at the same time, if there were any.
fn beside(company: &Company) -> Option<String> {
    let met: Vec<_> = company.met().iter().map(u32::to_string).collect();
    let runs = if met.len() == 1 { "another run" } else { "other runs" };
    (!met.is_empty())
        .then(|| format!("{runs} (process {}) at the same time: times and kernel messages of both mix", met.join(", ")))
}

/// Saves the addresses of this kernel's maintenance functions. The lab's plugin counts by address.
fn save_symbols(dir: &RunDir, table: &str) -> Result<(), Error> {
    let path = dir.path().join(symbols::FILE);
    let written = store::replace(&path, table.as_bytes());
    written.map_err(|error| Error::Store(store::Error::Write(path, error)))
}

impl Session {
    /// Begins a run. It catches signals, restores settings that a dead run left changed, creates the run directory,
    /// opens the kernel log, and applies the settings of the command line.
    ///
    /// # Errors
    ///
    /// Returns the first failure of a step that the run needs. A kernel log that cannot be read is only noted.
    pub fn begin(scenario: &str, common: &Common, build: &Build) -> Result<Self, Error> {
        let interrupt = Interrupt::catch()?;
        let machine = hostfacts::machine::read();
        let mut evidence = EvidenceState::default();
        trace::clean_up();
        match guard::recover(&guard::default_state_dir()) {
            Ok(Recovery::Restored(paths)) => {
                evidence.notes.push(format!("put back {} settings that a dead run had left changed", paths.len()));
            }
            Err(error @ GuardError::Restore(_)) => {
                units::note!("faultline: {error}");
                evidence.notes.push(error.to_string());
            }
            // There was nothing to restore, another run is alive, or this user may not know.
            _ => {}
        }
        let mut dir = RunDir::create(&common.results, &run_name(&machine.kernel_release))?;
        dir.write(store::ENVIRONMENT, &machine)?;
        let payload = build.image(common).ok().and_then(|image| provenance::sha256(image.as_slice()).ok());
        // The lab knows the files of the emulated host, where digesting them would take long.
        let files =
            if machine.lab.is_none() { provenance::read(&machine.kernel_release) } else { Provenance::default() };
        let head = Head {
            started: now(),
            tool: build.tool(),
            command: std::env::args().skip(1).collect(),
            provenance: Provenance { payload_sha256: payload, ..files },
            under_test: common.under_test.clone(),
            scenario: Some(scenario.to_owned()),
            step: common.step.clone(),
        };
        dir.journal(&Entry::Begin {
            head: Box::new(head.clone()),
            boot_id: hostfacts::machine::boot_id().unwrap_or_default(),
            release: machine.kernel_release.clone(),
        })?;
        let kmsg = match Kmsg::open() {
            Ok(kmsg) => Some(kmsg),
            Err(error) => {
                evidence.absent.push(error.to_string());
                None
            }
        };
        if let Some(lab) = machine.lab.as_ref().filter(|lab| lab.counting || lab.sanitizing) {
            save_symbols(&dir, &if lab.sanitizing { symbols::read_all() } else { symbols::read() })?;
        }
        let raw = dir.file("kmsg.raw")?;
        let company = Company::join(&guard::default_state_dir());
        if let Some(note) = company.as_ref().and_then(beside) {
            units::note!("faultline: {note}");
        }
        let mut session = Self {
            dir,
            evidence,
            machine,
            conclusion: Conclusion::default(),
            head,
            guard: None,
            company,
            kmsg,
            raw,
            interrupt,
            common: common.clone(),
            resumed_from: None,
            cases_done: 0,
        };
        match session.apply_settings() {
            Ok(()) => Ok(session),
            Err(error) => {
                session.record_failure(&error);
                Err(error)
            }
        }
    }

    fn apply_settings(&mut self) -> Result<(), Error> {
        if let Some(seconds) = self.common.watchdog_thresh {
            self.set(&Setting::WatchdogThresh, &seconds.to_string())?;
        }
        self.keep_hung_task_warnings();
        self.journal(&Entry::Ready { detector: hostfacts::detector::read() })
    }

    /// Writes a journal entry to disk before the risky step that follows, so that it survives if the machine does not.
    ///
    /// # Errors
    ///
    /// Returns an error if the entry cannot be written.
    pub fn journal(&mut self, entry: &Entry) -> Result<(), Error> {
        if let Entry::Case { name, .. } = entry {
            self.tell(&format!("case {name} begins"));
            self.mark(name);
        }
        self.dir.journal(entry)?;
        // The sanitizer books what follows to the case, and what follows its end to none.
        match entry {
            Entry::Case { .. } => begin_case(self.cases_done + 1),
            Entry::CaseDone { .. } => {
                self.cases_done += 1;
                begin_case(NO_CASE);
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes the guard restore `kernel.hung_task_warnings`, which the kernel decrements with every report. Without
    /// root, or beside another run, the value is not restored.
    fn keep_hung_task_warnings(&mut self) {
        if let Some(left @ 0..) = hostfacts::detector::read().hung_task_warnings {
            let _ = self.set(&Setting::HungTaskWarnings, &left.to_string());
        }
    }

    /// Writes the reason for the missing result to the journal, if the disk still has room for it.
    fn record_failure(&mut self, error: &Error) {
        store::give_up_reserve(self.dir.path());
        let _ = self.journal(&Entry::Failed { reason: error.to_string() });
    }

    /// Writes the name of the case to the kernel log, so that a serial console or pstore shows it if nothing else
    /// survives. A quiet console shows warnings and above only, so the line is a warning. Without permission, the log
    /// lacks the line.
    fn mark(&self, case: &str) {
        let run = self.dir.path().file_name().unwrap_or_default().to_string_lossy();
        let _ = kmsg::write_warning(&journal::case_mark(&run, case));
    }

    /// Changes a setting until the end of the run, and returns its new value as the kernel reports it.
    ///
    /// # Errors
    ///
    /// Returns the guard's error.
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

    /// Prints a line on standard error with `--verbose`.
    fn tell(&self, line: &str) {
        if self.common.verbose {
            units::note!("{}", quiet(line));
        }
    }

    /// Enlarges the hugetlb pool of `bytes`-sized pages until it has `free` free pages.
    ///
    /// # Errors
    ///
    /// Returns the guard's error. A kernel that finds fewer pages is no error here; the case checks the pool and is
    /// skipped.
    pub(crate) fn fill_pool(&mut self, bytes: u64, free: u64) -> Result<(), Error> {
        let pool = memory_kinds().hugetlb.into_iter().find(|pool| pool.page_bytes == bytes);
        let Some(pool) = pool.filter(|pool| pool.free < free) else { return Ok(()) };
        self.set(&Setting::Hugepages { bytes }, &(pool.total + free - pool.free).to_string())?;
        Ok(())
    }

    /// Returns whether a signal ended the run.
    pub fn interrupted(&self) -> bool {
        self.interrupt.is_set()
    }

    /// Passes new kernel log records to `parser` and appends them to `kmsg.raw`.
    ///
    /// # Errors
    ///
    /// Returns an error if the log cannot be read or copied any further.
    pub(crate) fn read_kmsg(&mut self, parser: &mut Parser) -> Result<(), Error> {
        let Some(kmsg) = &mut self.kmsg else { return Ok(()) };
        let records = kmsg.drain(&mut self.raw)?;
        if records.iter().any(KmsgRecord::is_grave) {
            // The machine may go down before the kernel writes the file back.
            let _ = self.raw.sync_data();
        }
        self.evidence.kmsg_lost = kmsg.lost();
        for record in records {
            for line in record.lines() {
                self.tell(&format!("kernel: {}", line.text));
                parser.push(&line);
            }
        }
        Ok(())
    }

    /// Passes the last records to `parser` and returns all complaints that it found.
    ///
    /// # Errors
    ///
    /// Returns an error if the log cannot be read or copied any further.
    pub fn complaints(&mut self, parser: &mut Parser) -> Result<Vec<AttributedComplaint>, Error> {
        self.read_kmsg(parser)?;
        Ok(parser.finish().into_iter().map(AttributedComplaint::from).collect())
    }

    /// Returns the reason for soft lockups on these CPUs to go unseen; none if they would be seen.
    pub fn unwatched(&self, detector: &Detector, cpus: &[usize]) -> Option<String> {
        match detector.watches(cpus) {
            Ok(()) if self.kmsg.is_none() => Some("the kernel log cannot be read (run as root)".into()),
            Ok(()) => None,
            Err(why @ (NotWatched::NotAvailable | NotWatched::Off | NotWatched::NoThreshold | NotWatched::Cpu(_))) => {
                Some(why.to_string())
            }
        }
    }

    /// Lowers the verdict of a case that passed or was skipped if the kernel log contradicts it. A pass is lowered,
    /// too, if the log could not have shown a lockup.
    pub(crate) fn check_against_log(&self, case: &mut CaseResult) {
        let unwatched = self.unwatched(&hostfacts::detector::read(), &vmm::cpus(case.vcpus as usize));
        verdict::apply_kernel_log(case, self.evidence.kmsg_lost, unwatched.as_deref());
    }

    /// Finishes the run if `outcome` is `Ok`. Otherwise it writes the error to the journal and returns it.
    ///
    /// # Errors
    ///
    /// Returns the error of `outcome` or of [`Session::finish`].
    pub fn end(
        mut self,
        outcome: Result<(), Error>,
        vcpus: Vec<VcpuFacts>,
        cases: Vec<CaseResult>,
    ) -> Result<Finished, Error> {
        match outcome {
            Ok(()) => self.finish(vcpus, cases),
            Err(error) => {
                self.record_failure(&error);
                Err(error)
            }
        }
    }

    /// Restores the settings and writes the result.
    ///
    /// # Errors
    ///
    /// Returns the first error. If settings cannot be restored, the result is written all the same.
    pub fn finish(mut self, vcpus: Vec<VcpuFacts>, cases: Vec<CaseResult>) -> Result<Finished, Error> {
        let interrupted = self.interrupted();
        begin_case(NO_CASE);
        self.evidence.notes.extend(self.company.take().as_ref().and_then(beside));
        let own = self.conclusion.verdict.take();
        let verdict = match own.clone().filter(|_| self.conclusion.decides) {
            Some(own) => own,
            None => verdict::overall(verdict::of_cases(&cases), own),
        };
        let verdict = match verdict {
            verdict if interrupted && verdict.status <= Status::Skip => {
                let over = cases.iter().filter(|case| case.verdict.status <= Status::Skip).count();
                Verdict::new(Status::Error, format!("interrupted after {over} cases that neither failed nor broke off"))
            }
            verdict => verdict,
        };
        let id = self.dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let begun = RunResult::begun(self.head, id, self.machine, hostfacts::detector::read());
        let result = RunResult {
            run: RunId { finished: now(), ..begun.run },
            tool: Tool { peak_resident_kib: process::peak_resident_kib(), ..begun.tool },
            verdict,
            vcpus,
            evidence: self.evidence,
            cases,
            resumed_from: self.resumed_from,
            facts: self.conclusion.facts,
            conclusion: self.conclusion.findings,
            ..begun
        };
        let restored = self.guard.take().map_or(Ok(0), Guard::restore);
        self.dir.write(store::RESULT, &result)?;
        self.dir.journal(&Entry::End)?;
        restored?;
        Ok(Finished { directory: self.dir.path().to_owned(), result, interrupted })
    }
}
