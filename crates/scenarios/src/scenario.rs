//! The traits through which all other code uses a scenario.

use std::path::Path;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use record::findings::Finding;
use record::result::RunResult;
use record::view::View;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};

/// A kind of run. Its folder implements this trait, and its line in [`LIST`](crate::LIST) makes it known.
pub trait Scenario: Sync {
    /// Name on the command line and in results.
    const NAME: &'static str;
    /// The line about it in `run --help`.
    const ABOUT: &'static str;
    /// Options on the command line, with [`Common`] flattened in.
    type Args: Args + FromArgMatches;
    /// The part of a stored case that only this scenario has.
    type Findings: Finding;
    /// The conclusion from all cases together.
    type Conclusion: Finding;

    /// Returns the options that all scenarios share.
    fn common(args: &Self::Args) -> &Common;

    /// Returns the directory of the dead run that the new run continues, if the options name one.
    fn resumes(_: &Self::Args) -> Option<&Path> {
        None
    }

    /// Runs the scenario and stores the result.
    ///
    /// # Errors
    ///
    /// Returns the reason if the run ends without a verdict.
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    fn run(args: &Self::Args, build: &Build) -> Result<Finished, Error>;

    /// Returns the scenario's own tables, lines and chart points for a stored run.
    fn view(run: &RunResult) -> View;

    /// Draws the conclusion again, after the lab has added the operations that its plugin counted to the cases.
    fn conclude_with_counts(_: &mut RunResult) {}
}

/// Placeholder for the findings or the conclusion of a scenario that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Nothing {}

impl Finding for Nothing {
    const SCENARIO: &'static str = "none";
}

/// A [`Scenario`] without its associated types, so that [`LIST`](crate::LIST) can hold all of them.
pub trait AnyScenario: Sync {
    /// Returns [`Scenario::NAME`].
    fn name(&self) -> &'static str;
    /// Returns the subcommand of `run`, with the options.
    fn command(&self) -> Command;
    /// Returns the options that all scenarios share.
    ///
    /// # Errors
    ///
    /// Returns clap's error if `matches` belong to another command.
    fn common(&self, matches: &ArgMatches) -> Result<Common, clap::Error>;
    /// Returns [`Scenario::resumes`].
    ///
    /// # Errors
    ///
    /// Returns clap's error if `matches` belong to another command.
    fn resumes(&self, matches: &ArgMatches) -> Result<Option<std::path::PathBuf>, clap::Error>;
    /// Runs the scenario and stores the result.
    ///
    /// # Errors
    ///
    /// Returns the reason if the run ends without a verdict.
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    fn run(&self, matches: &ArgMatches, build: &Build) -> Result<Finished, Error>;
    /// Returns [`Scenario::view`].
    fn view(&self, run: &RunResult) -> View;
    /// Calls [`Scenario::conclude_with_counts`].
    fn conclude_with_counts(&self, run: &mut RunResult);
    /// Returns the schemas of the findings and of the conclusion.
    fn schemas(&self, generator: &mut SchemaGenerator) -> Vec<Schema>;
}

impl<S: Scenario> AnyScenario for S {
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

    fn conclude_with_counts(&self, run: &mut RunResult) {
        S::conclude_with_counts(run);
    }

    fn schemas(&self, generator: &mut SchemaGenerator) -> Vec<Schema> {
        [tagged::<S::Findings>(generator), tagged::<S::Conclusion>(generator)].into_iter().flatten().collect()
    }
}

/// Returns the schema of the stored form of findings, which has the scenario's name as a tag; none for [`Nothing`].
fn tagged<F: Finding>(generator: &mut SchemaGenerator) -> Option<Schema> {
    if F::SCENARIO == Nothing::SCENARIO {
        return None;
    }
    // Without a name of its own: names would be numbered, and a new scenario would change the numbers of others.
    let own = F::json_schema(generator);
    let tag = json_schema!({
        "type": "object",
        "properties": { "scenario": { "const": F::SCENARIO } },
        "required": ["scenario"],
    });
    Some(json_schema!({ "allOf": [tag, own] }))
}
