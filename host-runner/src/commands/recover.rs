//! `faultline recover`: results for runs that died.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::answer::{Failure, Outcome, emit, emit_json, no_runs_in};
use crate::recover;
use crate::suite;
use klog::quiet::quiet;
use record::journal::WitnessedEnd;
use record::status::{Status, Verdict};
use report::subject::Subject;

/// Which runs.
#[derive(clap::Args)]
pub struct Args {
    /// Directory with run directories, or one of them
    #[arg(default_value = "results", value_name = "RESULTS")]
    results: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A run or a plan that has its result now.
#[derive(Serialize)]
struct Closed {
    path: PathBuf,
    status: &'static str,
    reason: String,
}

impl Closed {
    fn new(path: &Path, verdict: &Verdict) -> Self {
        Self { path: path.to_owned(), status: verdict.status.name(), reason: verdict.reason.clone() }
    }

    fn line(&self) -> String {
        format!("{}: {}: {}\n", self.path.display(), self.status, quiet(&self.reason))
    }
}

/// Closes every run that has no result, then every plan; the exit code is the worst of their verdicts.
///
/// # Errors
///
/// If the directory cannot be read, or a run cannot be closed; the others are closed all the same.
pub fn run(args: &Args) -> Outcome {
    lab::rescue(&args.results);
    let dead = recover::dead_runs(&args.results).map_err(no_runs_in(&args.results))?;
    let plans = suite::dead(&args.results).map_err(no_runs_in(&args.results))?;
    if dead.is_empty() && plans.is_empty() && !args.json {
        emit(&format!("nothing to recover in {}: every run has its result\n", args.results.display()))?;
    }
    let (mut worst, mut failed, mut closed) = (Status::Pass, None, Vec::new());
    for path in &dead {
        match recover::close(path, &WitnessedEnd::default()) {
            Ok(result) => {
                report::formats::write_all(path, &Subject::from(scenarios::viewed(&result)))
                    .map_err(Failure::harness)?;
                if !args.json {
                    // A closed pipe is the reader's choice; the result is on disk.
                    let _ = report::table::print(&mut std::io::stdout(), &[scenarios::viewed(&result)]);
                }
                closed.push(Closed::new(path, &result.verdict));
                worst = worst.max(result.verdict.status);
            }
            // A run that is alive needs nothing.
            Err(error @ recover::Error::Alive(_)) => eprintln!("{error}"),
            Err(error) => failed = Some(error),
        }
    }
    for path in &plans {
        match suite::close(path) {
            Ok(stored) => {
                closed.push(Closed::new(path, &stored.summary.verdict));
                worst = worst.max(stored.summary.verdict.status);
            }
            Err(error @ recover::Error::Alive(_)) => eprintln!("{error}"),
            Err(error) => failed = Some(error),
        }
    }
    if args.json {
        emit_json(&serde_json::json!({ "recovered": closed }))?;
    } else {
        emit(&closed.iter().map(Closed::line).collect::<String>())?;
    }
    failed.map_or(Ok(worst.exit_code()), |error| Err(Failure::harness(error)))
}
