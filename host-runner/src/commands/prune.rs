//! `faultline prune --keep N`: removes old run directories. Runs that died stay.

use std::fs;
use std::path::{Path, PathBuf};

use record::runs::entries;
use record::store::{self, Error};
use record::summary::{SUMMARY, Summary};

use crate::failure::{CommandResult, Failure, no_runs_in};
use crate::output::{emit, emit_json};

/// Arguments of `faultline prune`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of the newest runs to keep; a plan and all its runs count as one
    #[arg(long, value_name = "N")]
    keep: usize,
    /// Directory of runs
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Print the directories that would be removed, and remove nothing
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
/// If the directory cannot be read, or a run cannot be removed.
pub fn run(args: &Args) -> CommandResult {
    fs::read_dir(&args.results).map_err(no_runs_in(&args.results))?;
    let runs: Vec<_> = entries(&args.results).into_iter().filter(|path| is_finished(path)).collect();
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

/// Returns true if this is a run or a plan of faultline, of any version, that has ended. Other programs have files with
/// the name `result.json`, too.
fn is_finished(path: &Path) -> bool {
    let is_ours = |read: Result<(), Error>| matches!(read, Ok(()) | Err(Error::Version(..)));
    let summary = || store::read_versioned::<Summary>(&path.join(SUMMARY));
    let ended = is_ours(store::read(path).map(drop)) || is_ours(summary().map(drop));
    ended && !path.is_symlink() && !store::is_alive(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_dead_and_foreign_directories_stay() {
        const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/record/tests/");
        let stored = |name: &str| fs::read_to_string(TESTS.to_owned() + name).expect("it is stored");
        let (result, summary) = (stored("runs/debian-6.12/result.json"), stored("endings/night/summary.json"));
        let results = tempfile::tempdir().expect("a temporary directory");
        for (name, file, text) in [
            ("0-mine", "result.json", "{}"),
            ("0-other", "summary.json", "[1, 2]"),
            ("1", "result.json", &result),
            ("2", "journal.jsonl", ""),
            ("3", "summary.json", &summary),
            ("3-later", "result.json", "{ \"version\": 1000000 }"),
            ("4", "plan.json", &summary),
            ("5", "summary.json", &summary),
        ] {
            fs::create_dir(results.path().join(name)).expect("fresh");
            fs::write(results.path().join(name).join(file), text).expect("writable");
        }
        let alive = store::RunDir::create(results.path(), "0-alive").expect("writable");
        fs::write(alive.path().join(store::RESULT), &result).expect("writable");
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
        assert_eq!(left().len(), 9, "a dry run removes nothing");
        assert!(run(&args(1, false)).is_ok());
        assert_eq!(left(), ["0-alive", "0-mine", "0-other", "2", "4", "5"]);
    }
}
