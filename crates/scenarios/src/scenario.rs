//! A scenario, as everything outside its folder sees it.

use std::path::Path;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use record::findings::Finding;
use record::result::RunResult;
use record::view::View;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};

/// A kind of run. One folder implements it, and one line of [`LIST`](crate::LIST) makes it known.
pub trait Scenario: Sync {
    /// Name on the command line and in results.
    const NAME: &'static str;
    /// Line that `run --help` shows.
    const ABOUT: &'static str;
    /// Options, with [`Common`] flattened in.
    type Args: Args + FromArgMatches;
    /// Its own part of each case.
    type Findings: Finding;
    /// Its conclusion from all cases together.
    type Conclusion: Finding;

    /// Returns the options that every scenario has.
    fn common(args: &Self::Args) -> &Common;

    /// Returns the dead run that this one is to go on with, if any.
    fn resumes(_: &Self::Args) -> Option<&Path> {
        None
    }

    /// Runs the scenario.
    ///
    /// # Errors
    ///
    /// The obstacle that kept it from a verdict.
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    fn run(args: &Self::Args, build: &Build) -> Result<Finished, Error>;

    /// Returns its own presentation of a stored run.
    fn view(run: &RunResult) -> View;

    /// Concludes anew, after counts of the emulator's plugin were added to the cases.
    fn conclude(_: &mut RunResult) {}
}

/// A conclusion or findings of scenarios that have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Nothing {}

impl Finding for Nothing {
    const SCENARIO: &'static str = "none";
}

/// A [`Scenario`] whose types are not known: an entry of the list.
pub trait Entry: Sync {
    /// Returns [`Scenario::NAME`].
    fn name(&self) -> &'static str;
    /// Returns the subcommand of `run`.
    fn command(&self) -> Command;
    /// Returns the options that every scenario has.
    ///
    /// # Errors
    ///
    /// If `matches` are another command's.
    fn common(&self, matches: &ArgMatches) -> Result<Common, clap::Error>;
    /// Returns the dead run that this one is to go on with, if any.
    ///
    /// # Errors
    ///
    /// If `matches` are another command's.
    fn resumes(&self, matches: &ArgMatches) -> Result<Option<std::path::PathBuf>, clap::Error>;
    /// Runs the scenario.
    ///
    /// # Errors
    ///
    /// The obstacle that kept it from a verdict.
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    fn run(&self, matches: &ArgMatches, build: &Build) -> Result<Finished, Error>;
    /// Returns [`Scenario::view`] of a run.
    fn view(&self, run: &RunResult) -> View;
    /// Calls [`Scenario::conclude`].
    fn conclude(&self, run: &mut RunResult);
    /// Returns the schemas of everything that it stores in a result.
    fn schemas(&self, generator: &mut SchemaGenerator) -> Vec<Schema>;
}

impl<S: Scenario> Entry for S {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn command(&self) -> Command {
        S::Args::augment_args(Command::new(S::NAME)).about(S::ABOUT).long_about(None)
    }

    fn common(&self, matches: &ArgMatches) -> Result<Common, clap::Error> {
        Ok(S::common(&S::Args::from_arg_matches(matches)?).clone())
    }

    fn resumes(&self, matches: &ArgMatches) -> Result<Option<std::path::PathBuf>, clap::Error> {
        Ok(S::resumes(&S::Args::from_arg_matches(matches)?).map(Path::to_owned))
    }

    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    fn run(&self, matches: &ArgMatches, build: &Build) -> Result<Finished, Error> {
        let args = S::Args::from_arg_matches(matches).map_err(|error| Error::Usage(error.to_string()))?;
        S::run(&args, build)
    }

    fn view(&self, run: &RunResult) -> View {
        S::view(run)
    }

    fn conclude(&self, run: &mut RunResult) {
        S::conclude(run);
    }

    fn schemas(&self, generator: &mut SchemaGenerator) -> Vec<Schema> {
        [tagged::<S::Findings>(generator), tagged::<S::Conclusion>(generator)].into_iter().flatten().collect()
    }
}

/// Returns the schema of the stored form of a scenario's findings; none for [`Nothing`].
fn tagged<F: Finding>(generator: &mut SchemaGenerator) -> Option<Schema> {
    if F::SCENARIO == Nothing::SCENARIO {
        return None;
    }
    let own = generator.subschema_for::<F>();
    let tag = json_schema!({
        "type": "object",
        "properties": { "scenario": { "const": F::SCENARIO } },
        "required": ["scenario"],
    });
    Some(json_schema!({ "allOf": [tag, own] }))
}
