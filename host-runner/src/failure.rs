//! The result of a command: an exit code, or a failure with a message.

use std::io;
use std::path::Path;

use record::exit::{HARNESS, INTERRUPTED, USAGE};

/// Failure of a command that ends without a verdict.
#[derive(Debug)]
pub struct Failure {
    /// One line for the user. Empty if everything was already printed.
    pub message: String,
    /// Exit code.
    pub code: u8,
    /// True if the reason is that this machine, or this user, can run no guests.
    pub no_guests: bool,
}

impl Failure {
    /// Returns a failure with this exit code.
    pub fn new(code: u8, message: impl ToString) -> Self {
        Self { message: message.to_string(), code, no_guests: false }
    }

    /// Returns the failure of a command that needs guests where none can be run.
    pub fn no_guests(message: impl ToString) -> Self {
        Self { no_guests: true, ..Self::harness(message) }
    }

    /// Returns the failure of wrong usage.
    pub fn usage(message: impl ToString) -> Self {
        Self::new(USAGE, message)
    }

    /// Returns a failure of the tool or of its surroundings.
    pub fn harness(message: impl ToString) -> Self {
        Self::new(HARNESS, message)
    }

    /// Returns the failure of a run or a plan that a signal ended. `directory` holds what was recorded until then.
    pub fn interrupted(directory: &Path) -> Self {
        let directory = directory.display();
        let message = format!("interrupted: settings are back as they were, what was recorded is in {directory}");
        Self::new(INTERRUPTED, message)
    }

    /// Prints an error of clap and returns its failure. To clap, the text of `--help` is an error, too: its exit code is 0.
    pub fn clap(error: &clap::Error) -> Self {
        // Printing fails only if nobody reads.
        let _ = error.print();
        Self::new(if error.use_stderr() { USAGE } else { 0 }, "")
    }
}

/// Result of a command: its exit code, or a failure.
pub type CommandResult = Result<u8, Failure>;

/// Returns the failure of a command whose directory of runs cannot be read.
pub fn no_runs_in(directory: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| {
        let directory = directory.display();
        Failure::usage(format!("cannot read {directory}: {error}: name the directory of your runs"))
    }
}
