//! A scenario as typed: the words after `faultline run`, parsed once.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use scenarios::options::Common;
use scenarios::{AnyScenario, LIST};

/// The scenario that was named, or whatever else was.
#[derive(Clone)]
pub enum Invocation {
    /// A scenario with its options.
    Scenario(&'static dyn AnyScenario, ArgMatches),
    /// Words whose first names no scenario: a plan, a file, or a mistake.
    Other(Vec<OsString>),
}

impl Invocation {
    /// Parses the words of a step as the command line would be.
    ///
    /// # Errors
    ///
    /// The parser's message; or that the words name no scenario.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        #[derive(clap::Parser)]
        #[command(no_binary_name = true)]
        struct Line {
            #[command(subcommand)]
            invocation: Invocation,
        }
        match <Line as clap::Parser>::try_parse_from(words) {
            Ok(Line { invocation: Self::Other(_) }) => Err(unknown(&words[0])),
            Ok(Line { invocation }) => Ok(invocation),
            Err(error) => Err(error.render().to_string()),
        }
    }

    /// Returns the options that every scenario has; none where no scenario is named.
    pub fn common(&self) -> Option<Common> {
        match self {
            Self::Scenario(scenario, matches) => scenario.common(matches).ok(),
            Self::Other(_) => None,
        }
    }
}

/// Returns the message for a name that no scenario has.
pub fn unknown(name: &str) -> String {
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
            // Reads the options now, so that a wrong one is told now.
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

/// Returns the options of every scenario as the words that give them, except `results`, `format`, `json`, `quiet`, `bisect`
/// and `step`, which whoever runs a step decides.
pub fn words(common: &Common) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let flags = [("--verbose", common.verbose), ("--hugepages", common.hugepages), ("--no-trace", common.no_trace)];
    line.extend(flags.into_iter().filter(|(_, said)| *said).map(|(flag, _)| OsString::from(flag)));
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

/// Returns an option and its value as one word: a value may begin with a dash.
pub fn word(name: &str, value: &std::ffi::OsStr) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}
