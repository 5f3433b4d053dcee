//! `faultline lab`.

use std::ffi::OsString;

use klog::quiet::quiet;

use crate::failure::CommandResult;
use crate::lab_runs::{self, exit_code, worse};
use crate::output::emit_json;
use crate::plan::in_lab;
use crate::plan::request::PlanRequest;
use crate::program_file;

/// Which kernels, and what to run inside.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: lab::Options,
    /// Exit as `git bisect run` wants it: 0 good, 1 bad, 125 for anything that shows neither
    #[arg(long)]
    bisect: bool,
    /// Print JSON in place of what the runner inside prints; of a plan, its summary
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    /// What to run inside: run SCENARIO…, or run PLAN…, which boots the kernel afresh for each step
    #[arg(last = true, required = true, value_name = "ARGS")]
    argv: Vec<OsString>,
}

impl Args {
    /// Says whether the exit code is for `git bisect run`; inside or outside, the wish is the same.
    pub fn bisect(&self) -> bool {
        self.bisect || self.argv.iter().any(|word| word == BISECT)
    }
}

#[cfg(test)]
impl Args {
    /// Returns the command line inside.
    pub fn inside(&self) -> &[OsString] {
        &self.argv
    }
}

/// The option, which is the lab's own wherever it stands: the runner inside says what it found, and the lab judges.
const BISECT: &str = "--bisect";

/// Runs the lab; the exit code is the worst of the runs inside.
///
/// # Errors
///
/// What keeps the lab itself from working.
pub fn run(args: &Args) -> CommandResult {
    let argv: Vec<_> = args.argv.iter().filter(|word| *word != BISECT).cloned().collect();
    let mut options = args.options.clone();
    if args.json {
        options.volume.output = lab::Output::Kept;
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
        let Some(exit) = &run.exit else { continue };
        let mut code = exit_code(exit);
        if code != 0 {
            eprintln!("{}: {}", run.kernel, quiet(&exit.to_string()));
        }
        if let Some(result) = run.result.as_ref().filter(|result| run.died() || (options.count && !result.recovered)) {
            // A closed pipe is the reader's choice; the result is on disk.
            let _ = if run.died() {
                report::table::print(&mut std::io::stdout(), &[scenarios::viewed(result)])
            } else {
                report::table::print_counts(&mut std::io::stdout(), result)
            };
            // Either may have changed the verdict since the runner inside ended.
            code = result.verdict.status.exit_code();
        }
        worst = worse(worst, code);
        if let Some(path) = &run.path {
            println!("{}", path.display());
        }
    }
    Ok(worst)
}
