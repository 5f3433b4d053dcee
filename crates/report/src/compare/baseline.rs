//! The baseline: a file of runs with which later runs are compared.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use record::answer::Answer;
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
    /// A run does not give the answer that is to be expected from now on.
    #[error("--expect {}: {}", expected.name(), other_answer(*found))]
    Unexpected {
        /// The answer to be expected.
        expected: Answer,
        /// The answer that a run gives; none if no run answers.
        found: Option<Answer>,
    },
    /// The baseline has no run to compare with.
    #[error("the baseline has no {scenario} run of {machine}: faultline baseline set RUN stores one")]
    Nothing {
        /// Title of the run.
        scenario: String,
        /// Model of the machine.
        machine: String,
    },
}

fn other_answer(found: Option<Answer>) -> String {
    let none = || "none of the runs answers: name one of faultline check".into();
    found.map_or_else(none, |answer| format!("a run answers {}", answer.words()))
}

/// Runs of any number of machines and scenarios.
#[derive(Debug, Serialize, Deserialize)]
pub struct Baseline {
    version: u32,
    runs: Vec<RunResult>,
    /// Answers that are known and wanted, so that a night does not fail for them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    expected: Vec<Expected>,
}

/// The answer that a machine is known to give.
#[derive(Debug, Serialize, Deserialize)]
struct Expected {
    key: (String, String, String),
    answer: Answer,
}

impl Default for Baseline {
    fn default() -> Self {
        Self { version: record::result::VERSION, runs: Vec::new(), expected: Vec::new() }
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

    /// Adds runs. They replace earlier runs of the same machine and scenario, and what was expected of these. If
    /// `expected` is given, the machines of the runs that answer are expected to give this answer from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Unexpected`] if a run gives another answer, or if none gives an answer. The baseline is then as before.
    pub fn set(&mut self, fresh: Vec<RunResult>, expected: Option<Answer>) -> Result<(), Error> {
        let answers = || fresh.iter().filter_map(|run| Some((run, run.answer()?)));
        if let Some(expected) = expected {
            let other = answers().map(|(_, answer)| answer).find(|answer| *answer != expected);
            if other.is_some() || answers().next().is_none() {
                return Err(Error::Unexpected { expected, found: other });
            }
        }
        self.expected.retain(|known| fresh.iter().all(|run| key(run) != known.key));
        let expectation = |(run, answer): (&RunResult, Answer)| Expected { key: key(run), answer };
        self.expected.extend(answers().filter(|_| expected.is_some()).map(expectation));
        self.runs.retain(|run| fresh.iter().all(|other| key(other) != key(run)));
        self.runs.extend(fresh);
        Ok(())
    }

    /// Returns whether a run gives the answer that its machine is expected to give.
    pub fn expects(&self, run: &RunResult) -> bool {
        let answer = run.answer();
        self.expected.iter().any(|known| Some(known.answer) == answer && known.key == key(run))
    }

    /// Returns true if the baseline has this very run.
    pub fn contains(&self, run: &RunResult) -> bool {
        self.runs.iter().any(|stored| stored.run.id == run.run.id)
    }

    /// Returns the ids of all runs.
    pub fn ids(&self) -> Vec<String> {
        self.runs.iter().map(|run| run.run.id.clone()).collect()
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
        let mut baseline =
            Baseline { version: 1, runs: vec![stored[0].result.clone(), elsewhere.clone()], ..Baseline::default() };
        baseline.set(vec![stored[1].result.clone()], None).expect("nothing is expected");
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

    #[test]
    fn only_the_expected_answer_is_expected() {
        let stored = runs::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../record/tests/runs")).expect("stored runs");
        let answering = |answer: Answer| {
            let mut run = stored[0].result.clone();
            run.facts.insert(record::answer::FACT.into(), answer.name().into());
            run
        };
        let (affected, broken) = (answering(Answer::Affected), answering(Answer::Broken));
        let mut baseline = Baseline::default();
        let mut set = |run: &RunResult, expected| baseline.set(vec![run.clone()], expected).map_err(|e| e.to_string());
        assert_eq!(set(&broken, Some(Answer::Affected)), Err("--expect affected: a run answers BROKEN".into()));
        assert!(set(&stored[0].result, Some(Answer::Affected)).is_err_and(|error| error.contains("none of the runs")));
        assert_eq!(set(&affected, Some(Answer::Affected)), Ok(()));
        assert_eq!([&affected, &broken, &stored[0].result].map(|run| baseline.expects(run)), [true, false, false]);
        baseline.set(vec![affected.clone()], None).expect("nothing is expected");
        assert!(!baseline.expects(&affected), "set anew without --expect");
    }
}
