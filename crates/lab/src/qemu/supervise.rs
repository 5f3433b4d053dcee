//! Supervises one QEMU until it ends.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hostfacts::affinity;
use hostfacts::interrupt::Interrupt;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::error::Error;
use crate::init::protocol::{BOOT_REPORT_FILE, OUTPUT_FILE};
use crate::process::kill;
use crate::qemu::emulator::Emulator;
use crate::work_dir::WorkDir;

/// The end of one QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuEnd {
    /// It exited with code 0.
    Succeeded,
    /// It exited with this status, such as "exit code 1" or "signal 9".
    Failed(String),
    /// It was killed at the time limit.
    TimedOut,
    /// It was killed because the user interrupted.
    Interrupted,
}

/// An observer of an emulated host while it runs.
pub trait BootObserver {
    /// Reports that init has started.
    fn booted(&self);
    /// Reports bytes that the runner printed.
    fn output(&self, bytes: &[u8]);
}

/// Returns the CPU of this machine that the QEMU of `worker` is pinned to, if its time is instruction time.
///
/// On one CPU, QEMU's threads take turns. On several CPUs, chance decides at which emulated instruction an interrupt
/// arrives, and two equal runs differ now and then.
pub fn cpu_of(worker: usize) -> usize {
    let cpus = affinity::allowed();
    // Another lab on this machine has another process id, and so begins with another CPU.
    cpus[(std::process::id() as usize + worker) % cpus.len()]
}

/// A QEMU to start.
pub struct Launch<'a> {
    /// The program.
    pub emulator: &'a Emulator,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// The CPU of this machine that it is pinned to, or none.
    pub cpu: Option<usize>,
    /// The directory whose staging directory it runs in.
    pub work_dir: &'a WorkDir,
    /// The time limit.
    pub limit: Duration,
}

impl Launch<'_> {
    /// Runs QEMU until it ends, the limit passes, or the user interrupts.
    ///
    /// # Errors
    ///
    /// [`Error::MissingProgram`], [`Error::Start`], [`Error::Results`] or [`Error::DiskFull`].
    pub fn supervise(&self, interrupt: &Interrupt, observer: &dyn BootObserver) -> Result<QemuEnd, Error> {
        let mut child = self.spawn()?;
        let started = Instant::now();
        let mut follower = Follower::new(&self.work_dir.staging());
        loop {
            let exited = child.try_wait();
            follower.advance(observer);
            match exited {
                Ok(Some(status)) if status.success() => return Ok(QemuEnd::Succeeded),
                Ok(Some(status)) => return Ok(QemuEnd::Failed(describe(status))),
                Ok(None) => {}
                Err(error) => {
                    kill(&mut child);
                    return Err(self.emulator.start_error(error));
                }
            }
            let end = if interrupt.wait().is_err() {
                Some(QemuEnd::Interrupted)
            } else {
                (started.elapsed() > self.limit).then_some(QemuEnd::TimedOut)
            };
            if let Some(end) = end {
                kill(&mut child);
                follower.advance(observer);
                return Ok(end);
            }
        }
    }

    fn spawn(&self) -> Result<Child, Error> {
        let stderr_path = self.work_dir.stderr();
        let stderr = File::create(&stderr_path).map_err(|error| Error::results(&stderr_path, error))?;
        let mut command = self.emulator.command();
        command.args(self.arguments).current_dir(self.work_dir.staging());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // In a process group of its own, QEMU does not get the terminal's Ctrl-C. `supervise` ends it, and the results
        // are kept.
        command.process_group(0);
        let cpu = self.cpu;
        // SAFETY: between fork and exec only prctl(PR_SET_PDEATHSIG) and sched_setaffinity are called, which are
        // async-signal-safe and write to no memory. The first keeps QEMU from outliving a runner that was killed by
        // SIGKILL.
        unsafe {
            command.pre_exec(move || {
                // The CPU may have gone offline since. Then QEMU runs unpinned.
                let _ = cpu.map(|cpu| affinity::pin(None, cpu));
                set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)
            });
        }
        command.spawn().map_err(|error| self.emulator.start_error(error))
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".into(),
    }
}

/// A reader of the files that init puts into the staging directory.
struct Follower {
    boot_report: PathBuf,
    output: PathBuf,
    saw_boot: bool,
    read_bytes: u64,
}

impl Follower {
    fn new(staging: &Path) -> Self {
        Self {
            boot_report: staging.join(BOOT_REPORT_FILE),
            output: staging.join(OUTPUT_FILE),
            saw_boot: false,
            read_bytes: 0,
        }
    }

    /// Reports to `observer` what is new since the last call.
    fn advance(&mut self, observer: &dyn BootObserver) {
        if !self.saw_boot && self.boot_report.exists() {
            self.saw_boot = true;
            observer.booted();
        }
        if let Ok(fresh) = self.new_output()
            && !fresh.is_empty()
        {
            observer.output(&fresh);
        }
    }

    fn new_output(&mut self) -> io::Result<Vec<u8>> {
        if fs::metadata(&self.output)?.len() <= self.read_bytes {
            return Ok(Vec::new());
        }
        let mut file = File::open(&self.output)?;
        file.seek(SeekFrom::Start(self.read_bytes))?;
        let mut fresh = Vec::new();
        self.read_bytes += file.read_to_end(&mut fresh)? as u64;
        Ok(fresh)
    }
}
