//! The words after `faultline run`: parses a scenario with its options, and turns options into words again.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use scenarios::options::Common;
use scenarios::{AnyScenario, LIST};

/// The parsed words after `faultline run`.
#[derive(Clone)]
pub enum Invocation {
    /// A scenario with its options.
    Scenario(&'static dyn AnyScenario, ArgMatches),
    /// Words that do not begin with the name of a scenario: a plan, a file, or a mistake.
    Other(Vec<OsString>),
}

impl Invocation {
    /// Parses the words of a step like those of a command line.
    ///
    /// # Errors
    ///
    /// The message of the parser, also if the words name no scenario.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        match Self::parse_words(words) {
            Ok(Self::Other(_)) => Err(unknown_scenario(&words[0])),
            Ok(invocation) => Ok(invocation),
            Err(error) => Err(error.render().to_string()),
        }
    }

    /// Parses the words after `run`.
    ///
    /// # Errors
    ///
    /// Clap's error. The text of `--help` is an error, too.
    pub fn parse_words<W: Clone + Into<OsString>>(words: &[W]) -> Result<Self, clap::Error> {
        #[derive(clap::Parser)]
        #[command(no_binary_name = true)]
        struct Line {
            #[command(subcommand)]
            invocation: Invocation,
        }
        Ok(<Line as clap::Parser>::try_parse_from(words.iter().cloned())?.invocation)
    }

    /// Returns the options that every scenario has. `None` if the words name no scenario.
    pub fn common(&self) -> Option<Common> {
        match self {
            Self::Scenario(scenario, matches) => scenario.common(matches).ok(),
            Self::Other(_) => None,
        }
    }
}

/// Returns the error message for a name that no scenario has.
pub fn unknown_scenario(name: &str) -> String {
    let known: Vec<_> = LIST.iter().map(|scenario| scenario.name()).collect();
    format!("there is no scenario '{name}': name one of {}", known.join(", "))
}

impl Subcommand for Invocation {
    fn augment_subcommands(command: Command) -> Command {
        LIST.iter()
            .fold(command, |command, scenario| command.subcommand(scenario.command()))
            .allow_external_subcommands(true)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        LIST.iter().any(|scenario| scenario.name() == name)
    }
}

impl FromArgMatches for Invocation {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Some((name, matches)) = matches.subcommand() else {
            return Err(clap::Error::new(ErrorKind::MissingSubcommand));
        };
        if let Some(scenario) = LIST.iter().copied().find(|scenario| scenario.name() == name) {
            // Reads the options here, so that wrong ones are reported here.
            scenario.common(matches)?;
            return Ok(Self::Scenario(scenario, matches.clone()));
        }
        let rest = matches.get_many::<OsString>("").into_iter().flatten().cloned();
        Ok(Self::Other(std::iter::once(name.into()).chain(rest).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Returns the common options as words of a command line. Leaves out `results`, `format`, `json`, `quiet`, `bisect` and
/// `step`, which the runner of a step chooses.
pub fn words(common: &Common) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let flags = [("--verbose", common.verbose), ("--hugepages", common.hugepages), ("--no-trace", common.no_trace)];
    line.extend(flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| OsString::from(flag)));
    let (known, time_limit) = (&common.under_test, common.time_limit);
    let values: [(&str, Option<OsString>); 7] = [
        ("--time-limit", (time_limit != scenarios::options::TIME_LIMIT_S).then(|| time_limit.to_string().into())),
        ("--watchdog-thresh", common.watchdog_thresh.map(|seconds| seconds.to_string().into())),
        ("--guest-ctr", common.guest_ctr.map(|shown| shown.to_string().into())),
        ("--label", known.label.clone().map(Into::into)),
        ("--git-commit-hash", known.git_commit_hash.clone().map(Into::into)),
        ("--patchset-hash", known.patchset_hash.clone().map(Into::into)),
        ("--payload", common.payload.clone().map(Into::into)),
    ];
    line.extend(values.into_iter().filter_map(|(name, value)| Some(word(name, &value?))));
    line
}

/// Returns an option and its value as one word, because a value may begin with a dash.
pub fn word(name: &str, value: &std::ffi::OsStr) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}
