//! `faultline recover`: results for runs that died.

use std::path::PathBuf;

use super::{Failure, Outcome};
use crate::recover::{self, Witness};
use crate::report::{self, subject::Subject, words::quiet};
use crate::result::Status;
use crate::suite;

/// Which runs.
#[derive(clap::Args)]
pub struct Args {
    /// Directory with run directories, or one of them
    #[arg(default_value = "results", value_name = "RESULTS")]
    results: PathBuf,
}

/// Closes every run that has no result, then every plan; the exit code is the worst of their verdicts.
///
/// # Errors
///
/// If the directory cannot be read, or a run cannot be closed; the others are closed all the same.
pub fn run(args: &Args) -> Outcome {
    let unreadable = |error| Failure::harness(format!("cannot read {}: {error}", args.results.display()));
    let dead = recover::dead_runs(&args.results).map_err(unreadable)?;
    let plans = suite::dead(&args.results).map_err(unreadable)?;
    if dead.is_empty() && plans.is_empty() {
        println!("nothing to recover in {}: every run has its result", args.results.display());
        return Ok(0);
    }
    let (mut worst, mut failed) = (Status::Pass, None);
    for path in &dead {
        match recover::close(path, &Witness::default()) {
            Ok(result) => {
                worst = worst.max(result.verdict.status);
                report::formats::write_all(path, &Subject::from(&result)).map_err(Failure::harness)?;
                // A closed pipe is the reader's choice; the result is on disk.
                let _ = report::table::print(&mut std::io::stdout(), &[&result]);
                println!("{}: {}: {}", path.display(), result.verdict.status.name(), quiet(&result.verdict.reason));
            }
            // A run that is alive needs nothing.
            Err(error @ recover::Error::Alive(_)) => eprintln!("{error}"),
            Err(error) => failed = Some(error),
        }
    }
    for path in &plans {
        match suite::close(path) {
            Ok(stored) => {
                let verdict = &stored.summary.verdict;
                worst = worst.max(verdict.status);
                println!("{}: {}: {}", path.display(), verdict.status.name(), quiet(&verdict.reason));
            }
            Err(error @ recover::Error::Alive(_)) => eprintln!("{error}"),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(worst.exit_code()), |error| Err(Failure::harness(error)))
}
