//! `faultline list [DIR]`: lists stored runs.

use std::path::{Path, PathBuf};

use record::answer::Answer;
use record::runs::{PLACES, entries};
use record::store;
use record::summary::{self, Summary};
use report::table::{Align, columns};
use serde::Serialize;

use crate::failure::{CommandResult, no_runs_in};
use crate::output::{emit, emit_json};

/// Arguments of `faultline list`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of runs [default: results and /var/lib/faultline, as far as they exist]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A run or a plan.
#[derive(Debug, Serialize)]
struct ListedRun {
    path: PathBuf,
    /// Status of the verdict, such as `pass`. `died` for a run without a result, `unreadable` for one of another version.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scenario: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    reason: String,
    /// Runs of the plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<ListedRun>,
}

/// Lists the runs of a directory, the oldest first.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn run(args: &Args) -> CommandResult {
    let directories = match &args.directory {
        Some(directory) => vec![directory.clone()],
        None => {
            let known = PLACES.map(PathBuf::from).into_iter().filter(|place| place.is_dir()).collect::<Vec<_>>();
            if known.is_empty() { vec![PLACES[0].into()] } else { known }
        }
    };
    for directory in &directories {
        std::fs::read_dir(directory).map_err(no_runs_in(directory))?;
    }
    let entries: Vec<_> = directories.iter().flat_map(|directory| entries(directory)).map(entry).collect();
    if args.json {
        emit_json(&serde_json::json!({ "runs": entries }))?;
    } else {
        emit(&table(&entries))?;
    }
    Ok(0)
}

fn entry(path: PathBuf) -> ListedRun {
    let empty = |status, reason: String| ListedRun {
        path: path.clone(),
        status,
        kernel: None,
        scenario: None,
        platform: None,
        started: None,
        answer: None,
        reason,
        steps: Vec::new(),
    };
    if summary::is_plan(&path) {
        let steps: Vec<_> = entries(&path).into_iter().map(self::entry).collect();
        let kernel = steps.first().and_then(|step| step.kernel.clone());
        let platform = steps.first().and_then(|step| step.platform);
        return ListedRun { kernel, platform, steps, ..plan(&path, empty) };
    }
    if !path.join(store::RESULT).is_file() {
        return empty("died", "no result: the machine or the run died (faultline recover closes it)".into());
    }
    match store::read(&path) {
        Err(error) => empty("unreadable", error.to_string()),
        Ok(result) => ListedRun {
            path,
            status: result.verdict.status.name(),
            answer: result.answer(),
            scenario: Some(result.title().to_owned()),
            kernel: Some(result.machine.kernel_release),
            platform: Some(result.machine.platform.name()),
            started: Some(result.run.started),
            reason: result.verdict.reason,
            steps: Vec::new(),
        },
    }
}

/// Returns a plan without its runs.
fn plan(path: &Path, empty: impl Fn(&'static str, String) -> ListedRun) -> ListedRun {
    if !path.join(summary::SUMMARY).is_file() {
        return empty("died", "no summary: the machine or the plan died (faultline recover closes it)".into());
    }
    match store::read_versioned::<Summary>(&path.join(summary::SUMMARY)) {
        Err(error) => empty("unreadable", error.to_string()),
        Ok(summary) => ListedRun {
            scenario: Some(summary.plan),
            started: Some(summary.run.started),
            ..empty(summary.verdict.status.name(), summary.verdict.reason)
        },
    }
}

fn table(entries: &[ListedRun]) -> String {
    let mut rows = Vec::new();
    for entry in entries {
        rows.push(row(entry, ""));
        rows.extend(entry.steps.iter().map(|step| row(step, "  ")));
    }
    let mut out = Vec::new();
    // Writing to memory cannot fail.
    let _ = columns(&mut out, &rows, Align::Left);
    String::from_utf8_lossy(&out).into_owned()
}

/// Returns status, scenario or answer, and id, which has the time and the kernel's release.
fn row(entry: &ListedRun, indent: &str) -> [String; 3] {
    let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
    let scenario = entry.scenario.as_deref().unwrap_or("-");
    let answer = entry.answer.map(|answer| format!(" {}", answer.words())).unwrap_or_default();
    [entry.status.into(), format!("{indent}{scenario}{answer}"), format!("{indent}{name}")]
}
