//! Process 1 of the emulated machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use record::machine::LAB_VARIABLE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::system::{RebootCommand, reboot, uname};

use crate::guest::courier::Courier;
use crate::guest::hooks::Hooks;
use crate::guest::semihost::{self, Semihost};
use crate::guest::swap;
use crate::guest::{
    EXIT_FILE, ExitMark, Farewell, HELLO_FILE, Hello, MANIFEST_PATH, Manifest, OUTPUT_FILE, RESULTS, RUN_NAME,
};
use record::barrier::{ANSWER, ASK};

/// How often the run directory is looked at on a kernel without inotify.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Mounts that the runner needs: file system, directory, and whether the lab can do without.
const MOUNTS: &[(&str, &str, Need)] = &[
    ("devtmpfs", "/dev", Need::Must),
    ("proc", "/proc", Need::Must),
    ("sysfs", "/sys", Need::Must),
    ("tracefs", "/sys/kernel/tracing", Need::MayBeAbsent),
    ("debugfs", "/sys/kernel/debug", Need::MayBeAbsent),
    ("pstore", "/sys/fs/pstore", Need::MayBeAbsent),
    ("tmpfs", "/tmp", Need::Must),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    MayBeAbsent,
}

/// Does everything, then ends the emulator whatever happened. Not by a power-off where that can be helped: Linux
/// first waits seconds of virtual time for the other CPUs to stop.
pub fn run() -> ! {
    if let Err(error) = serve() {
        say(&format!("failed: {error}"));
    }
    semihost::exit();
    let error = reboot(RebootCommand::PowerOff).expect_err("power-off does not return");
    panic!("cannot power off: {error}");
}

/// Writes one line to the serial console; before /dev is mounted there is the node from the initramfs.
pub(super) fn say(text: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = writeln!(console, "faultline-lab: {text}");
    }
}

fn serve() -> io::Result<()> {
    let mut courier = Courier::new(Semihost, &Path::new(RESULTS).join(RUN_NAME));
    let release = uname().release().to_string_lossy().into_owned();
    say(&format!("init on Linux {release}"));
    courier.put(HELLO_FILE, &json(&Hello { release }))?;
    mount_all()?;
    run_ahead_of_the_runner();
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(MANIFEST_PATH)?)?;
    let notes = set_up_swap(&mut manifest);
    let mut hooks = Hooks::new(&manifest);
    let (flags, data) = hooks.mount();
    mount("tmpfs", RESULTS, "tmpfs", flags, data.as_deref())?;
    hooks.provoke();
    let desk = Desk::open()?;
    let (mut child, output) = spawn(&manifest, hooks.uid())?;
    let status = attend(&mut courier, &mut child, output, &desk, &mut hooks)?;
    // What cannot be sent is tried again below, and told.
    let _ = courier.append(OUTPUT_FILE, &hooks.afterwards()?);
    let lost = courier.finish();
    let farewell = Farewell { exit: exit_mark(status), lost, notes, host_was_full: courier.host_was_full() };
    courier.put(EXIT_FILE, &json(&farewell))?;
    say(&format!("runner ended: {status}"));
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
            Err(error) if need == Need::Must && error.raw_os_error() != Some(libc::EBUSY) => {
                return Err(io::Error::new(error.kind(), format!("cannot mount {kind} on {target}: {error}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sets up the swap that is asked for. A run without it goes on; that, and why, is in the notes returned, on the console
/// and among the facts of the machine.
fn set_up_swap(manifest: &mut Manifest) -> Vec<String> {
    let Some(Err(why)) = manifest.swap.as_ref().map(swap::set_up) else { return Vec::new() };
    manifest.lab.no_swap = Some(why.to_string());
    let note = format!("no swap: {why}");
    say(&note);
    vec![note]
}

/// Puts init into the real-time class, so that what the runner has written is out before the runner goes on to the
/// step that may kill the machine. Its children start in the normal class.
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
        say(&format!("no real-time class for the courier: {}", io::Error::last_os_error()));
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
struct Desk {
    ask: File,
    answer: File,
}

impl Desk {
    fn open() -> io::Result<Self> {
        // Open for both directions, so that neither side ever waits for the other to open, or sees an end.
        let open = |path: &str| {
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            File::options().read(true).write(true).open(path)
        };
        Ok(Self { ask: open(ASK)?, answer: open(ANSWER)? })
    }
}

/// The directory watch, and how far it has come.
struct Watch {
    events: Option<OwnedFd>,
    sees_run_directory: bool,
}

impl Watch {
    fn new() -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .and_then(|fd| inotify::add_watch(&fd, RESULTS, WatchFlags::CREATE | WatchFlags::MOVED_TO).map(|_| fd));
        Self { events: events.ok(), sees_run_directory: false }
    }

    /// Takes the pending events away and starts to watch the run directory once it is there.
    fn advance(&mut self) {
        let Some(events) = &self.events else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(events, &mut buffer);
        while reader.next().is_ok() {}
        if !self.sees_run_directory {
            let changes = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO;
            let directory = Path::new(RESULTS).join(RUN_NAME);
            self.sees_run_directory = inotify::add_watch(events, &directory, changes).is_ok();
        }
    }
}

/// Carries output and files out until the runner has ended.
fn attend(
    courier: &mut Courier<Semihost>,
    child: &mut Child,
    output: PipeReader,
    desk: &Desk,
    hooks: &mut Hooks,
) -> io::Result<ExitStatus> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let mut output = Some(output);
    let mut watch = Watch::new();
    loop {
        let timeout = if watch.events.is_some() { None } else { Some(&POLL_INTERVAL) };
        let (child_ended, asked) = {
            let mut fds = vec![PollFd::new(&ended, PollFlags::IN), PollFd::new(&desk.ask, PollFlags::IN)];
            fds.extend(output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
            fds.extend(watch.events.as_ref().map(|events| PollFd::new(events, PollFlags::IN)));
            poll(&mut fds, timeout)?;
            (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
        };
        watch.advance();
        courier.sync();
        hooks.strike(child);
        if asked {
            (&desk.ask).read_exact(&mut [0])?;
            (&desk.answer).write_all(&[0])?;
        }
        // A closed pipe would make every poll return at once.
        output = output.filter(|pipe| forward(courier, pipe) == Pipe::Open);
        courier.take_complaints().iter().for_each(|complaint| say(complaint));
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

fn forward(courier: &mut Courier<Semihost>, mut output: &PipeReader) -> Pipe {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return Pipe::Closed,
            Ok(length) => {
                if let Err(error) = courier.append(OUTPUT_FILE, &buffer[..length]) {
                    say(&format!("cannot carry the runner's output: {error}"));
                }
            }
            Err(_) => return Pipe::Open,
        }
    }
}

fn exit_mark(status: ExitStatus) -> ExitMark {
    match status.code() {
        Some(code) => ExitMark::Code(code),
        None => ExitMark::Signal(status.signal().unwrap_or(0)),
    }
}
