//! The answer of a command: what it prints, and its exit code.

use std::io::{self, Write};
use std::path::Path;

use klog::quiet::quiet_json;
use record::exit::{HARNESS, USAGE};

/// Why a command ended without a verdict: one line for the user, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// Line for the user; empty where everything was said.
    pub message: String,
    /// Exit code.
    pub code: u8,
}

impl Failure {
    /// Returns a failure with this exit code.
    pub fn new(code: u8, message: impl ToString) -> Self {
        Self { message: message.to_string(), code }
    }

    /// Returns what an error of the command line's parser means, which prints itself: help is one, too.
    pub fn clap(error: &clap::Error) -> Self {
        // Printing fails only where nobody reads.
        let _ = error.print();
        Self::new(if error.use_stderr() { USAGE } else { 0 }, "")
    }

    /// Returns a failure of the tool or of what it needs.
    pub fn harness(message: impl ToString) -> Self {
        Self::new(HARNESS, message)
    }
}

/// The end of a command: an exit code, or a line and an exit code.
pub type Outcome = Result<u8, Failure>;

/// Prints what a command found. A reader that closes the pipe is no failure.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn emit(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::harness(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints what a command found, for programs.
///
/// # Errors
///
/// As [`emit`].
pub fn emit_json(answer: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(answer).map_err(Failure::harness)?;
    emit(&(quiet_json(&json).into_owned() + "\n"))
}

/// Returns the failure of a command that was pointed at a directory which cannot be read.
pub fn no_runs_in(directory: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| {
        let directory = directory.display();
        Failure::new(USAGE, format!("cannot read {directory}: {error}: name the directory of your runs"))
    }
}
