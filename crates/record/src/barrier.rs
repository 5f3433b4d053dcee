//! A barrier in the lab: it waits until the journal of a run is outside of the emulated host.
//!
//! In an emulated host, the run directory is in memory, so fsync does not save it. Before an action that may kill the
//! kernel, the runner asks the host's init over two FIFOs to copy the directory out. FIFOs are used because small
//! kernels have no sockets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::machine::LAB_VARIABLE;

/// The FIFO into which the runner writes one byte for each request.
pub const ASK: &str = "/lab-ask";
/// The FIFO into which init writes one byte for each answer.
pub const ANSWER: &str = "/lab-answer";

/// Allows one request at a time, because an answer does not tell its request.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until everything that was written to the run directory so far is outside of the emulated host. Outside of the
/// lab, it does nothing. Call it after fsync of the journal.
///
/// # Errors
///
/// Fails if one of the FIFOs fails.
pub fn barrier() -> io::Result<()> {
    if std::env::var_os(LAB_VARIABLE).is_none() || !Path::new(ASK).exists() {
        return Ok(());
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    File::options().write(true).open(ASK)?.write_all(&[0])?;
    File::open(ANSWER)?.read_exact(&mut [0])
}
