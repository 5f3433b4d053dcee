//! The directory that keeps what the lab fetched and built, and the locks in it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::error::Error;

/// Returns the cache directory: $FAULTLINE_CACHE, or `faultline` below $XDG_CACHE_HOME or ~/.cache.
///
/// # Errors
///
/// [`Error::NoCache`] if none of the variables is set.
pub fn directory() -> Result<PathBuf, Error> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FAULTLINE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("faultline")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/faultline")))
        // make and QEMU run in other directories, so a relative path would mean something else there.
        .and_then(|path| std::path::absolute(path).ok())
        .ok_or(Error::NoCache)
}

/// Waits until no other `faultline` holds the lock file at `path`, and takes it. Dropping the result releases the lock.
///
/// # Errors
///
/// [`Error::Cache`] or [`Error::Interrupted`].
pub fn lock(path: &Path, context: Context<'_>) -> Result<File, Error> {
    let failed = |error| Error::Cache { path: path.to_owned(), error };
    let lock = File::create(path).map_err(failed)?;
    let mut shown = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut shown, true) {
                    context.show("waiting for another faultline that is fetching");
                }
                context.interrupt.wait()?;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}
