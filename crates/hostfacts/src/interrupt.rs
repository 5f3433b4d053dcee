//! The user's wish to stop: SIGINT, SIGTERM and SIGHUP, caught for the whole process.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Interval at which a loop that waits for a child process checks it.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The signals that mean that the user wants to stop.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// A failure to catch the signals.
#[derive(Debug, thiserror::Error)]
#[error("cannot catch signals: {0}")]
pub struct NotCaught(io::Error);

/// An error that says that the user wants to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// A flag that is set when one of the signals arrives.
///
/// All values share one flag, and the flag is never cleared: a signal that arrives between two steps must stop the next
/// step too. The signals' default action cannot come back, so catch them only where the flag is read later.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches the signals, unless this process catches them already.
    ///
    /// # Errors
    ///
    /// [`NotCaught`].
    pub fn catch() -> Result<Self, NotCaught> {
        static CAUGHT: Mutex<Option<Interrupt>> = Mutex::new(None);
        let mut caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(interrupt) = &*caught {
            return Ok(interrupt.clone());
        }
        let flag = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(NotCaught)?;
        }
        Ok(caught.insert(Self(flag)).clone())
    }

    /// Returns whether a signal has arrived.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails if a signal has arrived.
    ///
    /// # Errors
    ///
    /// [`Interrupted`].
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() { Err(Interrupted) } else { Ok(()) }
    }

    /// Sleeps for one [`POLL_INTERVAL`], then fails if a signal has arrived.
    ///
    /// # Errors
    ///
    /// [`Interrupted`].
    pub fn wait(&self) -> Result<(), Interrupted> {
        thread::sleep(POLL_INTERVAL);
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_signal_sets_every_value() {
        let (early, late) = (Interrupt::catch().expect("they can be caught"), Interrupt::catch().expect("again"));
        assert!(!early.is_set() && late.check().is_ok());
        signal_hook::low_level::raise(SIGHUP).expect("raise(3) works");
        assert!(early.is_set());
        assert_eq!(late.wait(), Err(Interrupted));
        assert!(Interrupt::catch().expect("again").is_set(), "the wish is not forgotten");
    }
}
