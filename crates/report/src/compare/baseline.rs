//! The baseline: a file of runs with which later runs are compared.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use record::result::RunResult;
use serde::{Deserialize, Serialize};

/// Name of the baseline's file in a directory of results.
pub const FILE: &str = "baseline.json";

/// Error of reading a baseline, or of finding a run in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the baseline {0}: {1}: faultline baseline set RUN writes one")]
    Read(PathBuf, io::Error),
    /// The file is not a baseline of this version.
    #[error("{0} is no baseline of this version: {1}: remove it and store one with faultline baseline set RUN")]
    Format(PathBuf, serde_json::Error),
    /// The baseline has no run to compare with.
    #[error("the baseline has no {scenario} run of {machine}: faultline baseline set RUN stores one")]
    Nothing {
        /// Title of the run.
        scenario: String,
        /// Model of the machine.
        machine: String,
    },
}

/// Runs of any number of machines and scenarios.
#[derive(Debug, Serialize, Deserialize)]
pub struct Baseline {
    version: u32,
    runs: Vec<RunResult>,
}

impl Default for Baseline {
    fn default() -> Self {
        Self { version: record::result::VERSION, runs: Vec::new() }
    }
}

/// Returns the properties that two runs must share to be compared: the scenario or step, the machine's model and the setup
/// of the lab. The kernel is not one of them.
pub fn key(run: &RunResult) -> (String, String, String) {
    let lab = run.lab_setup().and_then(|lab| serde_json::to_string(&lab).ok()).unwrap_or_default();
    (run.title().to_owned(), run.machine.model.clone().unwrap_or_default(), lab)
}

impl Baseline {
    /// Reads a baseline.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not a baseline.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| Error::Read(path.into(), error))?;
        serde_json::from_str(&text).map_err(|error| Error::Format(path.into(), error))
    }

    /// Returns the runs with which `after` can be compared.
    ///
    /// # Errors
    ///
    /// [`Error::Nothing`] if there is none.
    pub fn matching(&self, after: &[RunResult]) -> Result<Vec<RunResult>, Error> {
        let found: Vec<_> =
            self.runs.iter().filter(|run| after.iter().any(|other| key(other) == key(run))).cloned().collect();
        if found.is_empty() {
            let (scenario, model, _) = after.first().map(key).unwrap_or_default();
            let machine = if model.is_empty() { "this machine".into() } else { model };
            return Err(Error::Nothing { scenario, machine });
        }
        Ok(found)
    }

    /// Adds runs. They replace earlier runs of the same machine and scenario.
    pub fn set(&mut self, fresh: Vec<RunResult>) {
        self.runs.retain(|run| fresh.iter().all(|other| key(other) != key(run)));
        self.runs.extend(fresh);
    }

    /// Returns true if the baseline has this very run.
    pub fn contains(&self, run: &RunResult) -> bool {
        self.runs.iter().any(|stored| stored.run.id == run.run.id)
    }

    /// Returns the number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Returns true if there is no run.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::runs;

    #[test]
    fn a_run_replaces_its_machine_and_scenario_only() {
        let stored = runs::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../record/tests/runs")).expect("stored runs");
        let mut elsewhere = stored[0].result.clone();
        elsewhere.machine.model = Some("another board".into());
        let mut baseline = Baseline { version: 1, runs: vec![stored[0].result.clone(), elsewhere.clone()] };
        baseline.set(vec![stored[1].result.clone()]);
        assert_eq!(baseline.runs, [elsewhere.clone(), stored[1].result.clone()]);
        let matching = baseline.matching(&[stored[0].result.clone()]).expect("there is one");
        assert_eq!(matching, [stored[1].result.clone()]);
        assert!(
            baseline.contains(&elsewhere) && !baseline.contains(&stored[0].result)
                || stored[0].result.run == elsewhere.run
        );
        elsewhere.machine.model = None;
        assert!(baseline.matching(&[elsewhere]).is_err_and(|error| error.to_string().contains("baseline set")));
    }
}
