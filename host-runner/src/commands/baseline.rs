//! `faultline baseline set RUN…`: what `compare --baseline` holds later runs against.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Failure, Outcome, USAGE, emit};
use crate::report::runs;
use crate::result::RunResult;
use crate::store;

/// What to do with the baseline.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Store these runs; they replace those of the same machine and scenario
    Set {
        /// Run directories, results, directories of runs, or patterns in quotes
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<String>,
        /// The file to store them in
        #[arg(long, default_value = "results/baseline.json", value_name = "FILE")]
        baseline: PathBuf,
    },
}

/// Stored runs of any number of machines and scenarios.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Baseline {
    version: u32,
    runs: Vec<RunResult>,
}

/// What has to be equal for a run to be held against another: everything but the kernel.
fn key(run: &RunResult) -> (String, String, String) {
    let lab = run.machine.lab.as_ref().map(ToString::to_string).unwrap_or_default();
    (run.scenario.clone(), run.machine.model.clone().unwrap_or_default(), lab)
}

impl Baseline {
    /// Returns the runs that `after` can be held against.
    ///
    /// # Errors
    ///
    /// A line that says how to store one, if there is none.
    pub fn matching(&self, after: &[RunResult]) -> Result<Vec<RunResult>, String> {
        let found: Vec<_> =
            self.runs.iter().filter(|run| after.iter().any(|other| key(other) == key(run))).cloned().collect();
        let what = after.first().map(key).unwrap_or_default();
        if found.is_empty() {
            let machine = if what.1.is_empty() { "this machine" } else { &what.1 };
            return Err(format!(
                "the baseline has no {} run of {machine}: faultline baseline set RUN stores one",
                what.0
            ));
        }
        Ok(found)
    }

    fn set(&mut self, fresh: Vec<RunResult>) {
        self.runs.retain(|run| fresh.iter().all(|other| key(other) != key(run)));
        self.runs.extend(fresh);
    }
}

/// Reads a baseline.
///
/// # Errors
///
/// If it is not there or is none.
pub fn read(path: &Path) -> Result<Baseline, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(USAGE, format!("cannot read the baseline {}: {error}: faultline baseline set RUN", path.display()))
    };
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}

/// Runs the command.
///
/// # Errors
///
/// If a run cannot be read or the file not be written.
pub fn run(args: &Args) -> Outcome {
    let Action::Set { runs: names, baseline: path } = &args.action;
    let mut fresh = Vec::new();
    for name in names {
        let found = runs::load(name).map_err(|error| Failure::new(USAGE, error))?;
        fresh.extend(found.into_iter().map(|stored| stored.result));
    }
    let mut baseline = if path.exists() { read(path)? } else { Baseline::default() };
    baseline.version = crate::result::VERSION;
    let count = fresh.len();
    baseline.set(fresh);
    let text = serde_json::to_string(&baseline).map_err(Failure::harness)? + "\n";
    let directory = path.parent().unwrap_or(Path::new(""));
    let written = if directory.as_os_str().is_empty() { Ok(()) } else { fs::create_dir_all(directory) };
    written
        .and_then(|()| store::replace(path, text.as_bytes()))
        .map_err(|error| Failure::harness(format!("cannot write {}: {error}", path.display())))?;
    emit(&format!("{}: {count} runs set, {} in all\n", path.display(), baseline.runs.len()))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_replaces_its_machine_and_scenario_only() {
        let runs = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runs");
        let stored = runs::load(runs).expect("stored runs");
        let mut elsewhere = stored[0].result.clone();
        elsewhere.machine.model = Some("another board".into());
        let mut baseline = Baseline { version: 1, runs: vec![stored[0].result.clone(), elsewhere.clone()] };
        baseline.set(vec![stored[1].result.clone()]);
        assert_eq!(baseline.runs, [elsewhere.clone(), stored[1].result.clone()]);
        assert_eq!(baseline.matching(&[stored[0].result.clone()]), Ok(vec![stored[1].result.clone()]));
        elsewhere.machine.model = None;
        assert!(baseline.matching(&[elsewhere]).is_err_and(|error| error.contains("baseline set")));
    }
}
