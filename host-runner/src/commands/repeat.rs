//! `faultline repeat RUN`: runs a stored run again, and compares both.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::slice::from_ref;

use clap::Parser;
use lab::RunnerOutput;
use record::result::RunResult;
use record::{runs, store};
use report::compare::{self, Comparison, Options, print};
use report::table::paragraphs;

use crate::failure::{CommandResult, Failure};
use crate::lab_runs;
use crate::output::{emit, emit_json, note_stored};

/// Arguments of `faultline repeat`.
#[derive(clap::Args)]
pub struct Args {
    /// Id of a run, the end of it, or a run directory
    #[arg(value_name = "RUN")]
    run: String,
    /// Directory that receives the new run directory
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Only print the command that repeats the run
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    #[command(flatten)]
    verbosity: lab::Verbosity,
}

/// Runs the command. If both results are equal but for names and times of day, it says EQUAL and the exit code is 0.
/// Otherwise the exit code is that of `compare`.
///
/// # Errors
///
/// If the run cannot be read, cannot be repeated on this machine, or leaves no result.
pub fn run(args: &Args) -> CommandResult {
    let first = match runs::load(&args.run).map_err(Failure::usage)?.as_slice() {
        [only] => only.result.clone(),
        several => return Err(Failure::usage(format!("repeat takes one run, these are {}", several.len()))),
    };
    if args.dry_run {
        emit(&(first.repeat_line() + "\n"))?;
        return Ok(0);
    }
    let (directory, second) = match &first.provenance.lab {
        Some(lab) => in_lab(&lab.repeat, args)?,
        None => here(&first, args)?,
    };
    let comparison =
        compare::compare(from_ref(&first), from_ref(&second), Options::default()).map_err(Failure::usage)?;
    let equal = without_identity(&first) == without_identity(&second);
    if !args.verbosity.is_quiet() {
        note_stored(&directory);
    }
    if args.json {
        emit_json(&serde_json::json!({ "equal": equal, "run": directory, "comparison": comparison }))?;
    } else {
        emit(&text(&first, &second, equal, &comparison))?;
    }
    Ok(if equal { 0 } else { comparison.headline.status().exit_code() })
}

fn text(first: &RunResult, second: &RunResult, equal: bool, comparison: &Comparison) -> String {
    if !equal {
        return print::text(comparison);
    }
    paragraphs([format!("EQUAL: every verdict, count and time of {} is that of {}", second.run.id, first.run.id)])
}

fn in_lab(words: &[String], args: &Args) -> Result<(PathBuf, RunResult), Failure> {
    /// The command line of `faultline lab`.
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: lab::Options,
        #[arg(last = true)]
        argv: Vec<OsString>,
    }
    let Line { mut options, argv } = Line::try_parse_from(words)
        .map_err(|error| Failure::usage(format!("the stored command is not one of this version: {error}")))?;
    options.results.clone_from(&args.results);
    options.verbosity = args.verbosity;
    options.verbosity.runner_output = RunnerOutput::Progress;
    let runs = lab_runs::run(&options, &argv)?;
    let repeated = runs.into_iter().find_map(|run| Some((run.path?, run.result?)));
    repeated.ok_or_else(|| Failure::harness("the repeated run left no result"))
}

/// Repeats a run on this machine. A process of its own does that, so that it reads the words as they were typed.
fn here(first: &RunResult, args: &Args) -> Result<(PathBuf, RunResult), Failure> {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let id = format!("{time}-{}-{:04x}", first.machine.kernel_release, std::process::id() & 0xffff);
    let program = std::env::current_exe().map_err(Failure::harness)?;
    let mut command = Command::new(program);
    command.args(&first.command).arg("--results").arg(&args.results).env("FAULTLINE_RUN_NAME", &id);
    let status = command.stdout(Stdio::null()).status().map_err(Failure::harness)?;
    let directory = args.results.join(id);
    let failed = |error| Failure::harness(format!("the repeated run ended with {status} and no result: {error}"));
    let second = store::read(&directory).map_err(failed)?;
    Ok((directory, second))
}

/// Returns a result without what differs between two equal runs: its name, its times of day, and the words around it.
fn without_identity(run: &RunResult) -> RunResult {
    let mut run = run.clone();
    (run.run.id, run.run.started, run.run.finished) = Default::default();
    run.command.clear();
    run.provenance.lab = None;
    run.tool.peak_resident_kib = None;
    run
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_names_and_times_of_day_are_no_difference() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/record/tests/runs/debian-6.1");
        let first = store::read(&path).expect("a result");
        let mut second = first.clone();
        second.run.id = "another".into();
        assert!(without_identity(&first) == without_identity(&second));
        second.cases[0].mismatches = 1;
        assert!(without_identity(&first) != without_identity(&second));
    }
}
