//! Prints the answer of a command to standard output.

use std::io::{self, Write};
use std::path::Path;

use klog::quiet::quiet_json;

use crate::failure::Failure;

/// Prints a text. It is no failure if the reader closes the pipe.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn emit(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::harness(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Notes on standard error where a run is stored.
pub fn note_stored(directory: &Path) {
    units::note!("stored in {}", directory.display());
}

/// Prints a value as JSON.
///
/// # Errors
///
/// As [`emit`].
pub fn emit_json(answer: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(answer).map_err(Failure::harness)?;
    emit(&(quiet_json(&json).into_owned() + "\n"))
}
