//! `faultline run`: runs a scenario, a plan, or the program in a file.

use clap::Args as ClapArgs;

use crate::failure::{CommandResult, Failure};
use crate::invocation::Invocation;
use crate::plan::file;
use crate::plan::request::PlanRequest;
use crate::program_file::ProgramRequest;

/// Arguments of `faultline run`.
#[derive(ClapArgs)]
#[command(after_help = plans_help(), subcommand_value_name = "SCENARIO", subcommand_help_heading = "Scenarios")]
pub struct Args {
    #[command(subcommand)]
    invocation: Invocation,
}

/// Returns the end of `run --help`, which lists the plans.
fn plans_help() -> String {
    let mut help = String::from("Plans (several runs under one name):\n");
    for (name, text) in file::BUILT_IN {
        let about = file::parse(name, text).map(|plan| plan.about).unwrap_or_default();
        help += &format!("  {name:<10} {about}\n");
    }
    help + "  FILE       A plan of your own: docs/adding-a-scenario.md\n\n`faultline run nightly --help` prints their options."
}

#[cfg(test)]
impl Args {
    /// Returns the words, if they do not begin with the name of a scenario.
    pub fn plan(&self) -> Option<&[std::ffi::OsString]> {
        match &self.invocation {
            Invocation::Other(words) => Some(words),
            Invocation::Scenario(..) => None,
        }
    }
}

impl Args {
    /// Returns true if the exit code is for `git bisect run`.
    pub fn bisect(&self) -> bool {
        match &self.invocation {
            Invocation::Other(words) => words.iter().any(|word| word == "--bisect"),
            Invocation::Scenario(..) => self.invocation.common().is_some_and(|common| common.bisect),
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// If the run ends without a verdict.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub fn run(args: &Args) -> CommandResult {
    run_invocation(&args.invocation)
}

/// Runs a scenario, a plan or a program.
///
/// # Errors
///
/// If the run ends without a verdict.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub fn run_invocation(invocation: &Invocation) -> CommandResult {
    use crate::build_info::BUILD;
    let common = invocation.common();
    let finished = match invocation {
        Invocation::Scenario(scenario, matches) => {
            if let Ok(Some(dead)) = scenario.resumes(matches) {
                close(&dead)?;
            }
            scenario.run(matches, &BUILD)
        }
        Invocation::Other(words) => {
            let Some(ProgramRequest { file, common }) = ProgramRequest::parse(words)? else {
                return crate::plan::on_this_machine::run(PlanRequest::parse(words)?);
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

/// Closes a dead run that is to be resumed, if it has no result yet.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
fn close(dead: &std::path::Path) -> Result<(), Failure> {
    if dead.join(record::store::RESULT).exists() {
        return Ok(());
    }
    let closed = crate::recover::close(dead, &record::journal::WitnessedEnd::default());
    closed.map(drop).map_err(Failure::usage)
}

/// Writes the files for test labs, prints the result, and returns the exit code of the verdict.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
fn conclude(
    finished: Result<scenarios::runner::session::Finished, scenarios::runner::session::Error>,
    common: &scenarios::options::Common,
) -> CommandResult {
    use report::formats;
    use report::subject::Subject;

    let finished = finished.map_err(failure)?;
    let subject = Subject::from(scenarios::viewed(&finished.result));
    formats::write_all(&finished.directory, &subject).map_err(Failure::harness)?;
    if finished.interrupted {
        return Err(Failure::interrupted(&finished.directory));
    }
    if !common.quiet {
        // Ignores a reader that closes the pipe: the result is on disk.
        let _ = formats::print(&mut std::io::stdout(), common.format(), &subject);
        // In the lab the directory has another name outside the emulated host, which the lab prints.
        if std::env::var_os("FAULTLINE_RUN_NAME").is_none() {
            crate::output::note_stored(&finished.directory);
        }
    }
    Ok(crate::lab_runs::exit_code_of(&finished.result, common.bisect))
}

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
fn failure(error: scenarios::runner::session::Error) -> Failure {
    if error.is_no_guests() { Failure::no_guests(error) } else { Failure::new(error.exit_code(), error) }
}

/// Returns the failure of a machine that cannot run guests.
///
/// # Errors
///
/// Always, because this machine has no KVM for arm64.
#[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
pub fn run(args: &Args) -> CommandResult {
    run_invocation(&args.invocation)
}

/// Returns the failure of a machine that cannot run guests.
///
/// # Errors
///
/// Always, because this machine has no KVM for arm64.
#[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
pub fn run_invocation(invocation: &Invocation) -> CommandResult {
    let words = match invocation {
        Invocation::Other(words) => words.clone(),
        Invocation::Scenario(scenario, _) => vec![scenario.name().into()],
    };
    if let Invocation::Other(words) = invocation {
        // Reports wrong names, files and options, and prints the help, on every machine.
        if ProgramRequest::parse(words)?.is_none() {
            PlanRequest::parse(words)?;
        }
    }
    let name = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let command = if name == "check" { name } else { format!("run {name}") };
    Err(Failure::no_guests(format!(
        "{command} needs an arm64 Linux host with KVM, this is {} {}: try it emulated with `faultline lab --kernel debian:6.12 -- {command}`, or copy the arm64 build to such a host",
        std::env::consts::ARCH,
        std::env::consts::OS
    )))
}
