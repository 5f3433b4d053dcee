//! The emulated lab: the same static runner inside an arm64 Linux under QEMU with EL2.
//!
//! [`run`] makes each kernel ready (fetched, built or given), puts the runner into an initramfs, boots, streams what
//! the runner prints, and brings the run directory out as it grows, so that a guest that panics or hangs loses
//! nothing. Inside the guest, [`guest`] is process 1.

mod apt;
mod cache;
pub mod cmo;
mod collect;
mod console;
mod debian;
mod emulator;
mod error;
pub mod guest;
mod image;
mod initramfs;
mod kernel;
mod modules;
mod package;
pub mod policy;
mod process;
mod progress;
mod qemu;

use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tempfile::TempDir;

pub use crate::collect::{Closer, cause, rescue};
pub use crate::console::GuestExit;
pub use crate::emulator::{Choice as Qemu, Emulator, OWN as OWN_QEMU};
pub use crate::error::Error;
use crate::guest::{Manifest, SwapOrder};
use crate::kernel::{Kernel, Spec};
use crate::modules::Supply;
pub use crate::process::{Interrupt, TICK};
use crate::progress::{Lane, Screen};
pub use crate::progress::{Output, Volume};
use crate::qemu::Ending;
use record::machine::LabFacts;
use units::size::Size;

/// The smallest swap: a few pages of any size beside its header.
const MIN_SWAP: Size = Size(1 << 20);

/// Which kernels to boot, and on what.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Kernels to boot: debian:6.1, debian:6.12, debian:6.12-16k, an exact Debian release, policy:NAME, or the path of
    /// an arm64 Image; several with commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "KERNEL,…")]
    pub kernel: Vec<String>,
    /// Directory that receives one run directory for each kernel
    #[arg(long, default_value = "results", value_name = "DIR")]
    pub results: PathBuf,
    /// CPU model that QEMU emulates
    #[arg(long, default_value = "neoverse-n1", value_name = "MODEL")]
    pub cpu: String,
    /// CPUs of the emulated machine
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: u32,
    /// Memory of the emulated machine, in MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB", value_parser = clap::value_parser!(u32).range(256..))]
    pub mem: u32,
    /// NUMA nodes that the CPUs and the memory are split between
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=qemu::MOST_NODES))]
    pub nodes: u32,
    /// Swap inside, to memory that is compressed (zram)
    #[arg(long, value_name = "SIZE")]
    pub swap: Option<Size>,
    /// Let every instruction take 2^N ns of virtual time, which makes results repeatable; without it time is the host's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=10))]
    pub time_scale: Option<u8>,
    /// More arguments for the emulated kernel
    #[arg(long, default_value = "", value_name = "ARGS", allow_hyphen_values = true)]
    pub append: String,
    /// Source tree that policy:NAME kernels are built from, in place of Debian's linux-source-6.12
    #[arg(long, value_name = "DIR")]
    pub linux: Option<PathBuf>,
    /// Count every cache maintenance instruction by a TCG plugin, and put the counts beside the predictions
    #[arg(long)]
    pub count: bool,
    /// Put this file or directory into the guest, under its own name in the directory where the runner starts
    #[arg(long, value_name = "PATH")]
    pub with: Vec<PathBuf>,
    /// Print QEMU's command line for each kernel and do nothing else
    #[arg(long)]
    pub dry_run: bool,
    /// Keep the initramfs and QEMU's command line beside the run directory
    #[arg(long)]
    pub keep: bool,
    /// End a guest that has not ended after this many seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub qemu_timeout: u64,
    /// One more argument for QEMU
    #[arg(long = "qemu-arg", hide = true, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_args: Vec<String>,
    /// The QEMU to use: a program, or a major version such as 10, which is the machine's own if that is at least as new,
    /// else Debian's backport, unpacked into the cache
    #[arg(long, default_value = emulator::OWN, value_name = "PROGRAM|VERSION")]
    pub qemu: Qemu,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub volume: Volume,
    /// An accident inside the guest, for tests: see lab/guest/hooks.rs
    #[arg(long, hide = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub guest_hook: Vec<(String, String)>,
    /// Static arm64 runner to put into the guest, in place of the one that was built with this program
    #[arg(long, hide = true, value_name = "FILE")]
    pub guest_runner: Option<PathBuf>,
}

impl Options {
    /// Returns the defaults of the command line for one kernel.
    pub fn for_kernel(kernel: &str) -> Self {
        Self {
            kernel: vec![kernel.to_string()],
            results: "results".into(),
            cpu: "neoverse-n1".into(),
            smp: 2,
            mem: 4096,
            nodes: 1,
            swap: None,
            time_scale: None,
            append: String::new(),
            linux: None,
            count: false,
            with: Vec::new(),
            dry_run: false,
            keep: false,
            qemu_timeout: 600,
            qemu_args: Vec::new(),
            qemu: Qemu::default(),
            volume: Volume::default(),
            guest_hook: Vec::new(),
            guest_runner: None,
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), &'static str> {
    text.split_once('=').map(|(key, value)| (key.into(), value.into())).ok_or("KEY=VALUE expected")
}

/// What became of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The kernel, as it was named in [`Options::kernel`].
    pub kernel: String,
    /// Its release, from the running kernel, or else from the banner in its Image.
    pub release: Option<String>,
    /// Where everything that came out of the guest is; none only after a dry run.
    pub run_dir: Option<PathBuf>,
    /// How the guest ended; none only after a dry run.
    pub exit: Option<GuestExit>,
    /// What could not be carried out of the guest, one line each; empty in a good run.
    pub lost: Vec<String>,
    /// What was asked for and this kernel does not have, one line each.
    pub notes: Vec<String>,
    /// Wall-clock time from QEMU's start to its end, in seconds.
    pub seconds: f64,
}

/// Boots every kernel of `options` and runs the runner with `argv` inside.
///
/// Outcomes come in the order of [`Options::kernel`]. With a time scale, one QEMU needs one CPU, so as many run at
/// once as the host has CPUs; the results do not depend on it. Without one they run one after another.
///
/// # Errors
///
/// What keeps the lab itself from working, see [`Error`]. After [`Error::Interrupted`] and [`Error::DiskFull`] what
/// the guests had written is kept in run directories.
pub fn run(options: &Options, argv: &[OsString], closer: Closer<'_>) -> Result<Vec<Outcome>, Error> {
    let specs = parse(options)?;
    let options = &with_plugin(options)?;
    if options.dry_run {
        return Ok(dry_run(options, &specs));
    }
    let interrupt = Interrupt::catch();
    let runner = initramfs::runner(options.guest_runner.as_deref())?;
    let screen = Screen::new(options.volume, options.kernel.iter().map(String::as_str));
    let emulator = find(&options.qemu, &interrupt, &screen)?;
    let manifest = manifest(options, &emulator, argv)?;
    fs::create_dir_all(&options.results).map_err(|error| Error::results(&options.results, error))?;
    let results = options.results.canonicalize().map_err(|error| Error::results(&options.results, error))?;
    for path in rescue(&results) {
        eprintln!("faultline: {} is of a lab that was killed; faultline recover closes it", path.display());
    }
    let files: Vec<_> = options.with.iter().map(|path| initramfs::File::read(path)).collect::<Result<_, _>>()?;
    let files = files.into_iter().flatten().collect();
    let lab = Lab { options, emulator, runner, manifest, files, results, interrupt: &interrupt, closer };
    let mut ready = Vec::new();
    for (name, spec) in options.kernel.iter().zip(&specs) {
        ready.push(lab.prepare(name, spec, &screen.lane(name))?);
    }
    lab.boot_all(ready, &screen)
}

/// Finds the QEMU of a choice, fetching it if it is in neither machine nor cache.
///
/// # Errors
///
/// As [`Emulator::find`].
pub fn emulator(choice: &Qemu, volume: Volume) -> Result<Emulator, Error> {
    find(choice, &Interrupt::catch(), &Screen::new(volume, std::iter::empty()))
}

fn find(choice: &Qemu, interrupt: &Interrupt, screen: &Screen) -> Result<Emulator, Error> {
    let lane = screen.lane("QEMU");
    let found = Emulator::find(choice, interrupt, &|text| lane.stage(text));
    lane.finish();
    found
}

fn parse(options: &Options) -> Result<Vec<Spec>, Error> {
    if !qemu::is_cpu_name(&options.cpu) {
        return Err(Error::Cpu(options.cpu.clone()));
    }
    if let Some(size) = options.swap.filter(|size| *size < MIN_SWAP) {
        return Err(Error::Swap(size));
    }
    options.kernel.iter().map(|name| name.parse()).collect()
}

/// Adds the counting plugin to QEMU's arguments where it is asked for; its file lands among the guest's.
fn with_plugin(options: &Options) -> Result<Options, Error> {
    let mut options = options.clone();
    if options.count {
        let own = std::env::current_exe().unwrap_or_default();
        let path = own.with_file_name("libcmo_plugin.so");
        // QEMU splits the argument at commas.
        if !path.exists() || path.to_string_lossy().contains(',') {
            return Err(Error::NoPlugin(path));
        }
        let argument = format!("{},out={}", path.display(), cmo::COUNTS);
        options.qemu_args.extend(["-plugin".into(), argument]);
    }
    Ok(options)
}

fn dry_run(options: &Options, specs: &[Spec]) -> Vec<Outcome> {
    let line = |name: &String, spec: &Spec| {
        let image = match spec {
            Spec::Path(path) => path.clone(),
            _ => PathBuf::from(format!("<Image of {name}>")),
        };
        println!("{}", Emulator::named(&options.qemu).shell_line(&qemu::arguments(options, &image)));
        Outcome {
            kernel: name.clone(),
            release: None,
            run_dir: None,
            exit: None,
            lost: Vec::new(),
            notes: Vec::new(),
            seconds: 0.0,
        }
    };
    options.kernel.iter().zip(specs).map(|(name, spec)| line(name, spec)).collect()
}

/// Describes the run to the guest. Nothing in it may differ between two runs of the same.
fn manifest(options: &Options, emulator: &Emulator, argv: &[OsString]) -> Result<Manifest, Error> {
    let text =
        |argument: &OsString| argument.to_str().map(String::from).ok_or_else(|| Error::Argument(argument.clone()));
    let lab = LabFacts {
        emulator: emulator.name(),
        cpu: options.cpu.clone(),
        smp: options.smp,
        nodes: options.nodes,
        swap: options.swap,
        no_swap: None,
        time_scale: options.time_scale,
        counting: options.count,
        kernel: None,
    };
    let hooks = options.guest_hook.iter().cloned().collect();
    Ok(Manifest { argv: argv.iter().map(text).collect::<Result<_, _>>()?, lab, swap: None, hooks })
}

/// Says how init is to set up `swap` with the modules that there are for this kernel, and returns these as files.
fn swap_order(swap: Option<Size>, supply: Option<&Supply>) -> (Option<SwapOrder>, Vec<initramfs::File>) {
    let (modules, no_modules) = match supply {
        Some(Supply::Loadable(modules)) => (modules.iter().map(initramfs::File::module).collect(), None),
        Some(Supply::Nothing(why)) => (Vec::new(), Some(why.clone())),
        None => (Vec::new(), None),
    };
    let paths = modules.iter().map(initramfs::File::guest_path).collect();
    (swap.map(|size| SwapOrder { bytes: size.0, modules: paths, no_modules }), modules)
}

/// A kernel and the directory in the results that it boots in.
struct Ready {
    kernel: Kernel,
    work: TempDir,
    /// Says that somebody is at work in there.
    _lock: fs::File,
}

struct Lab<'a> {
    options: &'a Options,
    emulator: Emulator,
    runner: Vec<u8>,
    manifest: Manifest,
    files: Vec<initramfs::File>,
    results: PathBuf,
    interrupt: &'a Interrupt,
    closer: Closer<'a>,
}

impl Lab<'_> {
    fn prepare(&self, name: &str, spec: &Spec, lane: &Lane<'_>) -> Result<Ready, Error> {
        let work = tempfile::Builder::new()
            .prefix(collect::WORK_PREFIX)
            .tempdir_in(&self.results)
            .map_err(|error| Error::results(&self.results, error))?;
        let lock = collect::lock(work.path()).map_err(|error| Error::results(work.path(), error))?;
        let modules = if self.options.swap.is_some() { kernel::Modules::ForSwap } else { kernel::Modules::Unwanted };
        let linux = self.options.linux.as_deref();
        let kernel = kernel::resolve(name, spec, modules, linux, work.path(), self.interrupt, &|text| lane.stage(text));
        lane.finish();
        let kernel = kernel?;
        self.interrupt.check()?;
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |error| Error::results(path, error)
        };
        let staging = work.path().join(guest::RUN_NAME);
        fs::create_dir(&staging).map_err(failed(&staging))?;
        let initramfs = work.path().join(qemu::INITRAMFS);
        let (swap, modules) = swap_order(self.options.swap, kernel.supply.as_ref());
        // Policy kernels all have one release: the name tells them apart.
        let lab = LabFacts { kernel: Some(name.into()), ..self.manifest.lab.clone() };
        let manifest = Manifest { swap, lab, ..self.manifest.clone() };
        let files: Vec<_> = self.files.iter().cloned().chain(modules).collect();
        let archive = initramfs::write(Vec::new(), &self.runner, &manifest, &files).map_err(failed(&initramfs))?;
        fs::write(&initramfs, archive).map_err(failed(&initramfs))?;
        Ok(Ready { kernel, work, _lock: lock })
    }

    /// Boots the kernels, several at a time where that changes nothing.
    fn boot_all(&self, ready: Vec<Ready>, screen: &Screen) -> Result<Vec<Outcome>, Error> {
        let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = if self.options.time_scale.is_some() { cpus.min(ready.len()) } else { 1 };
        let next = AtomicUsize::new(0);
        let work = |worker: usize| {
            let mut done = Vec::new();
            while let Some((index, ready)) =
                { Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, ready.get(i)?))) }
            {
                let outcome = self.boot(ready, worker, &screen.lane(&ready.kernel.name));
                let stop = outcome.is_err();
                done.push((index, outcome));
                if stop {
                    break;
                }
            }
            done
        };
        let mut outcomes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("a worker aborts instead of unwinding"))
                .collect()
        });
        outcomes.sort_by_key(|(index, _)| *index);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    fn boot(&self, ready: &Ready, worker: usize, lane: &Lane<'_>) -> Result<Outcome, Error> {
        self.interrupt.check()?;
        let staging = ready.work.path().join(guest::RUN_NAME);
        let arguments = qemu::arguments(self.options, &ready.kernel.image);
        let limit = Duration::from_secs(self.options.qemu_timeout);
        lane.detail(&self.emulator.shell_line(&arguments));
        lane.stage("booting");
        let (started, clock) = (Timestamp::now(), Instant::now());
        let cpu = self.options.time_scale.map(|_| qemu::host_cpu(worker));
        let ending = qemu::supervise(&self.emulator, &arguments, cpu, &staging, limit, self.interrupt, lane);
        let seconds = clock.elapsed().as_secs_f64();
        lane.finish();
        let ending = ending?;
        // Before anything is cleared away; later there may be room again.
        let full = collect::is_full(&self.results, &staging);
        let outcome = self.collect(ready, &staging, &ending, collect::Times { started, finished: Timestamp::now() })?;
        outcome.notes.iter().for_each(|note| lane.line(&format!("note: {note}")));
        outcome.lost.iter().for_each(|loss| lane.line(&format!("lost: {loss}")));
        if full || matches!(ending, Ending::Interrupted) {
            // No outcome will say where it is.
            lane.line(&outcome.run_dir.as_deref().unwrap_or(&self.results).display().to_string());
        }
        match ending {
            Ending::Interrupted => Err(Error::Interrupted),
            _ if full => Err(Error::DiskFull(self.results.clone())),
            _ => Ok(Outcome { seconds, ..outcome }),
        }
    }

    /// Makes a run directory of what came out, and says how the guest ended.
    fn collect(&self, ready: &Ready, staging: &Path, ending: &Ending, times: collect::Times) -> Result<Outcome, Error> {
        let marks = collect::take_marks(staging);
        let stderr = fs::read(ready.work.path().join(qemu::STDERR)).unwrap_or_default();
        let exit = console::classify(&console::Signs {
            booted: marks.hello.is_some(),
            exit: marks.farewell.as_ref().map(|farewell| farewell.exit),
            ending,
            console: &marks.console,
            stderr: &String::from_utf8_lossy(&stderr),
        });
        let release = marks.hello.map(|hello| hello.release).or_else(|| ready.kernel.info.release.clone());
        let run_dir = collect::publish(staging, &self.results, release.as_deref().unwrap_or("unknown"), times)?;
        collect::close(&run_dir, &exit, times, self.closer);
        if self.options.keep {
            self.keep(ready, &run_dir).map_err(|error| Error::results(&run_dir, error))?;
        }
        let (lost, notes) = marks.farewell.map(|farewell| (farewell.lost, farewell.notes)).unwrap_or_default();
        Ok(Outcome {
            kernel: ready.kernel.name.clone(),
            release,
            run_dir: Some(run_dir),
            exit: Some(exit),
            lost,
            notes,
            seconds: 0.0,
        })
    }

    /// Leaves the initramfs and the command line in `<run directory>.lab`.
    fn keep(&self, ready: &Ready, run_dir: &Path) -> std::io::Result<()> {
        let mut beside = run_dir.as_os_str().to_owned();
        beside.push(".lab");
        let beside = PathBuf::from(beside);
        fs::create_dir(&beside)?;
        fs::rename(ready.work.path().join(qemu::INITRAMFS), beside.join(qemu::INITRAMFS))?;
        // QEMU's working directory is a subdirectory, as the command line expects.
        let line = self.emulator.shell_line(&qemu::arguments(self.options, &ready.kernel.image));
        fs::write(beside.join("qemu.sh"), format!("#!/bin/sh\nmkdir -p run && cd run && exec {line}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::Module;

    #[test]
    fn swap_brings_its_modules_or_the_reason_why_not() {
        let module = |name: &str| Module { name: name.into(), contents: name.into() };
        let supply = Supply::Loadable(vec![module("zsmalloc"), module("zram")]);
        let (order, files) = swap_order(Some(Size(1 << 28)), Some(&supply));
        let paths = vec!["/modules/zsmalloc.ko".to_owned(), "/modules/zram.ko".to_owned()];
        assert_eq!(order, Some(SwapOrder { bytes: 1 << 28, modules: paths, no_modules: None }));
        assert_eq!(files.len(), 2);
        let (order, files) = swap_order(Some(Size(1 << 28)), Some(&Supply::Nothing("none".into())));
        assert_eq!(order.and_then(|order| order.no_modules).as_deref(), Some("none"));
        assert!(files.is_empty());
        assert_eq!(swap_order(None, None).0, None);
    }

    #[test]
    fn swap_without_room_is_refused() {
        let options = Options { swap: Some(Size(4096)), ..Options::for_kernel("debian:6.1") };
        assert!(parse(&options).is_err_and(|error| error.to_string().contains("--swap 4K is too small")));
        assert!(parse(&Options { swap: Some(MIN_SWAP), ..options }).is_ok());
    }
}
