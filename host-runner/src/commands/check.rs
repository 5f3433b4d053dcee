//! `faultline check`: answers whether this kernel on this machine has the I-side lockup.

use clap::{ArgMatches, Command, FromArgMatches};
use klog::quiet::quiet;
use record::answer::Answer;
use record::status::Status;
use report::table::paragraphs;
use scenarios::check::Check;
use scenarios::options::Common;
use scenarios::{AnyScenario, Scenario};

use crate::commands::run;
use crate::failure::{CommandResult, Failure};
use crate::invocation::Invocation;
use crate::output::{emit, emit_json};

/// Arguments of `faultline check`: those of the scenario.
pub struct Args(ArgMatches);

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        <Check as Scenario>::Args::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        // Reads the options here, so that wrong ones are reported here.
        AnyScenario::common(&Check, matches)?;
        Ok(Self(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args {
    fn common(&self) -> Option<Common> {
        AnyScenario::common(&Check, &self.0).ok()
    }

    /// Returns true if the exit code is for `git bisect run`.
    pub fn bisect(&self) -> bool {
        self.common().is_some_and(|common| common.bisect)
    }
}

/// Runs the command. A machine on which no guest can be run gets an answer, too: that it cannot be told.
///
/// # Errors
///
/// If the run was interrupted or cannot be stored, or the options are wrong on this machine.
pub fn run(args: &Args) -> CommandResult {
    match run::run_invocation(&Invocation::Scenario(&Check, args.0.clone())) {
        Err(failure) if failure.no_guests => cannot_tell(&failure, args),
        outcome => outcome,
    }
}

fn cannot_tell(failure: &Failure, args: &Args) -> CommandResult {
    let reason = quiet(&failure.message).into_owned();
    let code = Status::Skip.exit_code();
    match args.common() {
        Some(common) if common.quiet => {}
        Some(common) if common.json => emit_json(&serde_json::json!({
            "answer": Answer::CannotTell,
            "reason": reason,
            "also": [],
        }))?,
        _ => emit(&paragraphs([format!("{}: {reason}", Answer::CannotTell.words())]))?,
    }
    Ok(code)
}
