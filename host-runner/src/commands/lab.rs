//! `faultline lab`: runs a scenario, a plan or another command in emulated hosts.

use std::ffi::OsString;

use klog::quiet::quiet;
use lab::RunnerOutput;
use record::format::Format;
use report::formats;
use report::subject::Subject;
use scenarios::options::Common;

use crate::failure::{CommandResult, Failure};
use crate::invocation::{Invocation, unknown_scenario};
use crate::lab_runs::{self, LabRun, worse};
use crate::lab_settings;
use crate::output::{emit, emit_json, note_stored};
use crate::plan::in_lab;
use crate::plan::request::PlanRequest;
use crate::program_file::InLab;

/// The command line of `faultline lab`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: lab::Options,
    /// Exit as `git bisect run` expects: 0 good, 1 bad, 125 for any run that shows neither
    #[arg(long)]
    bisect: bool,
    /// Print JSON in place of the runner's output; for a plan, print its summary
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    /// Command for the emulated host: check, run SCENARIO…, run PLAN…, which boots the kernel afresh for each step, or
    /// exec PROGRAM…, which runs a program that `--with` put there
    #[arg(last = true, required = true, value_name = "ARGS")]
    argv: Vec<OsString>,
}

impl Args {
    /// Returns whether the exit code is for `git bisect run`. The option may stand before or after `--`.
    pub fn bisect(&self) -> bool {
        self.bisect || self.argv.iter().any(|word| word == BISECT)
    }
}

impl Args {
    /// Returns the command for the emulated host.
    pub fn inside(&self) -> Vec<OsString> {
        let is_exec = self.argv.first().is_some_and(|word| word == EXEC);
        // The words of a program are its own.
        let kept = |word: &&OsString| is_exec || *word != BISECT;
        let run = is_exec.then(|| "run".into());
        run.into_iter().chain(self.argv.iter().filter(kept).cloned()).collect()
    }
}

/// The option that the runner in the emulated host never gets, because the lab chooses the exit code.
const BISECT: &str = "--bisect";

/// `exec PROGRAM…` is `run exec PROGRAM…`.
const EXEC: &str = "exec";

/// Runs the lab. The exit code is that of the worst run.
///
/// # Errors
///
/// The obstacle that keeps the lab itself from working, or a mistake in the words for the emulated host.
pub fn run(args: &Args) -> CommandResult {
    let argv = args.inside();
    let mut options = args.options.clone();
    if let Some(request) = PlanRequest::parse_in_lab(&argv)? {
        options.verbosity.runner_output = RunnerOutput::Progress;
        return in_lab::run(&if args.json { request.with_json() } else { request }, &options);
    }
    let (mut options, mut argv) = lab_settings::for_check(&options, &argv)?.unwrap_or((options, argv));
    let common = match InLab::parse(&argv)? {
        Some(program) => {
            options.with.push(program.file);
            argv = program.argv;
            Some(program.common)
        }
        None => scenario_options(&argv)?,
    };
    if common.is_some() {
        // The results are printed here, one after another, and the kernels have the names that the user gave.
        // Right after the name, because what follows may belong to a program.
        argv.insert(2, "--quiet".into());
    }
    if common.is_some() || args.json {
        options.verbosity.runner_output = RunnerOutput::Progress;
    }
    let runs = lab_runs::run(&options, &argv)?;
    match common {
        _ if args.json => emit_json(&document(&runs))?,
        Some(common) if common.format() == Format::Json && runs.len() > 1 => emit_json(&document(&runs))?,
        Some(common) if common.quiet => {}
        Some(common) => print(&runs, common.format())?,
        None => {}
    }
    for run in &runs {
        if let Some(end) = run.end.as_ref().filter(|_| run.result.is_none() && run.exit_code != 0) {
            units::note!("{}: {}", run.kernel, quiet(&end.to_string()));
        }
        if let Some(path) = run.path.as_ref().filter(|_| !options.verbosity.is_quiet()) {
            note_stored(path);
        }
    }
    Ok(runs.iter().map(|run| run.exit_code_for(args.bisect())).fold(0, worse))
}

/// Returns the options of the scenario that the words run; none if they are another command.
///
/// # Errors
///
/// If the words are a run that the runner would refuse, so that nothing boots for it.
fn scenario_options(argv: &[OsString]) -> Result<Option<Common>, Failure> {
    let [run, words @ ..] = argv else { return Ok(None) };
    if run != "run" {
        return Ok(None);
    }
    match Invocation::parse_words(words).map_err(|error| Failure::clap(&error))? {
        Invocation::Other(words) => {
            let name = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
            // Only the emulated host may have a file of this name.
            let is_file = name.contains(['.', '/']);
            if is_file { Ok(None) } else { Err(Failure::usage(unknown_scenario(&name))) }
        }
        invocation => Ok(invocation.common()),
    }
}

/// Prints the results.
fn print(runs: &[LabRun], format: Format) -> Result<(), Failure> {
    let results: Vec<_> = runs.iter().filter_map(LabRun::shown).map(scenarios::viewed).collect();
    let mut text = Vec::new();
    let printed = match format {
        Format::Human if results.is_empty() => Ok(()),
        Format::Human => report::table::print(&mut text, &results),
        format => results.into_iter().try_for_each(|run| formats::print(&mut text, format, &Subject::from(run))),
    };
    printed.map_err(Failure::harness)?;
    emit(&String::from_utf8_lossy(&text))
}

/// Returns the runs as one document. The answer of a single kernel stands before all else.
fn document(runs: &[LabRun]) -> serde_json::Value {
    match runs {
        [LabRun { answer: Some(answer), also, .. }] => {
            serde_json::json!({ "answer": answer, "also": also, "runs": runs })
        }
        runs => serde_json::json!({ "runs": runs }),
    }
}
