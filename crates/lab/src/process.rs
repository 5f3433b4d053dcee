//! Children that end when the user says so.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Error;

/// How often a waiting loop looks at its child and at the interrupt flag.
pub const TICK: Duration = Duration::from_millis(50);

/// Whether SIGINT, SIGTERM or SIGHUP has come since the first of these was made: one flag for the whole process, as the
/// signals' default cannot come back, and a signal between two steps must reach the next.
#[derive(Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to catch the signals.
    pub fn catch() -> Self {
        static FLAG: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
            let flag = Arc::new(AtomicBool::new(false));
            for signal in [SIGINT, SIGTERM, SIGHUP] {
                // Only signals that cannot be caught are refused, and these can.
                let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
            }
            flag
        });
        Self(Arc::clone(&FLAG))
    }

    /// Says whether the user wants to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails when the user wants to stop.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<(), Error> {
        if self.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Sleeps for one [`TICK`].
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub fn tick(&self) -> Result<(), Error> {
        thread::sleep(TICK);
        self.check()
    }
}

/// What a finished program printed.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Why a program gave no [`Finished`].
#[derive(Debug)]
pub enum Unfinished {
    /// It could not be started or read.
    Io(io::Error),
    /// The user stopped it.
    Interrupted,
}

impl From<io::Error> for Unfinished {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Runs a program to its end, or kills it on an interrupt.
///
/// # Errors
///
/// [`Unfinished::Io`] where it cannot be started, [`Unfinished::Interrupted`] on a signal.
pub fn finish(command: &mut Command, interrupt: &Interrupt) -> Result<Finished, Unfinished> {
    // Files, not pipes: nothing has to be drained while waiting.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupt.tick().is_err() {
            end(&mut child);
            return Err(Unfinished::Interrupted);
        }
    };
    if interrupt.is_set() {
        return Err(Unfinished::Interrupted);
    }
    Ok(Finished { status, stdout: reread(&mut stdout)?, stderr: reread(&mut stderr)? })
}

/// Kills a child and collects it.
pub fn end(child: &mut Child) {
    // Both fail only for a child that is gone already.
    let _ = child.kill();
    let _ = child.wait();
}

fn reread(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
