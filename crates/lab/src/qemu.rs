//! QEMU's command line, and watching over one QEMU.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::emulator::Emulator;
use crate::guest::{CONSOLE_FILE, HELLO_FILE, OUTPUT_FILE};
use crate::process::{Interrupt, end};
use crate::{Error, Options};
use hostfacts::affinity;

/// Name of the initramfs, beside QEMU's working directory.
pub const INITRAMFS: &str = "initramfs.cpio";
/// Name of the file with QEMU's own messages, beside its working directory.
pub const STDERR: &str = "qemu.stderr";

/// The most NUMA nodes that every kernel of the lab has room for (`CONFIG_NODES_SHIFT`).
pub const MOST_NODES: i64 = 4;

/// Kernel arguments of every boot.
///
/// `panic=-1` with `-no-reboot` ends QEMU at a panic. `loglevel=5` keeps warnings, lockups and traces on the console
/// and leaves out the boot chatter, which costs time on the serial port; /dev/kmsg has all of it, and a panic prints at
/// every level. The self-tests of the crypto layer alone are 20 s of virtual time on 6.1, 16 s on 6.12.
const KERNEL_ARGUMENTS: &str = "console=ttyAMA0 nokaslr panic=-1 loglevel=5 printk.time=1 audit=0 cryptomgr.notests \
                                raid=noautodetect";

/// Returns the arguments of QEMU. Paths other than the kernel's are relative to its working directory, the staging
/// directory, so that they are the same in every run.
pub fn arguments(options: &Options, kernel: &Path) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(OsString::from));
    add(&["-machine", "virt,virtualization=on,gic-version=3,dtb-randomness=off"]);
    add(&["-cpu", &cpu(&options.cpu), "-smp", &options.smp.to_string(), "-m", &options.mem.to_string()]);
    for node in numa(options) {
        add(&["-object", &node.backend, "-numa", &node.topology]);
    }
    if let Some(shift) = options.time_scale {
        add(&["-icount", &format!("shift={shift},sleep=off")]);
    }
    add(&["-rtc", "clock=vm,base=2024-01-01", "-seed", "42"]);
    add(&["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
    add(&["-serial", &format!("file:{CONSOLE_FILE}")]);
    add(&["-semihosting-config", "enable=on,target=native,userspace=on"]);
    add(&["-initrd", &format!("../{INITRAMFS}"), "-append", &append(options), "-kernel"]);
    line.push(kernel.into());
    line.extend(options.qemu_args.iter().map(OsString::from));
    line
}

/// The arguments of `-object` and `-numa` for one node.
struct Node {
    backend: String,
    topology: String,
}

/// Splits memory and CPUs between the nodes, the first ones taking what does not divide; nothing where there is one
/// node. With fewer CPUs than nodes, the last nodes have memory alone.
fn numa(options: &Options) -> Vec<Node> {
    let nodes = options.nodes;
    let share = |whole: u32, node: u32| whole / nodes + u32::from(node < whole % nodes);
    let mut first_cpu = 0;
    let node = |node| {
        let cpus = share(options.smp, node);
        let range = format!(",cpus={first_cpu}-{}", first_cpu + cpus.saturating_sub(1));
        first_cpu += cpus;
        Node {
            backend: format!("memory-backend-ram,id=node{node},size={}M", share(options.mem, node)),
            topology: format!("node,nodeid={node},memdev=node{node}{}", if cpus > 0 { &range } else { "" }),
        }
    };
    (0..nodes).filter(|_| nodes > 1).map(node).collect()
}

/// Returns the kernel's command line.
fn append(options: &Options) -> String {
    match options.append.trim() {
        "" => KERNEL_ARGUMENTS.to_string(),
        more => format!("{KERNEL_ARGUMENTS} {more}"),
    }
}

/// `max` without SVE, whose state KVM would save, and with the cheap pointer authentication: QEMU's own algorithm costs
/// most of the boot.
fn cpu(name: &str) -> String {
    if name == "max" { "max,sve=off,pauth-impdef=on".into() } else { name.into() }
}

/// Says whether `name` can stand behind `-cpu`.
pub fn is_cpu_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ',' | '='))
}

/// How one QEMU came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It exited, successfully or not.
    Exited {
        /// Whether its exit code was 0.
        success: bool,
        /// "exit code 1" or "signal 9", for a message.
        status: String,
    },
    /// It was killed at the time limit.
    TimedOut,
    /// It was killed because the user wanted to stop.
    Interrupted,
}

/// Someone who wants to see what happens.
pub trait Audience {
    /// Init came up in the guest.
    fn booted(&self);
    /// The runner in the guest printed this.
    fn output(&self, bytes: &[u8]);
}

/// Returns the CPU of this host for a QEMU whose time is its instructions'. Its threads take turns there: on CPUs of their
/// own, which of the guest's instructions an event falls on is the host's luck now and then, and two equal runs differ.
pub fn host_cpu(worker: usize) -> usize {
    let cpus = affinity::allowed();
    // Labs beside this one begin with other CPUs.
    cpus[(std::process::id() as usize + worker) % cpus.len()]
}

/// Runs QEMU in `staging`, on one CPU of the host if that is given, until it ends, `limit` passes or the user interrupts.
///
/// # Errors
///
/// [`Error::MissingProgram`], [`Error::Start`] or [`Error::Results`].
pub fn supervise(
    emulator: &Emulator,
    arguments: &[OsString],
    cpu: Option<usize>,
    staging: &Path,
    limit: Duration,
    interrupt: &Interrupt,
    audience: &dyn Audience,
) -> Result<Ending, Error> {
    let stderr_path = staging.join("..").join(STDERR);
    let stderr = File::create(&stderr_path).map_err(|error| Error::results(&stderr_path, error))?;
    let mut command = emulator.command();
    command.args(arguments).current_dir(staging).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    // In a group of its own, QEMU does not see the terminal's Ctrl-C: it is ended here, after which results are kept.
    command.process_group(0);
    // SAFETY: between fork and exec only prctl(PR_SET_PDEATHSIG) and sched_setaffinity are called, which are
    // async-signal-safe and write to no memory. The first keeps QEMU from outliving a runner that was killed by SIGKILL.
    unsafe {
        command.pre_exec(move || {
            // A CPU that has gone since is no reason not to run.
            let _ = cpu.map(|cpu| affinity::pin(None, cpu));
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)
        });
    }
    let started = Instant::now();
    let mut child = command.spawn().map_err(|error| emulator.start_error(error))?;
    let mut tail = Tail::new(staging);
    loop {
        let exited = child.try_wait();
        tail.advance(audience);
        match exited {
            Ok(Some(status)) => return Ok(Ending::Exited { success: status.success(), status: describe(status) }),
            Ok(None) => {}
            Err(error) => {
                end(&mut child);
                return Err(emulator.start_error(error));
            }
        }
        let ending = if interrupt.tick().is_err() {
            Some(Ending::Interrupted)
        } else {
            (started.elapsed() > limit).then_some(Ending::TimedOut)
        };
        if let Some(ending) = ending {
            end(&mut child);
            tail.advance(audience);
            return Ok(ending);
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".into(),
    }
}

/// Follows what the guest's init puts into the staging directory.
struct Tail {
    hello: PathBuf,
    output: PathBuf,
    told_boot: bool,
    read_bytes: u64,
}

impl Tail {
    fn new(staging: &Path) -> Self {
        Self { hello: staging.join(HELLO_FILE), output: staging.join(OUTPUT_FILE), told_boot: false, read_bytes: 0 }
    }

    fn advance(&mut self, audience: &dyn Audience) {
        if !self.told_boot && self.hello.exists() {
            self.told_boot = true;
            audience.booted();
        }
        if let Ok(fresh) = self.read_on()
            && !fresh.is_empty()
        {
            audience.output(&fresh);
        }
    }

    fn read_on(&mut self) -> io::Result<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(options: &Options) -> String {
        Emulator::named(&options.qemu).shell_line(&arguments(options, Path::new("/k/Image")))
    }

    #[test]
    fn scaled_time_is_counted_and_seeded() {
        let text = line(&Options { time_scale: Some(5), ..Options::for_kernel("debian:6.1") });
        for part in [
            "-machine virt,virtualization=on,gic-version=3,dtb-randomness=off",
            "-cpu neoverse-n1 -smp 2 -m 4096",
            "-icount shift=5,sleep=off",
            "-rtc clock=vm,base=2024-01-01 -seed 42",
            "-no-reboot",
            "nokaslr panic=-1",
            "-kernel /k/Image",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn without_a_scale_nothing_is_counted() {
        assert!(!line(&Options::for_kernel("debian:6.1")).contains("icount"));
    }

    #[test]
    fn nodes_share_memory_and_cpus() {
        assert!(!line(&Options::for_kernel("debian:6.1")).contains("numa"));
        let two = line(&Options { nodes: 2, ..Options::for_kernel("debian:6.1") });
        for part in [
            "-object memory-backend-ram,id=node0,size=2048M -numa node,nodeid=0,memdev=node0,cpus=0-0",
            "-object memory-backend-ram,id=node1,size=2048M -numa node,nodeid=1,memdev=node1,cpus=1-1",
        ] {
            assert!(two.contains(part), "{part} is not in {two}");
        }
        let odd = line(&Options { nodes: 3, smp: 2, mem: 1000, ..Options::for_kernel("debian:6.1") });
        for part in ["id=node0,size=334M", "id=node1,size=333M", "id=node2,size=333M -numa node,nodeid=2,memdev=node2 "]
        {
            assert!(odd.contains(part), "{part} is not in {odd}");
        }
        assert!(line(&Options { nodes: 2, smp: 3, ..Options::for_kernel("debian:6.1") }).contains("cpus=0-1 "));
    }

    #[test]
    fn additions_come_last_and_quoted() {
        let options = Options {
            append: "kvm-arm.mode=nvhe".into(),
            qemu_args: vec!["-plugin".into(), "/p/it's.so".into()],
            cpu: "max".into(),
            ..Options::for_kernel("debian:6.1")
        };
        let text = line(&options);
        assert!(text.contains("raid=noautodetect kvm-arm.mode=nvhe'"), "{text}");
        assert!(text.contains("-cpu max,sve=off,pauth-impdef=on"), "{text}");
        assert!(text.ends_with("-plugin '/p/it'\\''s.so'"), "{text}");
    }

    #[test]
    fn cpu_names() {
        assert!(is_cpu_name("neoverse-n1") && is_cpu_name("max,lpa2=off"));
        assert!(!is_cpu_name("") && !is_cpu_name("-device") && !is_cpu_name("n1 -device x"));
    }
}
