//! A run on disk: its directory, its journal, and `result.json`, which is written by rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::barrier::barrier;
use crate::journal;
use crate::result::{RunResult, VERSION};

/// Name of the result in a run directory. A directory without a result belongs to a run that died.
pub const RESULT: &str = "result.json";

/// Name of the machine's description in a run directory.
pub const ENVIRONMENT: &str = "environment.json";

/// File that reserves disk space for the result, in case the disk fills up during the run. It is removed just before
/// the result is written.
const RESERVE: &str = ".reserve";
/// Size of the reserved space in bytes.
const RESERVE_BYTES: u64 = 1 << 20;

/// Free space that a run needs before it starts, in bytes. The kernel log, the samples and the result of the largest
/// run fit into it.
const WANTED_BYTES: u64 = 16 << 20;

/// An error of storing or reading a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path could not be written.
    #[error("cannot write {0}: {1}: choose another place with --results")]
    Write(PathBuf, io::Error),
    /// The disk is nearly full.
    #[error("{0} has {1} KiB free, a run may need {wanted}: make room or choose another place with --results", wanted = WANTED_BYTES >> 10)]
    Full(PathBuf, u64),
    /// A file could not be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// A file is not a result.
    #[error(
        "{0} is not a result: {1}: if its run died, `faultline recover` writes it anew from the journal once this file is removed"
    )]
    Format(PathBuf, serde_json::Error),
    /// A result has another version of the format.
    #[error(
        "{0} has format {1}, this faultline reads {VERSION}: read it with the faultline that wrote it (its version is in the file, under tool)"
    )]
    Version(PathBuf, u32),
}

/// The directory of a run under way.
pub struct RunDir {
    path: PathBuf,
    journal: File,
    /// True if the last entry may be written only in part.
    torn: bool,
}

impl RunDir {
    /// Creates the directory `results/name` and starts its journal.
    ///
    /// # Errors
    ///
    /// Fails if the directory exists or cannot be written to, or if the disk is nearly full. A run that could not be
    /// stored does not start.
    pub fn create(results: &Path, name: &str) -> Result<Self, Error> {
        let path = results.join(name);
        let failed = |error| Error::Write(path.clone(), error);
        fs::create_dir_all(results).map_err(failed)?;
        if let Ok(stat) = rustix::fs::statvfs(results) {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free < WANTED_BYTES {
                return Err(Error::Full(results.to_owned(), free >> 10));
            }
        }
        fs::create_dir(&path).map_err(failed)?;
        let journal =
            OpenOptions::new().create_new(true).append(true).open(path.join(journal::FILE)).map_err(failed)?;
        // The kernel releases the lock when this process ends, so the lock tells a living run from a dead one. The run
        // goes on if the file system has no locks.
        let _ = flock(&journal, FlockOperation::LockExclusive);
        // Some file systems cannot reserve space, and the run goes on without it.
        if let Ok(reserve) = File::create(path.join(RESERVE)) {
            let _ = rustix::fs::fallocate(&reserve, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES);
        }
        Ok(Self { path, journal, torn: false })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an entry to the journal and waits until it is on disk.
    ///
    /// # Errors
    ///
    /// Fails if the entry cannot be written.
    pub fn journal(&mut self, entry: &impl Serialize) -> Result<(), Error> {
        let failed = |error| Error::Write(self.path.join(journal::FILE), error);
        let mut line = serde_json::to_vec(entry).map_err(io::Error::from).map_err(failed)?;
        line.push(b'\n');
        if self.torn {
            line.insert(0, b'\n');
        }
        self.torn = true;
        self.journal.write_all(&line).map_err(failed)?;
        self.torn = false;
        self.journal.sync_data().map_err(failed)?;
        // In the lab, an entry is safe only outside of the emulated host. The lab itself notices if this fails.
        let _ = barrier();
        Ok(())
    }

    /// Creates another file of the run.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be created.
    pub fn file(&self, name: &str) -> Result<File, Error> {
        let path = self.path.join(name);
        File::create(&path).map_err(|error| Error::Write(path, error))
    }

    /// Writes the JSON file `name` by rename, as [`write_json`] does.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        if name == RESULT {
            give_up_reserve(&self.path);
        }
        write_json(&self.path.join(name), value)
    }
}

/// Frees the disk space that was reserved for the result of a run.
pub fn give_up_reserve(run: &Path) {
    // The file is absent if the result is written, and in runs of other versions.
    let _ = fs::remove_file(run.join(RESERVE));
}

/// Returns whether a run directory belongs to a runner that is still alive.
pub fn is_alive(run: &Path) -> bool {
    run.join(journal::FILE).exists() && lock_dead(run).is_none()
}

/// Takes a shared lock on the journal of a dead run. The lock lasts as long as the returned file is open. Returns
/// `None` if the run is alive, because its runner holds an exclusive lock, or if the journal cannot be read.
///
/// Other processes can take the same lock, so it does not keep them from closing the run, too. It is a shared one
/// because NFS gives no exclusive lock on a file that is open only for reading.
pub fn lock_dead(run: &Path) -> Option<File> {
    let journal = File::open(run.join(journal::FILE)).ok()?;
    let locked = flock(&journal, FlockOperation::NonBlockingLockShared);
    (locked != Err(Errno::WOULDBLOCK)).then_some(journal)
}

/// Replaces a file by rename, so a reader never sees a part of it.
///
/// # Errors
///
/// Fails if the file system does.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".tmp");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// Writes a JSON file by rename, with a line break at its end.
///
/// # Errors
///
/// Fails if the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let failed = |error| Error::Write(path.to_owned(), error);
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from).map_err(failed)?;
    replace(path, format!("{text}\n").as_bytes()).map_err(failed)
}

/// Writes the result of a run directory by rename. An older result is replaced.
///
/// # Errors
///
/// Fails if the file cannot be written.
pub fn write_result(run_dir: &Path, result: &RunResult) -> Result<(), Error> {
    write_json(&run_dir.join(RESULT), result)
}

/// Reads the result of a run. `path` is the run directory or the result file itself.
///
/// # Errors
///
/// Fails if the file cannot be read, is not a result, or has another version of the format.
pub fn read(path: &Path) -> Result<RunResult, Error> {
    let path = if path.is_dir() { path.join(RESULT) } else { path.to_owned() };
    read_versioned(&path)
}

/// Reads a JSON file that contains its version, such as a result or the summary of a plan.
///
/// # Errors
///
/// As for [`read`].
pub fn read_versioned<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read_to_string(path).map_err(|error| Error::Read(path.to_owned(), error))?;
    match serde_json::from_str::<Versioned>(&text) {
        Ok(Versioned { version }) if version != VERSION => Err(Error::Version(path.to_owned(), version)),
        _ => serde_json::from_str(&text).map_err(|error| Error::Format(path.to_owned(), error)),
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_after_a_torn_one_stands_alone() {
        let results = tempfile::tempdir().expect("a temporary directory");
        let mut run = RunDir::create(results.path(), "run").expect("it is writable");
        // A full disk leaves such an entry.
        run.journal.write_all(b"\"on").expect("it is writable");
        run.torn = true;
        run.journal(&"two").expect("it is writable");
        run.journal(&"three").expect("it is writable");
        let text = fs::read_to_string(run.path().join(journal::FILE)).expect("it is there");
        assert_eq!(text, "\"on\n\"two\"\n\"three\"\n");
    }

    #[test]
    fn a_run_on_disk() {
        let results = tempfile::tempdir().expect("a temporary directory");
        let mut run = RunDir::create(results.path(), "run").expect("it is writable");
        run.journal(&"one").expect("it is writable");
        run.journal(&"two").expect("it is writable");
        run.write(RESULT, &1).expect("it is writable");
        let names: Vec<_> = fs::read_dir(run.path()).expect("it exists").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}: no part is left");
        assert!(is_alive(run.path()));
        assert_eq!(fs::read_to_string(run.path().join("journal.jsonl")).ok().as_deref(), Some("\"one\"\n\"two\"\n"));
        assert!(matches!(RunDir::create(results.path(), "run"), Err(Error::Write(..))));
        assert!(matches!(read(run.path()), Err(Error::Format(..))));
        run.write(RESULT, &serde_json::json!({ "version": VERSION + 1 })).expect("it is writable");
        assert!(matches!(read(run.path()), Err(Error::Version(_, found)) if found == VERSION + 1));
        let path = run.path().to_owned();
        drop(run);
        assert!(!is_alive(&path));
    }
}
