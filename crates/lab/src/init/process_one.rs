//! The work of process 1.

use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use record::barrier::{ANSWER, ASK};
use record::machine::LAB_VARIABLE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::system::{RebootCommand, reboot, uname};

use crate::init::exporter::Exporter;
use crate::init::hooks::Hooks;
use crate::init::protocol::{
    BOOT_REPORT_FILE, BootReport, EXIT_REPORT_FILE, ExitReport, MANIFEST_PATH, Manifest, OUTPUT_FILE, RESULTS,
    RUN_NAME, RunnerExit,
};
use crate::init::semihost::{self, Semihost};
use crate::init::watch::Watch;
use crate::init::{console, swap};

/// Interval at which init checks the run directory on a kernel without inotify.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The mounts that the runner needs: file system, directory, and whether the lab can work without it.
const MOUNTS: &[(&str, &str, Need)] = &[
    ("devtmpfs", "/dev", Need::Required),
    ("proc", "/proc", Need::Required),
    ("sysfs", "/sys", Need::Required),
    ("tracefs", "/sys/kernel/tracing", Need::Optional),
    ("debugfs", "/sys/kernel/debug", Need::Optional),
    ("pstore", "/sys/fs/pstore", Need::Optional),
    ("tmpfs", "/tmp", Need::Required),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

/// Runs the runner, then ends QEMU, even after an error.
///
/// A power-off is only the second choice, because Linux first waits seconds of virtual time until the other CPUs stop.
pub fn run() -> ! {
    if let Err(error) = serve() {
        console::print(&format!("failed: {error}"));
    }
    semihost::exit();
    let error = reboot(RebootCommand::PowerOff).expect_err("power-off does not return");
    panic!("cannot power off: {error}");
}

fn serve() -> io::Result<()> {
    let mut exporter = Exporter::new(Semihost, &Path::new(RESULTS).join(RUN_NAME));
    let release = uname().release().to_string_lossy().into_owned();
    console::print(&format!("init on Linux {release}"));
    exporter.put(BOOT_REPORT_FILE, &json(&BootReport { release }))?;
    mount_all()?;
    run_ahead_of_the_runner();
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(MANIFEST_PATH)?)?;
    let notes = set_up_swap(&mut manifest);
    let mut hooks = Hooks::new(&manifest);
    let (flags, data) = hooks.mount();
    mount("tmpfs", RESULTS, "tmpfs", flags, data.as_deref())?;
    hooks.provoke();
    let barrier = Barrier::create()?;
    let (mut child, output) = spawn(&manifest, hooks.uid())?;
    let status = attend(&mut exporter, &mut child, output, &barrier, &mut hooks)?;
    // `finish` below tries again after a failure, and reports it.
    let _ = exporter.append(OUTPUT_FILE, &hooks.after_runner()?);
    let lost = exporter.finish();
    let report = ExitReport { exit: runner_exit(status), lost, notes, disk_was_full: exporter.disk_was_full() };
    exporter.put(EXIT_REPORT_FILE, &json(&report))?;
    console::print(&format!("runner ended: {status}"));
    Ok(())
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs of strings and numbers serialise")
}

fn mount_all() -> io::Result<()> {
    for &(kind, target, need) in MOUNTS {
        let outcome = fs::create_dir_all(target)
            .and_then(|()| mount(kind, target, kind, MountFlags::empty(), None).map_err(io::Error::from));
        match outcome {
            Err(error) if need == Need::Required && error.raw_os_error() != Some(libc::EBUSY) => {
                return Err(io::Error::new(error.kind(), format!("cannot mount {kind} on {target}: {error}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sets up the swap that the manifest asks for, and returns notes for the user.
///
/// Without swap the run continues. The notes, the console and the facts about the lab give the reason.
fn set_up_swap(manifest: &mut Manifest) -> Vec<String> {
    let Some(Err(why)) = manifest.swap.as_ref().map(swap::set_up) else { return Vec::new() };
    manifest.lab.no_swap = Some(why.to_string());
    let note = format!("no swap: {why}");
    console::print(&note);
    vec![note]
}

/// Puts init into the real-time scheduling class.
///
/// Init then copies the files of the runner before the runner continues with a step that may kill the kernel. Children
/// of init start in the normal class.
fn run_ahead_of_the_runner() {
    // musl's own sched_setscheduler only returns ENOSYS. The kernel's struct sched_param is one int, the priority.
    let parameter: libc::c_int = 1;
    // SAFETY: `parameter` outlives the call, which reads it and changes the scheduling class of this thread only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameter,
        )
    };
    if result != 0 {
        console::print(&format!("no real-time class for init: {}", io::Error::last_os_error()));
    }
}

fn spawn(manifest: &Manifest, uid: Option<u32>) -> io::Result<(Child, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("faultline")
        .args(&manifest.argv)
        .current_dir("/")
        .env_clear()
        .env("HOME", "/tmp")
        .env("PATH", "/")
        .env(LAB_VARIABLE, serde_json::to_string(&manifest.lab).unwrap_or_default())
        .env("FAULTLINE_RUN_NAME", RUN_NAME)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    Ok((command.spawn()?, reader))
}

/// Init's end of the runner's [barrier](record::barrier::barrier).
struct Barrier {
    ask: File,
    answer: File,
}

impl Barrier {
    fn create() -> io::Result<Self> {
        // Both FIFOs are open for reading and writing, so neither side waits for the other to open, or sees an end.
        let open = |path: &str| {
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            File::options().read(true).write(true).open(path)
        };
        Ok(Self { ask: open(ASK)?, answer: open(ANSWER)? })
    }
}

/// Copies output and files out of the emulated host until the runner has ended.
fn attend(
    exporter: &mut Exporter<Semihost>,
    child: &mut Child,
    output: PipeReader,
    barrier: &Barrier,
    hooks: &mut Hooks,
) -> io::Result<ExitStatus> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let mut output = Some(output);
    let mut watch = Watch::new();
    loop {
        let timeout = if watch.descriptor().is_some() { None } else { Some(&POLL_INTERVAL) };
        let (child_ended, asked) = {
            let mut fds = vec![PollFd::new(&ended, PollFlags::IN), PollFd::new(&barrier.ask, PollFlags::IN)];
            fds.extend(output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
            fds.extend(watch.descriptor().map(|changes| PollFd::new(changes, PollFlags::IN)));
            poll(&mut fds, timeout)?;
            (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
        };
        watch.advance();
        exporter.sync();
        hooks.strike_case(child);
        if asked {
            (&barrier.ask).read_exact(&mut [0])?;
            (&barrier.answer).write_all(&[0])?;
        }
        // A closed pipe would end every later poll at once, so it is dropped.
        output = output.filter(|pipe| forward(exporter, pipe) == Pipe::Open);
        exporter.take_failures().iter().for_each(|failure| console::print(failure));
        if child_ended {
            return child.wait();
        }
    }
}

#[derive(PartialEq, Eq)]
enum Pipe {
    Open,
    Closed,
}

/// Appends the runner's pending output to the file outside, and returns the state of the pipe.
fn forward(exporter: &mut Exporter<Semihost>, mut output: &PipeReader) -> Pipe {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return Pipe::Closed,
            Ok(length) => {
                if let Err(error) = exporter.append(OUTPUT_FILE, &buffer[..length]) {
                    console::print(&format!("cannot copy the runner's output: {error}"));
                }
            }
            Err(_) => return Pipe::Open,
        }
    }
}

fn runner_exit(status: ExitStatus) -> RunnerExit {
    match status.code() {
        Some(code) => RunnerExit::Code(code),
        None => RunnerExit::Signal(status.signal().unwrap_or(0)),
    }
}
