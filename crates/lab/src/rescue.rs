//! Rescues runs from the work directories of labs that were killed.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use record::journal;

use crate::collect::{Times, publish, take_reports};
use crate::init::protocol::CONSOLE_FILE;
use crate::work_dir::Abandoned;

/// Moves the runs of killed labs into `results` and returns their run directories. They still have to be closed.
///
/// A run that cannot be moved stays in its work directory. The rest of the work directories is deleted.
pub fn rescue(results: &Path) -> Vec<PathBuf> {
    let mut runs = Vec::new();
    for work in Abandoned::all_in(results) {
        let staging = work.staging();
        if staging.join(journal::FILE).exists() {
            let times = Times { started: modified(&work.lock_file()), finished: modified(&staging.join(CONSOLE_FILE)) };
            let release = take_reports(&staging).boot.map_or_else(|| "unknown".into(), |boot| boot.release);
            let Ok(run) = publish(&staging, results, &release, times) else { continue };
            runs.push(run);
        }
        work.remove();
    }
    runs
}

/// Returns the time of the last change of a file, or 1970 if it is unknown.
fn modified(path: &Path) -> Timestamp {
    let time = path.metadata().and_then(|metadata| metadata.modified()).ok();
    time.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::protocol::BOOT_REPORT_FILE;
    use crate::work_dir::WorkDir;
    use std::fs;

    #[test]
    fn the_run_of_a_killed_lab_is_rescued_and_a_living_lab_is_left_alone() {
        let results = tempfile::tempdir().expect("a temporary directory");
        let begun = || {
            let work = WorkDir::create(results.path()).expect("writable");
            fs::write(work.staging().join(journal::FILE), "").expect("writable");
            fs::write(work.staging().join(BOOT_REPORT_FILE), r#"{"release":"6.1.0"}"#).expect("writable");
            work
        };
        let (alive, killed) = (begun(), begun().abandon());
        // A process that another test starts holds the lock, too, until it executes its program.
        const TRIES: usize = 10_000;
        let runs = (0..TRIES).map(|_| rescue(results.path())).find(|runs| !runs.is_empty()).expect("it is free soon");
        assert_eq!(runs.len(), 1);
        assert!(runs[0].to_string_lossy().contains("6.1.0") && runs[0].join(journal::FILE).exists(), "{runs:?}");
        assert!(alive.staging().join(journal::FILE).exists() && !killed.exists());
        assert!(rescue(results.path()).is_empty());
    }
}
