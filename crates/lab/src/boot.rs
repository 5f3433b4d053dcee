//! Boots prepared kernels, and turns what they leave into run directories.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hostfacts::interrupt::Interrupt;
use jiff::Timestamp;
use record::provenance::{LabCommands, Provenance};

use crate::collect::{self, CloseRun, Times};
use crate::digest::sum;
use crate::end::{Evidence, HostEnd};
use crate::error::Error;
use crate::kernel::config;
use crate::kernel::resolve::Kernel;
use crate::kernel::store::FACTS as KERNEL_FACTS;
use crate::options::Options;
use crate::prepare::{Contents, PreparedBoot};
use crate::progress::{Progress, ProgressLine};
use crate::qemu::command_line;
use crate::qemu::emulator::Emulator;
use crate::qemu::supervise::{Launch, QemuEnd, cpu_of};
use crate::work_dir::INITRAMFS;

/// One boot of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Boot {
    /// The kernel, as it is named in [`Options::kernel`].
    pub kernel: String,
    /// The directory with everything that left the emulated host. Only a dry run has none.
    pub run_dir: Option<PathBuf>,
    /// The end of the emulated host. Only a dry run has none.
    pub end: Option<HostEnd>,
    /// Files that could not be copied out of the emulated host, one line each.
    pub lost: Vec<String>,
    /// Reason for which the kernel could not be had, and did not boot.
    pub absent: Option<String>,
    /// Requests of the user that this kernel cannot meet, one line each.
    pub(crate) notes: Vec<String>,
    /// Wall-clock time from QEMU's start to its end, in seconds.
    pub seconds: f64,
    /// The files that ran, and the commands that repeat the boot.
    pub provenance: Provenance,
}

impl Boot {
    /// Returns the boot of a kernel that cannot be had.
    pub(crate) fn absent(kernel: &str, why: &Error) -> Self {
        Self { absent: Some(why.to_string()), ..Self::dry(kernel) }
    }

    /// Returns the boot of a dry run.
    pub(crate) fn dry(kernel: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            run_dir: None,
            end: None,
            absent: None,
            lost: Vec::new(),
            notes: Vec::new(),
            seconds: 0.0,
            provenance: Provenance::default(),
        }
    }
}

/// The parts of a boot that all prepared kernels have in common.
pub struct Lab<'a> {
    /// The user's options.
    pub options: &'a Options,
    /// The directory for run directories.
    pub results: &'a Path,
    /// The QEMU.
    pub emulator: &'a Emulator,
    /// The user's wish to stop.
    pub interrupt: &'a Interrupt,
    /// The function that closes runs that died.
    pub close_run: CloseRun<'a>,
    /// The contents of the initramfs.
    pub contents: &'a Contents,
}

impl Lab<'_> {
    /// Boots the kernels and returns their boots in the same order.
    ///
    /// With a time scale, results do not depend on other load. Then one QEMU runs on each CPU of this machine;
    /// otherwise they run one after another.
    ///
    /// # Errors
    ///
    /// The first error of a boot, after which no new one begins.
    pub fn boot_all(&self, prepared: &[PreparedBoot], progress: &Progress) -> Result<Vec<Boot>, Error> {
        let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = if self.options.time_scale.is_some() { cpus.min(prepared.len()) } else { 1 };
        let next = AtomicUsize::new(0);
        let work = |worker: usize| {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(prepared) = prepared.get(index) else { return done };
                let boot = self.boot(prepared, worker, &progress.line(&prepared.kernel.name));
                let failed = boot.is_err();
                done.push((index, boot));
                if failed {
                    return done;
                }
            }
        };
        let mut boots: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("a worker aborts instead of unwinding"))
                .collect()
        });
        boots.sort_by_key(|(index, _)| *index);
        boots.into_iter().map(|(_, boot)| boot).collect()
    }

    fn arguments(&self, kernel: &Kernel) -> Vec<OsString> {
        command_line::arguments(self.options, &kernel.image, kernel.argument.as_deref())
    }

    fn boot(&self, prepared: &PreparedBoot, worker: usize, line: &ProgressLine<'_>) -> Result<Boot, Error> {
        self.interrupt.check()?;
        let arguments = self.arguments(&prepared.kernel);
        line.print_if_verbose(&self.emulator.shell_line(&arguments));
        line.show("booting");
        let launch = Launch {
            emulator: self.emulator,
            arguments: &arguments,
            cpu: self.options.time_scale.map(|_| cpu_of(worker)),
            work_dir: &prepared.work_dir,
            limit: Duration::from_secs(self.options.qemu_timeout),
        };
        let (started, clock) = (Timestamp::now(), Instant::now());
        let qemu = launch.supervise(self.interrupt, line);
        let seconds = clock.elapsed().as_secs_f64();
        line.finish();
        let qemu = qemu?;
        // This comes before anything is deleted, because later there may be space again.
        let full = collect::is_full(self.results, &prepared.work_dir.staging());
        let boot = self.collect(prepared, &qemu, Times { started, finished: Timestamp::now() })?;
        boot.notes.iter().for_each(|note| line.print(&format!("note: {note}")));
        boot.lost.iter().for_each(|loss| line.print(&format!("lost: {loss}")));
        if full || qemu == QemuEnd::Interrupted {
            // The error below does not name the run directory.
            line.print(&boot.run_dir.as_deref().unwrap_or(self.results).display().to_string());
        }
        match qemu {
            QemuEnd::Interrupted => Err(Error::Interrupted),
            _ if full => Err(Error::DiskFull(self.results.to_owned())),
            _ => Ok(Boot { seconds, ..boot }),
        }
    }

    /// Makes a run directory of the staging directory, and concludes the end of the emulated host.
    fn collect(&self, prepared: &PreparedBoot, qemu: &QemuEnd, times: Times) -> Result<Boot, Error> {
        let PreparedBoot { kernel, work_dir } = prepared;
        let staging = work_dir.staging();
        let reports = collect::take_reports(&staging);
        let stderr = fs::read(work_dir.stderr()).unwrap_or_default();
        let evidence = Evidence {
            booted: reports.boot.is_some(),
            exit: reports.exit.as_ref().map(|report| report.exit),
            qemu,
            console: &reports.console,
            stderr: &String::from_utf8_lossy(&stderr),
        };
        let end = evidence.conclude();
        let release = reports.boot.map(|report| report.release).or_else(|| kernel.release.clone());
        let run_dir = collect::publish(&staging, self.results, release.as_deref().unwrap_or("unknown"), times)?;
        collect::close(&run_dir, &end, times, self.close_run);
        if self.options.keep {
            self.keep(prepared, &run_dir).map_err(|error| Error::results(&run_dir, error))?;
        }
        let (lost, notes) = reports.exit.map(|report| (report.lost, report.notes)).unwrap_or_default();
        // The file is for readers. A run is complete without it.
        let _ = fs::copy(kernel.image.with_file_name(KERNEL_FACTS), run_dir.join(KERNEL_FACTS));
        let name = kernel.name.clone();
        let provenance = self.provenance(kernel);
        Ok(Boot {
            kernel: name,
            run_dir: Some(run_dir),
            end: Some(end),
            absent: None,
            lost,
            notes,
            seconds: 0.0,
            provenance,
        })
    }

    fn provenance(&self, kernel: &Kernel) -> Provenance {
        let sha256 = |bytes: &[u8]| sum(bytes).ok().map(|sum| sum.sha256);
        let image = fs::File::open(&kernel.image).and_then(sum).ok();
        let config = config::of(&kernel.image, kernel.release.as_deref());
        Provenance {
            kernel_sha256: image.map(|sum| sum.sha256),
            config_sha256: config.and_then(|text| sha256(&text)),
            payload_sha256: None,
            runner_sha256: sha256(&self.contents.runner),
            lab: Some(LabCommands {
                typed: std::env::args().skip(1).collect(),
                repeat: self.options.words(&kernel.name, &self.contents.argv),
                qemu: self.emulator.shell_line(&self.arguments(kernel)),
            }),
        }
    }

    /// Moves the initramfs to `<run directory>.lab`, and writes the command line there.
    fn keep(&self, prepared: &PreparedBoot, run_dir: &Path) -> io::Result<()> {
        let mut beside = run_dir.as_os_str().to_owned();
        beside.push(".lab");
        let beside = PathBuf::from(beside);
        fs::create_dir(&beside)?;
        fs::rename(prepared.work_dir.initramfs(), beside.join(INITRAMFS))?;
        // The command line expects that QEMU runs in a subdirectory.
        let line = self.emulator.shell_line(&self.arguments(&prepared.kernel));
        fs::write(beside.join("qemu.sh"), format!("#!/bin/sh\nmkdir -p run && cd run && exec {line}\n"))
    }
}
