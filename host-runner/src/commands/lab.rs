//! `faultline lab`: runs a scenario, a plan or another command in emulated hosts.

use std::ffi::OsString;

use klog::quiet::quiet;

use crate::failure::CommandResult;
use crate::lab_runs::{self, exit_code, worse};
use crate::output::emit_json;
use crate::plan::in_lab;
use crate::plan::request::PlanRequest;
use crate::program_file;

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
    /// Command for the emulated host: run SCENARIO…, or run PLAN…, which boots the kernel afresh for each step
    #[arg(last = true, required = true, value_name = "ARGS")]
    argv: Vec<OsString>,
}

impl Args {
    /// Returns whether the exit code is for `git bisect run`. The option may stand before or after `--`.
    pub fn bisect(&self) -> bool {
        self.bisect || self.argv.iter().any(|word| word == BISECT)
    }
}

#[cfg(test)]
impl Args {
    /// Returns the command for the emulated host.
    pub fn inside(&self) -> &[OsString] {
        &self.argv
    }
}

/// The option that the runner in the emulated host never gets, because the lab chooses the exit code.
const BISECT: &str = "--bisect";

/// Runs the lab. The exit code is that of the worst run.
///
/// # Errors
///
/// The obstacle that keeps the lab itself from working.
pub fn run(args: &Args) -> CommandResult {
    let argv: Vec<_> = args.argv.iter().filter(|word| *word != BISECT).cloned().collect();
    let mut options = args.options.clone();
    if args.json {
        options.verbosity.runner_output = lab::RunnerOutput::Stored;
    }
    if let Some(request) = PlanRequest::parse_in_lab(&argv)? {
        return in_lab::run(&if args.json { request.with_json() } else { request }, &options);
    }
    let argv = match program_file::parse_in_lab(&argv)? {
        Some((inside, file)) => {
            options.with.push(file);
            inside
        }
        None => argv,
    };
    let runs = lab_runs::run(&options, &argv)?;
    if args.json {
        emit_json(&serde_json::json!({ "runs": runs }))?;
        return Ok(runs.iter().map(|run| run.exit_code).fold(0, worse));
    }
    let mut worst = 0;
    for run in &runs {
        let Some(end) = &run.end else { continue };
        let mut code = exit_code(end);
        if code != 0 {
            eprintln!("{}: {}", run.kernel, quiet(&end.to_string()));
        }
        if let Some(result) = run.result.as_ref().filter(|result| run.died() || (options.count && !result.recovered)) {
            // A reader may close the pipe. The result is on disk.
            let _ = if run.died() {
                report::table::print(&mut std::io::stdout(), &[scenarios::viewed(result)])
            } else {
                report::table::print_counts(&mut std::io::stdout(), result)
            };
            // The lab's result or the counts may have changed the verdict that the runner gave.
            code = result.verdict.status.exit_code();
        }
        worst = worse(worst, code);
        if let Some(path) = &run.path {
            println!("{}", path.display());
        }
    }
    Ok(worst)
}
