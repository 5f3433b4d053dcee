//! Stored runs by name. A name is the id of a run, or the end of it, a run directory, a result file, the directory of a plan or of runs, or a pattern with
//! `*`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::journal::{FILE as JOURNAL, Journal};
use crate::result::RunResult;
use crate::store::{self, RESULT};
use crate::summary;

/// An error of finding or reading runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No run has this name.
    #[error("no run {0}: name its id, a run directory, its result.json, a directory of runs, or a pattern in quotes")]
    Nothing(String),
    /// The name is not a valid pattern.
    #[error("'{0}' is no pattern: {1}")]
    Pattern(String, glob::PatternError),
    /// The run ended by itself, so there is nothing to resume.
    #[error("{0} ended by itself: there is nothing to resume, run it again")]
    Complete(PathBuf),
    /// A run cannot be read.
    #[error("{0}")]
    Store(#[from] store::Error),
}

/// A stored run with its directory.
#[derive(Clone, Debug)]
pub struct StoredRun {
    /// The run directory.
    pub dir: PathBuf,
    /// The result of the run.
    pub result: RunResult,
}

/// Directories in which a run is found by its id alone: that of the command line, and that of the packaged service.
pub const PLACES: [&str; 2] = ["results", "/var/lib/faultline"];

/// Returns the directory of the run or plan with this id, or with an id that ends in `-` and this word, in one of
/// `places`.
pub fn by_id<'a>(id: &str, places: impl IntoIterator<Item = &'a str>) -> Option<PathBuf> {
    if id.is_empty() || id.contains(['/', '*', '?', '[']) {
        return None;
    }
    let has_id = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == id || name.strip_suffix(id).is_some_and(|rest| rest.ends_with('-'))
    };
    let in_place = |place: &str| {
        let place = Path::new(place);
        entries(place).into_iter().chain(directories(place)).rfind(has_id)
    };
    places.into_iter().find_map(in_place)
}

/// Returns the path that a name stands for: the name itself, or the directory of the run or plan with this id.
pub fn locate(name: &str) -> PathBuf {
    let path = PathBuf::from(name);
    if path.exists() { path } else { by_id(name, PLACES).unwrap_or(path) }
}

/// Reads all runs that `name` stands for, in the order of their names.
///
/// # Errors
///
/// Fails if there is no such run, or if one cannot be read.
pub fn load(name: &str) -> Result<Vec<StoredRun>, Error> {
    let path = locate(name);
    let paths = if path.exists() {
        results(&path)
    } else {
        let matches = glob::glob(name).map_err(|error| Error::Pattern(name.into(), error))?;
        matches.flatten().flat_map(|path| results(&path)).collect()
    };
    if paths.is_empty() {
        return Err(Error::Nothing(name.into()));
    }
    paths.into_iter().map(|path| read(&path)).collect()
}

/// Reads a run that died and that `faultline recover` closed: its result, and the names of the cases that had not
/// begun.
///
/// # Errors
///
/// Fails if `run` is not a run, is not closed yet, or ended by itself.
pub fn read_dead(run: &Path) -> Result<(RunResult, Vec<String>), Error> {
    let journal = Journal::read(run).map_err(|_| Error::Nothing(run.display().to_string()))?;
    let result = store::read(run)?;
    if result.recovered { Ok((result, journal.not_begun())) } else { Err(Error::Complete(run.into())) }
}

fn read(path: &Path) -> Result<StoredRun, Error> {
    let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
    Ok(StoredRun { dir, result: store::read(path)? })
}

/// Returns the result files that a path stands for.
fn results(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let own = path.join(RESULT);
    if own.is_file() {
        return vec![own];
    }
    directories(path).into_iter().map(|dir| dir.join(RESULT)).filter(|result| result.is_file()).collect()
}

/// Returns all run directories below `results`, including those of dead runs and those in the directories of plans.
/// They are ordered by name, and so by time.
pub fn directories(results: &Path) -> Vec<PathBuf> {
    let expand = |path: PathBuf| if summary::is_plan(&path) { entries(&path) } else { vec![path] };
    entries(results).into_iter().flat_map(expand).collect()
}

/// Returns the directories of runs and of plans directly in `results`, ordered by name.
pub fn entries(results: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(results).into_iter().flatten().flatten().map(|entry| entry.path());
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let is_run = |path: &Path| path.join(RESULT).is_file() || path.join(JOURNAL).is_file() || summary::is_plan(path);
    let mut found: Vec<_> = entries.filter(|path| !hidden(path) && is_run(path)).collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runs");

    #[test]
    fn every_kind_of_name_finds_its_runs() {
        let count = |name: String| load(&name).map(|runs| runs.len()).ok();
        assert_eq!(count(RUNS.into()), Some(2));
        assert_eq!(count(format!("{RUNS}/debian-6.1")), Some(1));
        assert_eq!(count(format!("{RUNS}/debian-6.1/result.json")), Some(1));
        assert_eq!(count(format!("{RUNS}/debian-*")), Some(2));
        assert_eq!(count(format!("{RUNS}/nothing-*")), None);
        let id = |id| by_id(id, [RUNS]).and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let found = ["debian-6.1", "6.12", ".12", "", "6"].map(id);
        assert_eq!(found, [Some("debian-6.1".into()), Some("debian-6.12".into()), None, None, None]);
        assert!(
            load(&format!("{RUNS}/debian-6.12"))
                .is_ok_and(|runs| runs.len() == 1 && runs[0].dir.ends_with("debian-6.12"))
        );
    }
}
