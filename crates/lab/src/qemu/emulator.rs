//! A QEMU that starts on this machine.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use units::text::shell_word;

use crate::error::Error;
use crate::qemu::choice::{OWN_QEMU, QemuChoice};

/// The Debian package that holds it.
pub const PACKAGE: &str = "qemu-system-arm";

/// The first version that is known to have a `max` CPU with DIC. Version 7.2 has none.
const MAX_HAS_DIC: u32 = 8;

/// A QEMU that starts on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    program: PathBuf,
    /// Directories of its own libraries.
    libraries: Vec<PathBuf>,
    version: String,
}

impl Emulator {
    /// Starts `program` once to read its version.
    ///
    /// # Errors
    ///
    /// [`Error::MissingProgram`] or [`Error::Start`].
    pub(crate) fn at(program: &Path, libraries: Vec<PathBuf>) -> Result<Self, Error> {
        // QEMU starts in another directory later, so a relative path would fail. A name alone is searched in $PATH.
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
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(start_error(program, io::Error::other(message)));
        }
        emulator.version = version(&String::from_utf8_lossy(&output.stdout)).unwrap_or("unknown").into();
        Ok(emulator)
    }

    /// Returns a command that starts QEMU.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment());
        command
    }

    /// Returns the environment variable that QEMU needs, if any.
    fn environment(&self) -> Option<(&'static str, OsString)> {
        const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
        if self.libraries.is_empty() {
            return None;
        }
        let inherited = env::var_os(LIBRARY_PATH).unwrap_or_default();
        let all = self.libraries.iter().cloned().chain(env::split_paths(&inherited));
        // A path with a colon cannot be in the list. QEMU then fails with the name of a library.
        env::join_paths(all).ok().map(|paths| (LIBRARY_PATH, paths))
    }

    /// Returns the name and the version, as in "qemu-system-aarch64 7.2.22".
    pub(crate) fn name(&self) -> String {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy();
        format!("{name} {}", self.version)
    }

    /// Returns the version, as in "7.2.22".
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the major version, or 0 if it is unknown.
    pub(crate) fn major(&self) -> u32 {
        self.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
    }

    /// Returns whether QEMU emulates this CPU model.
    pub fn has_cpu(&self, model: &str) -> bool {
        let output = self.command().args(["-machine", "virt", "-cpu", "help"]).stdin(Stdio::null()).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).split_whitespace().any(|name| name == model))
    }

    /// Returns the CPU model that shows the I side best: it lacks DIC, and has FWB if this QEMU has such a model.
    pub fn cpu_without_dic(&self) -> &'static str {
        if self.major() < MAX_HAS_DIC { "max" } else { "neoverse-n1" }
    }

    /// Returns the command line in the form that a shell reads.
    pub(crate) fn shell_line(&self, arguments: &[OsString]) -> String {
        let environment =
            self.environment().map(|(name, value)| format!("{name}={}", shell_word(&value.to_string_lossy())));
        let words = std::iter::once(self.program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
        environment
            .into_iter()
            .chain(words.map(|word| shell_word(&word.to_string_lossy())))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Returns the error for a failed start.
    pub(crate) fn start_error(&self, error: io::Error) -> Error {
        start_error(&self.program, error)
    }

    /// Returns an emulator that is not looked for and cannot be started. It only prints command lines.
    pub(crate) fn named(choice: &QemuChoice) -> Self {
        let program = match choice {
            QemuChoice::Program(program) => program.clone(),
            QemuChoice::AtLeast(wanted) => format!("<{OWN_QEMU} {wanted}>").into(),
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

/// Returns the version in a text such as `QEMU emulator version 7.2.22 (Debian …)`.
fn version(text: &str) -> Option<&str> {
    text.split_whitespace().skip_while(|word| *word != "version").nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulator(version: &str) -> Emulator {
        Emulator { program: OWN_QEMU.into(), libraries: Vec::new(), version: version.into() }
    }

    #[test]
    fn the_version_is_read_and_compared() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022\n";
        assert_eq!(version(debian), Some("7.2.22"));
        assert_eq!(version("something else"), None);
        assert_eq!((emulator("10.0.2").major(), emulator("unknown").major()), (10, 0));
        assert_eq!(emulator("7.2.22").name(), "qemu-system-aarch64 7.2.22");
    }

    #[test]
    fn the_model_for_the_i_side_depends_on_the_version() {
        assert_eq!([emulator("7.2.22"), emulator("10.0.2")].map(|e| e.cpu_without_dic()), ["max", "neoverse-n1"]);
    }

    #[test]
    fn other_programs_are_refused() {
        let at = |program: &str| Emulator::at(Path::new(program), Vec::new()).expect_err(program);
        assert!(matches!(at("/nonexistent/qemu"), Error::MissingProgram { package: PACKAGE, .. }));
        assert!(matches!(at("false"), Error::Start { .. }));
    }

    #[test]
    fn the_shell_line_names_the_libraries_and_is_quoted() {
        let emulator = Emulator { libraries: vec!["/cache/lib".into()], ..emulator("10") };
        let line = emulator.shell_line(&["it's".into()]);
        assert!(line.starts_with("LD_LIBRARY_PATH=/cache/lib"), "{line}");
        assert!(line.ends_with(" qemu-system-aarch64 'it'\\''s'"), "{line}");
    }
}
