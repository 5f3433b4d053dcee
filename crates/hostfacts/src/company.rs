//! Other runs on this machine at the same time. Their guests compete for CPUs, and their kernel messages mix.
//!
//! Each run has a file in the state directory, which it locks as long as it lives. A run that begins writes its process id
//! into the files of the others, so that both know.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The part of the state directory with one file for each run.
const DIRECTORY: &str = "running";

/// The membership of this run among those on this machine. Its drop ends it.
#[derive(Debug)]
pub struct Company {
    path: PathBuf,
    met: BTreeSet<u32>,
    /// Closing it releases the lock.
    _lock: File,
}

impl Company {
    /// Joins the runs on this machine. Returns none if this user cannot write to the state directory.
    pub fn join(state_dir: &Path) -> Option<Self> {
        Self::join_as(state_dir, std::process::id())
    }

    fn join_as(state_dir: &Path, own: u32) -> Option<Self> {
        let directory = state_dir.join(DIRECTORY);
        fs::create_dir_all(&directory).ok()?;
        let path = directory.join(own.to_string());
        let lock = OpenOptions::new().create(true).write(true).truncate(true).open(&path).ok()?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        let mut met = BTreeSet::new();
        for entry in fs::read_dir(&directory).ok()?.flatten().filter(|entry| entry.path() != path) {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(mut other) = OpenOptions::new().append(true).open(entry.path()) else { continue };
            if flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // It is dead and could not remove its file.
                let _ = fs::remove_file(entry.path());
            } else if writeln!(other, "{own}").is_ok() {
                met.insert(pid);
            }
        }
        Some(Self { path, met, _lock: lock })
    }

    /// Returns the process ids of the runs that were there when this one began, or began since.
    pub fn met(&self) -> Vec<u32> {
        let came = fs::read_to_string(&self.path).unwrap_or_default();
        let came = came.lines().filter_map(|line| line.parse().ok());
        self.met.iter().copied().chain(came).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // Nothing is left if this was the last run. Otherwise the directory is not empty.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runs_know_of_each_other_and_the_dead_are_forgotten() {
        let state = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(state.path().join(DIRECTORY)).expect("fresh");
        fs::write(state.path().join(DIRECTORY).join("3"), "").expect("writable");
        let first = Company::join_as(state.path(), 1).expect("writable");
        assert!(first.met().is_empty(), "run 3 is dead");
        let second = Company::join_as(state.path(), 2).expect("writable");
        assert_eq!((first.met(), second.met()), (vec![2], vec![1]));
        drop(second);
        assert_eq!(first.met(), [2], "it was there");
        assert!(Company::join_as(state.path(), 4).is_some_and(|third| third.met() == [1]));
    }
}
