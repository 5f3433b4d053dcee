//! `faultline run SCENARIO`.

use clap::Args as ClapArgs;

use crate::answer::{Failure, Outcome};
use crate::invocation::Invocation;
use crate::plan_file;
use crate::plans::program_file;
use crate::plans::request::Request;

/// The scenario, with its options.
#[derive(ClapArgs)]
#[command(after_help = plans_help(), subcommand_value_name = "SCENARIO", subcommand_help_heading = "Scenarios")]
pub struct Args {
    #[command(subcommand)]
    invocation: Invocation,
}

/// Returns the end of `run --help`.
fn plans_help() -> String {
    let mut help = String::from("Plans, several runs under one name:\n");
    for (name, text) in plan_file::BUILT_IN {
        let about = plan_file::parse(name, text).map(|plan| plan.about).unwrap_or_default();
        help += &format!("  {name:<10} {about}\n");
    }
    help + "  FILE       A plan of your own: docs/adding-a-scenario.md\n\n`faultline run nightly --help` prints their options."
}

#[cfg(test)]
impl Args {
    /// Returns the words that name no scenario.
    pub fn plan(&self) -> Option<&[std::ffi::OsString]> {
        match &self.invocation {
            Invocation::Other(words) => Some(words),
            Invocation::Scenario(..) => None,
        }
    }
}

impl Args {
    /// Returns whether the exit code is for `git bisect run`.
    pub fn bisect(&self) -> bool {
        match &self.invocation {
            Invocation::Other(words) => words.iter().any(|word| word == "--bisect"),
            Invocation::Scenario(..) => self.invocation.common().is_some_and(|common| common.bisect),
        }
    }
}

/// Runs the scenario, or the plan.
///
/// # Errors
///
/// The obstacle that kept it from ending with a verdict.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub fn run(args: &Args) -> Outcome {
    use crate::build::BUILD;
    let common = args.invocation.common();
    let finished = match &args.invocation {
        Invocation::Scenario(scenario, matches) => {
            if let Ok(Some(dead)) = scenario.resumes(matches) {
                close(&dead)?;
            }
            scenario.run(matches, &BUILD)
        }
        Invocation::Other(words) => {
            let Some(program_file::Request { file, common }) = program_file::Request::of(words)? else {
                return crate::plans::here::run(Request::of(words)?);
            };
            let finished = scenarios::random::run::replay(&file, &common, &BUILD);
            return conclude(finished, &common);
        }
    };
    match common {
        Some(common) => conclude(finished, &common),
        None => Err(Failure::harness("the options were parsed and cannot be read")),
    }
}

/// Closes a dead run that is to be gone on with, where nobody has.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
fn close(dead: &std::path::Path) -> Result<(), Failure> {
    use record::exit::USAGE;
    if dead.join(record::store::RESULT).exists() {
        return Ok(());
    }
    let closed = crate::recover::close(dead, &record::journal::WitnessedEnd::default());
    closed.map(drop).map_err(|error| Failure::new(USAGE, error))
}

/// Writes the files for labs, prints the result, and returns the exit code of the verdict.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
fn conclude(
    finished: Result<scenarios::runner::session::Finished, scenarios::runner::session::Error>,
    common: &scenarios::options::Common,
) -> Outcome {
    use record::exit::INTERRUPTED;
    use record::format::Format;
    use report::formats;
    use report::subject::Subject;

    let finished = finished.map_err(|error| Failure::new(error.exit_code(), error))?;
    let subject = Subject::from(scenarios::viewed(&finished.result));
    formats::write_all(&finished.directory, &subject).map_err(Failure::harness)?;
    let path = finished.directory.display().to_string();
    if finished.interrupted {
        let kept = format!("interrupted: settings are back as they were, what was recorded is in {path}");
        return Err(Failure::new(INTERRUPTED, kept));
    }
    if !common.quiet {
        // A closed pipe is the reader's choice; the result is on disk.
        let _ = formats::print(&mut std::io::stdout(), common.format(), &subject);
        // In the lab the directory has another name outside, which the lab prints.
        if std::env::var_os("FAULTLINE_RUN_NAME").is_none() {
            match common.format() {
                Format::Human => println!("{path}"),
                _ => eprintln!("{path}"),
            }
        }
    }
    Ok(finished.result.verdict.status.exit_code())
}

/// Returns the failure of a machine that cannot run guests.
///
/// # Errors
///
/// Always.
#[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
pub fn run(args: &Args) -> Outcome {
    if let Invocation::Other(words) = &args.invocation {
        // Wrong names, files and options, and --help, are told on any machine.
        if program_file::Request::of(words)?.is_none() {
            Request::of(words)?;
        }
    }
    Err(Failure::new(
        record::exit::HARNESS,
        format!(
            "run needs an arm64 Linux host with KVM, this is {} {}: try it emulated with `faultline lab --kernel debian:6.12 -- run …`, or copy the arm64 build to such a host",
            std::env::consts::ARCH,
            std::env::consts::OS
        ),
    ))
}
