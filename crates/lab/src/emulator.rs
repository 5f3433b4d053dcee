//! Which QEMU runs the lab: the machine's own, a given program, or a newer one unpacked into the cache.
//!
//! Debian 12 has QEMU 7.2, whose CPU models all lack DIC. A newer one is taken from Debian's backports, together with the
//! libraries that this machine lacks or has too old, and only unpacked: nothing is installed.
//!
//! ```text
//! CACHE/qemu/10/usr/bin/qemu-system-aarch64   and all else that the packages hold
//! CACHE/qemu/apt                              the lists of our own apt
//! ```

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use crate::Error;
use crate::apt::{self, Apt, Archive, Installed, Scope};
use crate::cache;
use crate::process::Interrupt;

/// The machine's own QEMU.
pub const OWN: &str = "qemu-system-aarch64";
/// Debian's package that holds it.
const PACKAGE: &str = "qemu-system-arm";
/// The suite with a newer one than Debian 12's.
const SUITE: &str = "bookworm-backports";

/// Where the newer QEMU and the libraries that it needs come from.
const SCOPE: Scope = Scope {
    suites: &[
        (SUITE, Archive::Main),
        ("bookworm", Archive::Main),
        ("bookworm-updates", Archive::Main),
        ("bookworm-security", Archive::Security),
    ],
    architecture: None,
    installed: Installed::Machine,
};

/// The first version known to have DIC in its `max` CPU; 7.2 has not.
const MAX_HAS_DIC: u32 = 8;

/// A QEMU as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// A program.
    Program(PathBuf),
    /// The machine's own if its major version is at least this, else one from Debian's backports.
    AtLeast(u32),
}

impl Default for Choice {
    fn default() -> Self {
        Self::Program(OWN.into())
    }
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::Program(text.into()), Self::AtLeast))
    }
}

/// A QEMU that starts on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    program: PathBuf,
    /// Directories with the libraries that came with it.
    libraries: Vec<PathBuf>,
    version: String,
}

impl Emulator {
    /// Finds the QEMU of a choice, fetching it if it is in neither machine nor cache.
    ///
    /// # Errors
    ///
    /// [`Error::MissingProgram`], [`Error::Start`] or [`Error::NoQemu`].
    pub fn find(choice: &Choice, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<Self, Error> {
        match choice {
            Choice::Program(program) => Self::at(program, Vec::new()),
            Choice::AtLeast(wanted) => match Self::at(Path::new(OWN), Vec::new()) {
                Ok(own) if own.major() >= *wanted => Ok(own),
                _ => cached(*wanted, interrupt, progress),
            },
        }
    }

    /// Starts the program once, for its version.
    fn at(program: &Path, libraries: Vec<PathBuf>) -> Result<Self, Error> {
        // It runs in another directory than this; a name alone is looked for in $PATH.
        let named = program.components().count() == 1 && !program.is_absolute();
        let path = if named { program.to_owned() } else { std::path::absolute(program).unwrap_or(program.to_owned()) };
        let mut emulator = Self { program: path, libraries, version: String::new() };
        let output = emulator
            .command()
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| start_error(program, error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(start_error(program, io::Error::other(said)));
        }
        emulator.version = version(&String::from_utf8_lossy(&output.stdout)).unwrap_or("unknown").into();
        Ok(emulator)
    }

    /// Returns a command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment());
        command
    }

    /// Returns the environment that it needs.
    fn environment(&self) -> Option<(&'static str, OsString)> {
        const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
        if self.libraries.is_empty() {
            return None;
        }
        let inherited = env::var_os(LIBRARY_PATH).unwrap_or_default();
        let all = self.libraries.iter().cloned().chain(env::split_paths(&inherited));
        // A path of the cache with a colon in it cannot be told; QEMU then says what it misses.
        env::join_paths(all).ok().map(|paths| (LIBRARY_PATH, paths))
    }

    /// Returns its name and version, as in "qemu-system-aarch64 7.2.22".
    pub fn name(&self) -> String {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy();
        format!("{name} {}", self.version)
    }

    /// Returns its version, as in "7.2.22".
    pub fn version(&self) -> &str {
        &self.version
    }

    fn major(&self) -> u32 {
        self.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
    }

    /// Says whether it emulates this CPU model.
    pub fn has_cpu(&self, model: &str) -> bool {
        let output = self.command().args(["-machine", "virt", "-cpu", "help"]).stdin(Stdio::null()).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).split_whitespace().any(|name| name == model))
    }

    /// Returns the CPU model that shows the I side best: without DIC, and with FWB where there is such a one.
    pub fn cpu_without_dic(&self) -> &'static str {
        if self.major() < MAX_HAS_DIC { "max" } else { "neoverse-n1" }
    }

    /// Returns the command line as one would type it.
    pub fn shell_line(&self, arguments: &[OsString]) -> String {
        let environment = self.environment().map(|(name, value)| format!("{name}={}", quote(&value.to_string_lossy())));
        let words = std::iter::once(self.program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
        environment.into_iter().chain(words.map(|word| quote(&word.to_string_lossy()))).collect::<Vec<_>>().join(" ")
    }

    /// Returns what went wrong when it was started.
    pub fn start_error(&self, error: io::Error) -> Error {
        start_error(&self.program, error)
    }

    /// Returns an emulator that is never started, to show its command line.
    pub fn named(choice: &Choice) -> Self {
        let program = match choice {
            Choice::Program(program) => program.clone(),
            Choice::AtLeast(wanted) => format!("<{OWN} {wanted}>").into(),
        };
        Self { program, libraries: Vec::new(), version: String::new() }
    }
}

fn start_error(program: &Path, error: io::Error) -> Error {
    let program = program.display().to_string();
    match error.kind() {
        io::ErrorKind::NotFound => Error::MissingProgram { program, package: PACKAGE },
        _ => Error::Start { program, error },
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// Reads `QEMU emulator version 7.2.22 (Debian …)`.
fn version(text: &str) -> Option<&str> {
    text.split_whitespace().skip_while(|word| *word != "version").nth(1)
}

/// Returns the QEMU that was unpacked into the cache, or unpacks it.
fn cached(wanted: u32, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<Emulator, Error> {
    let root = cache::directory()?.join("qemu");
    fs::create_dir_all(&root).map_err(|error| Error::Cache { path: root.clone(), error })?;
    let _lock = cache::lock(&root.join("lock"), interrupt, progress)?;
    let tree = root.join(wanted.to_string());
    if let Ok(found) = unpacked(&tree, wanted) {
        return Ok(found);
    }
    let no_qemu = |error: Error| match error {
        Error::Interrupted => error,
        error => Error::NoQemu { wanted, reason: error.to_string() },
    };
    fetch(&root, &tree, interrupt, progress).map_err(no_qemu)?;
    unpacked(&tree, wanted).map_err(no_qemu)
}

/// Returns the QEMU in `tree` if it starts and is new enough.
fn unpacked(tree: &Path, wanted: u32) -> Result<Emulator, Error> {
    let emulator = Emulator::at(&tree.join("usr/bin").join(OWN), libraries(tree))?;
    if emulator.major() >= wanted {
        return Ok(emulator);
    }
    Err(Error::NoQemu { wanted, reason: format!("Debian's {SUITE} has {}", emulator.version) })
}

/// Returns the directories of `tree` in which packages put libraries: `lib/<machine>-linux-gnu`.
fn libraries(tree: &Path) -> Vec<PathBuf> {
    let entries =
        ["usr/lib", "lib"].into_iter().flat_map(|folder| fs::read_dir(tree.join(folder)).into_iter().flatten());
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("-linux-gnu"))).collect()
}

/// Fetches Debian's newest QEMU for Debian 12 and unpacks it to `tree`, all or nothing.
fn fetch(root: &Path, tree: &Path, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Cache { path, error }
    };
    let apt = Apt::prepare(&root.join("apt"), &SCOPE, interrupt)?;
    let update = apt.update(progress)?;
    let scratch = tempfile::Builder::new().prefix(".new-").tempdir_in(root).map_err(failed(root))?;
    progress("fetching QEMU for this machine");
    let debs =
        apt.download_with_missing(PACKAGE, SUITE, &scratch.path().join("debs")).map_err(|error| match update {
            // Without lists apt only says that it does not know the package.
            apt::Update { complaint: Some(reason) } => Error::Fetch { what: "Debian's package lists".into(), reason },
            _ => error,
        })?;
    let fresh = scratch.path().join("tree");
    for deb in debs {
        progress(&format!("unpacking {}", deb.file_name().unwrap_or_default().to_string_lossy()));
        interrupt.check()?;
        let done = Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&fresh).stdin(Stdio::null()).output();
        let done = done.map_err(|error| Error::Start { program: "dpkg-deb".into(), error })?;
        if !done.status.success() {
            let reason = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(Error::Unpack { what: deb.display().to_string(), reason });
        }
    }
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(tree)(error)),
        _ => {}
    }
    fs::rename(&fresh, tree).map_err(failed(tree))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulator(version: &str) -> Emulator {
        Emulator { program: OWN.into(), libraries: Vec::new(), version: version.into() }
    }

    #[test]
    fn a_number_is_a_version_and_anything_else_a_program() {
        assert_eq!("10".parse(), Ok(Choice::AtLeast(10)));
        for text in ["qemu-system-aarch64", "./10", "/opt/qemu/bin/qemu-system-aarch64"] {
            assert_eq!(text.parse(), Ok(Choice::Program(text.into())));
        }
    }

    #[test]
    fn versions() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022\n";
        assert_eq!(version(debian), Some("7.2.22"));
        assert_eq!(version("something else"), None);
        assert_eq!((emulator("10.0.2").major(), emulator("unknown").major()), (10, 0));
        assert_eq!(emulator("7.2.22").name(), "qemu-system-aarch64 7.2.22");
    }

    #[test]
    fn the_cpu_has_no_dic() {
        assert_eq!([emulator("7.2.22"), emulator("10.0.2")].map(|e| e.cpu_without_dic()), ["max", "neoverse-n1"]);
    }

    #[test]
    fn what_is_no_qemu_is_told() {
        let find = |program: &str| Emulator::at(Path::new(program), Vec::new()).expect_err(program);
        assert!(matches!(find("/nonexistent/qemu"), Error::MissingProgram { package: PACKAGE, .. }));
        assert!(matches!(find("false"), Error::Start { .. }));
    }

    #[test]
    fn libraries_of_a_tree_come_before_the_machines() {
        let tree = tempfile::tempdir().expect("a temporary directory");
        for folder in ["usr/lib/x86_64-linux-gnu", "usr/lib/ipxe", "lib/x86_64-linux-gnu"] {
            fs::create_dir_all(tree.path().join(folder)).expect("created");
        }
        let found = libraries(tree.path());
        assert_eq!(found, ["usr/lib", "lib"].map(|folder| tree.path().join(folder).join("x86_64-linux-gnu")));
        let line = Emulator { libraries: found, ..emulator("10") }.shell_line(&["it's".into()]);
        assert!(line.starts_with("LD_LIBRARY_PATH=") && line.ends_with(" qemu-system-aarch64 'it'\\''s'"), "{line}");
    }
}
