//! `faultline prune --keep N`: old run directories go, dead ones stay.

use std::fs;
use std::path::PathBuf;

use super::{Failure, Outcome, emit, emit_json};
use crate::report::runs::entries;
use crate::{store, suite};

/// How many to keep, and where.
#[derive(clap::Args)]
pub struct Args {
    /// Keep this many of the newest runs; a plan and all its runs count as one
    #[arg(long, value_name = "N")]
    keep: usize,
    /// Directory that holds run directories
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Print what would go and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Removes all but the newest finished runs. A run that died is kept until it has been recovered.
///
/// # Errors
///
/// If one cannot be removed.
pub fn run(args: &Args) -> Outcome {
    let ended = |path: &PathBuf| path.join(store::RESULT).is_file() || path.join(suite::SUMMARY).is_file();
    let finished = |path: &PathBuf| ended(path) && !path.is_symlink();
    let runs: Vec<_> = entries(&args.results).into_iter().filter(finished).collect();
    let old = &runs[..runs.len().saturating_sub(args.keep)];
    for path in old.iter().filter(|_| !args.dry_run) {
        fs::remove_dir_all(path)
            .map_err(|error| Failure::harness(format!("cannot remove {}: {error}", path.display())))?;
    }
    if args.json {
        emit_json(&serde_json::json!({ "dry_run": args.dry_run, "removed": old }))?;
    } else {
        emit(&old.iter().map(|path| format!("{}\n", path.display())).collect::<String>())?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_dead_stay() {
        let results = tempfile::tempdir().expect("a temporary directory");
        let runs = [("1", "result.json"), ("2", "journal.jsonl"), ("3", "summary.json"), ("4", "plan.json")];
        for (name, file) in runs.into_iter().chain([("5", "summary.json")]) {
            fs::create_dir(results.path().join(name)).expect("fresh");
            fs::write(results.path().join(name).join(file), "{}").expect("writable");
        }
        fs::create_dir(results.path().join("0-mine")).expect("fresh");
        let args = |keep, dry_run| Args { keep, results: results.path().to_owned(), dry_run, json: false };
        let left = || {
            let mut names: Vec<_> = fs::read_dir(results.path())
                .expect("there")
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        assert!(run(&args(0, true)).is_ok());
        assert_eq!(left().len(), 6, "a dry run removes nothing");
        assert!(run(&args(1, false)).is_ok());
        assert_eq!(left(), ["0-mine", "2", "4", "5"]);
    }
}
