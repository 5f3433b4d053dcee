//! `faultline baseline set RUN…`: stores the runs with which `compare --baseline` compares later runs.

use std::fs;
use std::path::{Path, PathBuf};

use record::answer::Answer;
use record::{runs, store};
use report::compare::baseline::Baseline;

use crate::failure::{CommandResult, Failure};
use crate::output::{emit, emit_json};

/// Arguments of `faultline baseline`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Store runs; they replace earlier runs of the same machine and scenario
    Set {
        /// Run directories, results, directories of runs, or patterns in quotes
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<String>,
        /// File of the baseline
        #[arg(long, default_value = "results/baseline.json", value_name = "FILE")]
        baseline: PathBuf,
        /// Expect this answer of the machine's `check` from now on: a night is not failed for it
        #[arg(long, value_name = "ANSWER")]
        expect: Option<Answer>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
///
/// # Errors
///
/// If a run cannot be read, or the file cannot be written.
pub fn run(args: &Args) -> CommandResult {
    let Action::Set { runs: names, baseline: path, expect, json } = &args.action;
    let mut fresh = Vec::new();
    for name in names {
        let found = runs::load(name).map_err(Failure::usage)?;
        fresh.extend(found.into_iter().map(|stored| stored.result));
    }
    let read = |path| Baseline::read(path).map_err(Failure::usage);
    let mut baseline = if path.exists() { read(path)? } else { Baseline::default() };
    let count = fresh.len();
    baseline.set(fresh, *expect).map_err(Failure::usage)?;
    let text = serde_json::to_string(&baseline).map_err(Failure::harness)? + "\n";
    let directory = path.parent().unwrap_or(Path::new(""));
    let written = if directory.as_os_str().is_empty() { Ok(()) } else { fs::create_dir_all(directory) };
    written
        .and_then(|()| store::replace(path, text.as_bytes()))
        .map_err(|error| Failure::harness(format!("cannot write {}: {error}", path.display())))?;
    if *json {
        emit_json(&serde_json::json!({ "baseline": path, "set": count, "runs": baseline.len() }))?;
    } else {
        emit(&format!("{}: {count} runs set, {} in all\n", path.display(), baseline.len()))?;
    }
    Ok(0)
}
