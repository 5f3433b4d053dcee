//! The directory in which the lab works on one boot.
//!
//! ```text
//! RESULTS/.lab-<random>/lock             locked while the lab is alive
//! RESULTS/.lab-<random>/initramfs.cpio
//! RESULTS/.lab-<random>/qemu.stderr      QEMU's own messages
//! RESULTS/.lab-<random>/run/             the staging directory, where QEMU runs; later the run directory
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::Error;
use crate::init::protocol::RUN_NAME;

/// Name of the initramfs.
pub const INITRAMFS: &str = "initramfs.cpio";
/// Name of the file with QEMU's own messages.
const STDERR: &str = "qemu.stderr";
/// Beginning of the names of work directories.
const PREFIX: &str = ".lab-";
/// Name of the file that a living lab keeps locked.
const LOCK: &str = "lock";

/// The directory of one boot. It is deleted when this is dropped.
#[derive(Debug)]
pub struct WorkDir {
    directory: TempDir,
    _lock: File,
}

impl WorkDir {
    /// Creates a directory in `results`, with an empty staging directory.
    ///
    /// # Errors
    ///
    /// [`Error::Results`] or [`Error::DiskFull`].
    pub fn create(results: &Path) -> Result<Self, Error> {
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(results)
            .map_err(|error| Error::results(results, error))?;
        let lock = lock(directory.path()).map_err(|error| Error::results(directory.path(), error))?;
        let work_dir = Self { directory, _lock: lock };
        let staging = work_dir.staging();
        fs::create_dir(&staging).map_err(|error| Error::results(staging, error))?;
        Ok(work_dir)
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the path of the staging directory.
    pub fn staging(&self) -> PathBuf {
        self.path().join(RUN_NAME)
    }

    /// Returns the path of the initramfs.
    pub fn initramfs(&self) -> PathBuf {
        self.path().join(INITRAMFS)
    }

    /// Returns the path of the file with QEMU's own messages.
    pub fn stderr(&self) -> PathBuf {
        self.path().join(STDERR)
    }
}

/// Marks `work` as a directory in which this lab works, until the result is dropped.
///
/// On a file system without locks the mark is absent, and [`Abandoned::all_in`] leaves the directory alone.
fn lock(work: &Path) -> io::Result<File> {
    let unlocked = work.join("lock.part");
    let lock = File::create(&unlocked)?;
    // The file gets its final name only when it is locked, so nobody finds it unlocked while the lab is alive.
    if lock.try_lock().is_ok() {
        fs::rename(&unlocked, work.join(LOCK))?;
    }
    Ok(lock)
}

/// The work directory of a lab that was killed.
#[derive(Debug)]
pub struct Abandoned {
    path: PathBuf,
    _lock: File,
}

impl Abandoned {
    /// Returns the abandoned work directories in `results`.
    pub fn all_in(results: &Path) -> Vec<Self> {
        let entries = fs::read_dir(results).into_iter().flatten().flatten();
        let works = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
        let abandoned = works.filter_map(|work| {
            let lock = File::open(work.path().join(LOCK)).ok()?;
            lock.try_lock().ok()?;
            Some(Self { path: work.path(), _lock: lock })
        });
        abandoned.collect()
    }

    /// Returns the path of the staging directory.
    pub fn staging(&self) -> PathBuf {
        self.path.join(RUN_NAME)
    }

    /// Returns the path of the lock file, which was created when the boot began.
    pub fn lock_file(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// Deletes the directory. The lab makes its other files anew for each boot.
    pub fn remove(self) {
        // The next call finds a directory that cannot be deleted now.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
impl WorkDir {
    /// Releases the lock and leaves the directory, as a killed lab does. Returns the path.
    pub fn abandon(self) -> PathBuf {
        self.directory.keep()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directory_of_a_dead_lab_is_abandoned() {
        let results = tempfile::tempdir().expect("a temporary directory");
        let alive = WorkDir::create(results.path()).expect("writable");
        assert!(alive.staging().is_dir());
        assert!(Abandoned::all_in(results.path()).is_empty());
        let dead = WorkDir::create(results.path()).expect("writable").abandon();
        // A child that another test starts has a copy of the lock until it executes its program.
        let mut found = Abandoned::all_in(results.path());
        while found.is_empty() {
            std::thread::yield_now();
            found = Abandoned::all_in(results.path());
        }
        assert_eq!(found.iter().map(|abandoned| &abandoned.path).collect::<Vec<_>>(), [&dead]);
        found.into_iter().for_each(Abandoned::remove);
        assert!(!dead.exists() && alive.path().exists());
    }
}
