//! `faultline recover`: writes the results of runs that died.

use std::path::{Path, PathBuf};

use klog::quiet::quiet;
use record::journal::WitnessedEnd;
use record::status::{Status, Verdict};
use report::subject::Subject;
use serde::Serialize;

use crate::failure::{CommandResult, Failure, no_runs_in};
use crate::output::{emit, emit_json};
use crate::plan::summary;
use crate::recover;

/// Arguments of `faultline recover`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of runs, or one run directory
    #[arg(default_value = "results", value_name = "RESULTS")]
    results: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A run or a plan that was closed.
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

/// Closes every run that has no result, then every plan. The exit code is that of the worst verdict.
///
/// # Errors
///
/// If the directory cannot be read, or a run cannot be closed. The other runs are closed even then.
pub fn run(args: &Args) -> CommandResult {
    lab::rescue(&args.results);
    let dead = recover::dead_runs(&args.results).map_err(no_runs_in(&args.results))?;
    let plans = summary::dead(&args.results).map_err(no_runs_in(&args.results))?;
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
                    // Ignores a reader that closes the pipe: the result is on disk.
                    let _ = report::table::print(&mut std::io::stdout(), &[scenarios::viewed(&result)]);
                }
                closed.push(Closed::new(path, &result.verdict));
                worst = worst.max(result.verdict.status);
            }
            // A run that is alive will write its own result.
            Err(error @ recover::Error::Alive(_)) => units::note!("{error}"),
            Err(error) => failed = Some(error),
        }
    }
    for path in &plans {
        match summary::close(path) {
            Ok(stored) => {
                closed.push(Closed::new(path, &stored.summary.verdict));
                worst = worst.max(stored.summary.verdict.status);
            }
            Err(error @ recover::Error::Alive(_)) => units::note!("{error}"),
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
