//! `faultline baseline set RUN…`: what `compare --baseline` holds later runs against.

use std::fs;
use std::path::{Path, PathBuf};

use crate::answer::{Failure, Outcome, emit, emit_json};
use record::exit::USAGE;
use record::runs;
use record::store;
use report::compare::baseline::Baseline;

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
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
///
/// # Errors
///
/// If a run cannot be read or the file not be written.
pub fn run(args: &Args) -> Outcome {
    let Action::Set { runs: names, baseline: path, json } = &args.action;
    let mut fresh = Vec::new();
    for name in names {
        let found = runs::load(name).map_err(|error| Failure::new(USAGE, error))?;
        fresh.extend(found.into_iter().map(|stored| stored.result));
    }
    let read = |path| Baseline::read(path).map_err(|error| Failure::new(USAGE, error));
    let mut baseline = if path.exists() { read(path)? } else { Baseline::default() };
    let count = fresh.len();
    baseline.set(fresh);
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
