//! Accidents on demand, for tests of what survives them: a signal or a power cut in the middle of a case, a small or
//! read-only place for results, and a command that runs afterwards on the same boot.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{fs, io};

use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::barrier::ASK;
use super::{Manifest, RESULTS, RUN_NAME, semihost};
use crate::evidence::machine::LAB_VARIABLE;
use crate::journal::Journal;

/// The accidents that the manifest asks for.
pub struct Hooks {
    wanted: BTreeMap<String, String>,
    lab: String,
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
                .env(LAB_VARIABLE, &self.lab)
                .env("FAULTLINE_RUN_NAME", "then")
                .stdin(Stdio::null())
                .output()?;
            said.extend(output.stdout);
            said.extend(output.stderr);
            said.extend(format!("then: {}\n", output.status).bytes());
        }
        for path in self.wanted.get("show").into_iter().flat_map(|paths| paths.split(',')) {
            let value = fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
            said.extend(format!("{path} = {}\n", value.trim()).bytes());
        }
        Ok(said)
    }
}

/// Writes until there is no room.
fn fill() {
    let Ok(mut file) = fs::File::create(Path::new(RESULTS).join("filler")) else { return };
    while io::Write::write_all(&mut file, &[0; 64 * 1024]).is_ok() {}
}
