//! Waits until the journal of a run has left the emulated host.
//!
//! There fsync means nothing: the run directory is in memory. Before a step that may kill the kernel, the runner asks
//! init, over two FIFOs, to carry everything out first. (Sockets would do, but small kernels lack them.)

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::machine::LAB_VARIABLE;

/// FIFO into which the runner writes one byte for each question.
pub const ASK: &str = "/lab-ask";
/// FIFO into which init writes one byte for each answer.
pub const ANSWER: &str = "/lab-answer";

/// One question at a time: answers carry no name.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until everything written to the run directory so far is outside the emulated host. Call it behind the
/// journal's fsync; outside the lab it does nothing.
///
/// # Errors
///
/// Any error of the two FIFOs.
pub fn barrier() -> io::Result<()> {
    if std::env::var_os(LAB_VARIABLE).is_none() || !Path::new(ASK).exists() {
        return Ok(());
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    File::options().write(true).open(ASK)?.write_all(&[0])?;
    File::open(ANSWER)?.read_exact(&mut [0])
}
