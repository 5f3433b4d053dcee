//! `faultline list [DIR]`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Failure, Outcome, USAGE, emit};
use crate::report::formats::platform_name;
use crate::report::runs::directories;
use crate::store;

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
}

/// Lists the runs of a directory, the oldest first.
///
/// # Errors
///
/// If it cannot be read.
pub fn run(args: &Args) -> Outcome {
    if let Err(error) = std::fs::read_dir(&args.directory) {
        return Err(Failure::new(USAGE, format!("cannot read {}: {error}", args.directory.display())));
    }
    let entries: Vec<_> = directories(&args.directory).into_iter().map(entry).collect();
    let text = if args.json {
        serde_json::to_string_pretty(&serde_json::json!({ "runs": entries })).map_err(Failure::harness)? + "\n"
    } else {
        table(&entries)
    };
    emit(&text)?;
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
    };
    if !path.join(store::RESULT).is_file() {
        return empty("died", "no result: the machine or the run died (faultline recover closes it)".into());
    }
    match store::read(&path) {
        Err(error) => empty("unreadable", error.to_string()),
        Ok(result) => Entry {
            path,
            status: result.verdict.status.name(),
            kernel: Some(result.machine.kernel_release),
            scenario: Some(result.scenario),
            platform: Some(platform_name(result.machine.platform)),
            started: Some(result.run.started),
            reason: result.verdict.reason,
        },
    }
}

fn table(entries: &[Entry]) -> String {
    let mut out = String::new();
    let kernels = entries.iter().filter_map(|entry| entry.kernel.as_ref()).map(String::len).max().unwrap_or(0);
    for entry in entries {
        let name = entry.path.file_name().unwrap_or(Path::new("?").as_os_str()).to_string_lossy();
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<10}  {:<8}  {:<kernels$}  {:<8}  {name}",
            entry.status,
            text(&entry.scenario),
            text(&entry.kernel),
            entry.platform.unwrap_or("-"),
        );
    }
    out
}
