//! The answer to the question of the project: whether a kernel on a machine has the I-side lockup of the report.

use serde::{Deserialize, Serialize};

/// The answer of `faultline check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Answer {
    /// The kernel invalidates the I-cache line by line, whatever the size of the block.
    Affected,
    /// The time of a first execution does not grow with the block, for a reason that is known.
    NotAffected,
    /// The kernel does not do the maintenance that it owes the guest.
    Broken,
    /// The evidence does not answer the question.
    CannotTell,
}

/// Name of the fact of a run that holds the answer ([`RunResult::facts`](crate::result::RunResult)).
pub const FACT: &str = "answer";

impl Answer {
    /// All answers.
    pub const ALL: [Self; 4] = [Self::Affected, Self::NotAffected, Self::Broken, Self::CannotTell];

    /// Returns the answer in capitals, as reports print it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Affected => "AFFECTED",
            Self::NotAffected => "NOT AFFECTED",
            Self::Broken => "BROKEN",
            Self::CannotTell => "CANNOT TELL",
        }
    }

    /// Returns the name that results and formats store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Affected => "affected",
            Self::NotAffected => "not_affected",
            Self::Broken => "broken",
            Self::CannotTell => "cannot_tell",
        }
    }

    /// Returns the answer with this [name](Self::name).
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|answer| answer.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_names_are_those_of_serde_and_of_the_command_line() {
        for answer in Answer::ALL {
            assert_eq!(serde_json::to_value(answer).expect("plain data"), answer.name());
            assert_eq!(<Answer as clap::ValueEnum>::from_str(answer.name(), false), Ok(answer));
            assert_eq!(Answer::by_name(answer.name()), Some(answer));
        }
    }
}
