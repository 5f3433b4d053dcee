//! Accidents on demand, for tests (`--guest-hook KEY=VALUE`).
//!
//! - `mount=…`: a small or read-only file system for results.
//! - `uid=…`: a runner without root.
//! - `provoke=…`: a defect in the kernel before the runner starts.
//! - `case=…`: a signal, a power cut or a full disk in the middle of a case.
//! - `then=…` and `show=…`: a command that runs after the runner in the same boot, and files that are printed.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::init::protocol::{Manifest, RESULTS, RUN_NAME};
use crate::init::{console, semihost};
use record::barrier::ASK;
use record::journal::Journal;
use record::machine::{LAB_VARIABLE, LabFacts};

/// File of LKDTM (Linux, Documentation/fault-injection/provoke-crashes.rst) that takes the name of a defect.
const LKDTM: &str = "/sys/kernel/debug/provoke-crash/DIRECT";
/// Pause after each step, in which the step takes effect.
const STEP_PAUSE: Duration = Duration::from_millis(200);

/// The accidents that the manifest asks for.
pub struct Hooks {
    wanted: BTreeMap<String, String>,
    lab: LabFacts,
    case_done: bool,
}

impl Hooks {
    /// Creates the accidents that `manifest` asks for.
    pub fn new(manifest: &Manifest) -> Self {
        Self { wanted: manifest.hooks.clone(), lab: manifest.lab.clone(), case_done: false }
    }

    /// Returns the mount options for results: `mount=ro`, or `mount=size=8m` and other options of tmpfs.
    pub fn mount(&self) -> (MountFlags, Option<CString>) {
        match self.wanted.get("mount").map(String::as_str) {
            Some("ro") => (MountFlags::RDONLY, None),
            other => (MountFlags::empty(), other.and_then(|data| CString::new(data).ok())),
        }
    }

    /// Returns the user who replaces root, for example `uid=1000`.
    pub fn uid(&self) -> Option<u32> {
        self.wanted.get("uid")?.parse().ok()
    }

    /// Runs the steps of `provoke=…`, which have semicolons between them.
    ///
    /// A step is `PATH=VALUE`, which is a value to write to a file, or the name of a defect of LKDTM, or a number of
    /// seconds to wait.
    pub fn provoke(&self) {
        for step in self.wanted.get("provoke").into_iter().flat_map(|steps| steps.split(';')) {
            if let Ok(seconds) = step.parse() {
                thread::sleep(Duration::from_secs(seconds));
                continue;
            }
            let (path, value) = step.split_once('=').unwrap_or((LKDTM, step));
            let (path, value) = (path.to_owned(), value.to_owned());
            // The write may never return, so it has a thread of its own.
            thread::spawn(move || {
                if let Err(error) = fs::write(&path, value) {
                    console::print(&format!("provoke: {path}: {error}"));
                }
            });
            thread::sleep(STEP_PAUSE);
        }
    }

    /// Causes the accident of `case=…`, once, when the journal says that a case has begun.
    ///
    /// `case=9` sends that signal to the runner, `case=cut` ends QEMU as a power cut would, and `case=fill` fills the
    /// file system for results.
    pub fn strike_case(&mut self, runner: &Child) {
        let Some(accident) = self.wanted.get("case").filter(|_| !self.case_done) else { return };
        let journal = Journal::read(&Path::new(RESULTS).join(RUN_NAME));
        if !journal.is_ok_and(|journal| journal.under_way().is_some()) {
            return;
        }
        self.case_done = true;
        match accident.as_str() {
            "cut" => semihost::exit(),
            "fill" => fill(),
            _ => {}
        }
        if let Some(signal) = accident.parse().ok().and_then(Signal::from_named_raw) {
            // The call fails only if the runner has ended.
            let _ = kill_process(Pid::from_child(runner), signal);
        }
    }

    /// Runs the command of `then=…`, and returns its output and the contents of the files in `show=…`, a list with
    /// commas.
    ///
    /// # Errors
    ///
    /// An error if the command cannot be started.
    pub fn after_runner(&self) -> io::Result<Vec<u8>> {
        let mut printed = Vec::new();
        // Init no longer answers there, so the command must not ask.
        let _ = fs::remove_file(ASK);
        if let Some(words) = self.wanted.get("then") {
            let output = Command::new("/proc/self/exe")
                .args(words.split_whitespace())
                .current_dir("/")
                .env(LAB_VARIABLE, serde_json::to_string(&self.lab).unwrap_or_default())
                .env("FAULTLINE_RUN_NAME", "then")
                .stdin(Stdio::null())
                .output()?;
            printed.extend(output.stdout);
            printed.extend(output.stderr);
            printed.extend(format!("then: {}\n", output.status).bytes());
        }
        for path in self.wanted.get("show").into_iter().flat_map(|paths| paths.split(',')) {
            let value = read_all(path).unwrap_or_else(|error| error.to_string());
            printed.extend(format!("{path} = {}\n", value.trim()).bytes());
        }
        Ok(printed)
    }
}

/// Returns the contents of a file without waiting for more. /dev/kmsg never ends, and each read returns one record.
fn read_all(path: &str) -> io::Result<String> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let (mut all, mut record) = (Vec::new(), [0; 8192]);
    while let Ok(bytes @ 1..) = file.read(&mut record) {
        all.extend(&record[..bytes]);
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// Writes to the file system for results until it is full.
fn fill() {
    let Ok(mut file) = File::create(Path::new(RESULTS).join("filler")) else { return };
    while file.write_all(&[0; 64 * 1024]).is_ok() {}
}
