//! `faultline list [DIR]`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::answer::{Outcome, emit, emit_json, no_runs_in};
use record::runs::entries;
use record::store;
use record::summary::{self, Summary};
use report::table;

/// Which runs.
#[derive(clap::Args)]
pub struct Args {
    /// Directory that holds run directories
    #[arg(default_value = "results", value_name = "DIR")]
    directory: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One run.
#[derive(Debug, Serialize)]
struct Entry {
    path: PathBuf,
    /// `pass` and so on; `died` for a run without result, `unreadable` for one of another version.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scenario: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    reason: String,
    /// The runs of a plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<Entry>,
}

/// Lists the runs of a directory, the oldest first.
///
/// # Errors
///
/// If it cannot be read.
pub fn run(args: &Args) -> Outcome {
    std::fs::read_dir(&args.directory).map_err(no_runs_in(&args.directory))?;
    let entries: Vec<_> = entries(&args.directory).into_iter().map(entry).collect();
    if args.json {
        emit_json(&serde_json::json!({ "runs": entries }))?;
    } else {
        emit(&table(&entries))?;
    }
    Ok(0)
}

fn entry(path: PathBuf) -> Entry {
    let empty = |status, reason: String| Entry {
        path: path.clone(),
        status,
        kernel: None,
        scenario: None,
        platform: None,
        started: None,
        reason,
        steps: Vec::new(),
    };
    if summary::is_plan(&path) {
        let steps: Vec<_> = entries(&path).into_iter().map(self::entry).collect();
        let kernel = steps.first().and_then(|step| step.kernel.clone());
        let platform = steps.first().and_then(|step| step.platform);
        return Entry { kernel, platform, steps, ..plan(&path, empty) };
    }
    if !path.join(store::RESULT).is_file() {
        return empty("died", "no result: the machine or the run died (faultline recover closes it)".into());
    }
    match store::read(&path) {
        Err(error) => empty("unreadable", error.to_string()),
        Ok(result) => Entry {
            path,
            status: result.verdict.status.name(),
            scenario: Some(result.title().to_owned()),
            kernel: Some(result.machine.kernel_release),
            platform: Some(result.machine.platform.name()),
            started: Some(result.run.started),
            reason: result.verdict.reason,
            steps: Vec::new(),
        },
    }
}

/// Returns what is known of a plan besides its runs.
fn plan(path: &Path, empty: impl Fn(&'static str, String) -> Entry) -> Entry {
    if !path.join(summary::SUMMARY).is_file() {
        return empty("died", "no summary: the machine or the plan died (faultline recover closes it)".into());
    }
    match store::read_versioned::<Summary>(&path.join(summary::SUMMARY)) {
        Err(error) => empty("unreadable", error.to_string()),
        Ok(summary) => Entry {
            scenario: Some(summary.plan),
            started: Some(summary.run.started),
            ..empty(summary.verdict.status.name(), summary.verdict.reason)
        },
    }
}

fn table(entries: &[Entry]) -> String {
    let mut rows = Vec::new();
    for entry in entries {
        rows.push(row(entry, ""));
        rows.extend(entry.steps.iter().map(|step| row(step, "  ")));
    }
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = table::columns_left(&mut out, &rows);
    String::from_utf8_lossy(&out).into_owned()
}

fn row(entry: &Entry, indent: &str) -> [String; 5] {
    let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let platform = entry.platform.unwrap_or("-").to_owned();
    let scenario = format!("{indent}{}", text(&entry.scenario));
    [entry.status.into(), scenario, text(&entry.kernel), platform, format!("{indent}{name}")]
}
