//! The runner's way to know that its journal has left the guest.
//!
//! Inside the lab fsync means nothing: the run directory is in memory. Before a step that may kill the kernel the
//! runner asks init, over two FIFOs, to carry everything out first. (Sockets would do, but small kernels lack them.)

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// FIFO into which the runner writes one byte for each question.
pub const ASK: &str = "/lab-ask";
/// FIFO into which init writes one byte for each answer.
pub const ANSWER: &str = "/lab-answer";

/// One question at a time: answers carry no name.
static TURN: Mutex<()> = Mutex::new(());

/// Returns when everything written to the run directory so far is outside the emulated machine. Call it behind the
/// journal's fsync; outside the lab it does nothing.
///
/// # Errors
///
/// Any error of the two FIFOs.
pub fn barrier() -> io::Result<()> {
    if std::env::var_os("FAULTLINE_LAB").is_none() || !Path::new(ASK).exists() {
        return Ok(());
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    File::options().write(true).open(ASK)?.write_all(&[0])?;
    File::open(ANSWER)?.read_exact(&mut [0])
}
