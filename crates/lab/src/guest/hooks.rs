//! Accidents on demand, for tests of what survives them: a signal or a power cut in the middle of a case, a small or
//! read-only place for results, a kernel in trouble, and a command that runs afterwards on the same boot.

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

use crate::guest::{Manifest, RESULTS, RUN_NAME, semihost};
use record::barrier::ASK;
use record::journal::Journal;
use record::machine::{LAB_VARIABLE, LabFacts};

/// Where LKDTM takes the name of what is to go wrong at once.
const LKDTM: &str = "/sys/kernel/debug/provoke-crash/DIRECT";
/// So that one step has happened before the next.
const BETWEEN_STEPS: Duration = Duration::from_millis(200);

/// The accidents that the manifest asks for.
pub struct Hooks {
    wanted: BTreeMap<String, String>,
    lab: LabFacts,
    struck: bool,
}

impl Hooks {
    /// Returns what the manifest asks for.
    pub fn new(manifest: &Manifest) -> Self {
        Self { wanted: manifest.hooks.clone(), lab: manifest.lab.clone(), struck: false }
    }

    /// Returns how to mount the place for results: `mount=ro`, or `mount=size=8m` and whatever else tmpfs takes.
    pub fn mount(&self) -> (MountFlags, Option<CString>) {
        match self.wanted.get("mount").map(String::as_str) {
            Some("ro") => (MountFlags::RDONLY, None),
            other => (MountFlags::empty(), other.and_then(|data| CString::new(data).ok())),
        }
    }

    /// Returns the user to run as, `uid=1000`, in place of root.
    pub fn uid(&self) -> Option<u32> {
        self.wanted.get("uid")?.parse().ok()
    }

    /// Brings the kernel into trouble before the runner starts, as `provoke=…` says: steps with semicolons between them,
    /// each `PATH=VALUE` to write, the name of a crash type of LKDTM (Documentation/fault-injection/provoke-crashes.rst)
    /// or a number of seconds to wait.
    pub fn provoke(&self) {
        for step in self.wanted.get("provoke").into_iter().flat_map(|steps| steps.split(';')) {
            if let Ok(seconds) = step.parse() {
                thread::sleep(Duration::from_secs(seconds));
                continue;
            }
            let (path, value) = step.split_once('=').unwrap_or((LKDTM, step));
            let (path, value) = (path.to_owned(), value.to_owned());
            // From a thread of its own, as it may never return, on whatever CPU that is.
            thread::spawn(move || {
                if let Err(error) = fs::write(&path, value) {
                    crate::guest::init::say(&format!("provoke: {path}: {error}"));
                }
            });
            thread::sleep(BETWEEN_STEPS);
        }
    }

    /// Strikes when the journal says that a case is under way: `case=9` sends that signal, `case=cut` ends the
    /// emulator as a power cut would, `case=fill` takes all the room there is for results.
    pub fn strike(&mut self, runner: &Child) {
        let Some(what) = self.wanted.get("case").filter(|_| !self.struck) else { return };
        let journal = Journal::read(&Path::new(RESULTS).join(RUN_NAME));
        if !journal.is_ok_and(|journal| journal.under_way().is_some()) {
            return;
        }
        self.struck = true;
        match what.as_str() {
            "cut" => semihost::exit(),
            "fill" => fill(),
            _ => {}
        }
        if let Some(signal) = what.parse().ok().and_then(Signal::from_named_raw) {
            // Gone already is as good.
            let _ = kill_process(Pid::from_child(runner), signal);
        }
    }

    /// Runs the command `then=…`, and returns what it printed and the values of the files `show=…` (with commas).
    pub fn afterwards(&self) -> io::Result<Vec<u8>> {
        let mut said = Vec::new();
        // Nobody answers there any more.
        let _ = fs::remove_file(ASK);
        if let Some(words) = self.wanted.get("then") {
            let output = Command::new("/proc/self/exe")
                .args(words.split_whitespace())
                .current_dir("/")
                .env(LAB_VARIABLE, serde_json::to_string(&self.lab).unwrap_or_default())
                .env("FAULTLINE_RUN_NAME", "then")
                .stdin(Stdio::null())
                .output()?;
            said.extend(output.stdout);
            said.extend(output.stderr);
            said.extend(format!("then: {}\n", output.status).bytes());
        }
        for path in self.wanted.get("show").into_iter().flat_map(|paths| paths.split(',')) {
            let value = read_all(path).unwrap_or_else(|error| error.to_string());
            said.extend(format!("{path} = {}\n", value.trim()).bytes());
        }
        Ok(said)
    }
}

/// Returns what can be read of a file without waiting for more: /dev/kmsg never ends, and gives a record at a time.
fn read_all(path: &str) -> io::Result<String> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let (mut all, mut record) = (Vec::new(), [0; 8192]);
    while let Ok(bytes @ 1..) = file.read(&mut record) {
        all.extend(&record[..bytes]);
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// Writes until there is no room.
fn fill() {
    let Ok(mut file) = File::create(Path::new(RESULTS).join("filler")) else { return };
    while file.write_all(&[0; 64 * 1024]).is_ok() {}
}
