//! `faultline prune --keep N`: removes old run directories. Runs that died stay.

use std::fs;
use std::path::PathBuf;

use record::runs::entries;
use record::status::Status;
use record::store::{self, Error};
use record::summary::{SUMMARY, Summary};
use report::compare::baseline::{self, Baseline};

use crate::failure::{CommandResult, Failure, no_runs_in};
use crate::output::{emit, emit_json};

/// Arguments of `faultline prune`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of the newest runs of each plan and scenario to keep; a plan and all its runs count as one
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

/// Removes all but the newest finished runs of each plan and scenario. A run that died is kept until it has been recovered.
/// The last one that passed, the last one that failed, and those of the baseline are kept, too.
///
/// # Errors
///
/// If the directory cannot be read, or a run cannot be removed.
pub fn run(args: &Args) -> CommandResult {
    fs::read_dir(&args.results).map_err(no_runs_in(&args.results))?;
    let file = args.results.join(baseline::FILE);
    let baseline = if file.exists() { Baseline::read(&file).map_err(Failure::usage)?.ids() } else { Vec::new() };
    let finished = entries(&args.results).into_iter().filter_map(finished).collect::<Vec<_>>();
    let old: Vec<_> = old(&finished, args.keep, &baseline).into_iter().map(|run| &run.path).collect();
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

/// A run or a plan that has ended.
struct Finished {
    path: PathBuf,
    /// Name of the plan or of the scenario. Empty if another version wrote it.
    name: String,
    /// Status of its verdict, if this version can read it.
    status: Option<Status>,
    /// Names of its runs.
    runs: Vec<String>,
}

/// Returns those that may go: all but the newest `keep` of each name, the last passing and the last failing one of each
/// name, and those with a run of the baseline. `runs` is ordered by time.
fn old<'a>(runs: &'a [Finished], keep: usize, baseline: &[String]) -> Vec<&'a Finished> {
    let later = |n: usize, alike: &dyn Fn(&Finished) -> bool| {
        runs[n + 1..].iter().filter(|other| other.name == runs[n].name && alike(other)).count()
    };
    let passes = |run: &Finished| run.status == Some(Status::Pass);
    let fails = |run: &Finished| run.status.is_some_and(|status| status > Status::Skip);
    let is_last = |n: usize, kind: &dyn Fn(&Finished) -> bool| kind(&runs[n]) && later(n, kind) == 0;
    let may_go = |n: &usize| {
        later(*n, &|_| true) >= keep
            && !is_last(*n, &passes)
            && !is_last(*n, &fails)
            && !runs[*n].runs.iter().any(|run| baseline.contains(run))
    };
    (0..runs.len()).filter(may_go).map(|n| &runs[n]).collect()
}

/// Returns a run or a plan of faultline, of any version, that has ended. Other programs have files with the name
/// `result.json`, too.
fn finished(path: PathBuf) -> Option<Finished> {
    if path.is_symlink() || store::is_alive(&path) {
        return None;
    }
    let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let summary = store::read_versioned::<Summary>(&path.join(SUMMARY)).map(|plan| Finished {
        path: path.clone(),
        name: plan.plan,
        status: Some(plan.verdict.status),
        runs: plan.steps.into_iter().filter_map(|step| step.directory).collect(),
    });
    let result = store::read(&path).map(|run| Finished {
        path: path.clone(),
        name: run.scenario,
        status: Some(run.verdict.status),
        runs: vec![run.run.id],
    });
    let unread = Finished { path: path.clone(), name: String::new(), status: None, runs: vec![id] };
    match (result, summary) {
        (Ok(found), _) | (_, Ok(found)) => Some(found),
        (Err(Error::Version(..)), _) | (_, Err(Error::Version(..))) => Some(unread),
        _ => None,
    }
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
        assert_eq!(left(), ["0-alive", "0-mine", "0-other", "1", "2", "3-later", "4", "5"], "each kind keeps its last");
        assert!(run(&args(0, false)).is_ok());
        assert_eq!(left(), ["0-alive", "0-mine", "0-other", "1", "2", "4", "5"], "the last passes and fails stay");
    }

    #[test]
    fn each_name_keeps_its_last_pass_its_last_failure_and_the_baseline() {
        let run = |n: usize, name: &str, status| Finished {
            path: n.to_string().into(),
            name: name.into(),
            status: Some(status),
            runs: vec![n.to_string()],
        };
        let (pass, fail, skip) = (Status::Pass, Status::Fail, Status::Skip);
        let nights = [pass, fail, pass, fail, pass, pass, skip, skip].into_iter().enumerate();
        let mut runs: Vec<_> = nights.map(|(n, status)| run(n, "nightly", status)).collect();
        runs.extend([run(8, "quick", skip), run(9, "quick", skip)]);
        let old = old(&runs, 1, &["0".to_owned()]);
        assert_eq!(old.iter().map(|run| run.runs[0].as_str()).collect::<Vec<_>>(), ["1", "2", "4", "6", "8"]);
    }
}
