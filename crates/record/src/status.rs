//! A status, and a status with its reason.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a run or a case came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Held, with evidence that the path was taken.
    Pass,
    /// Could not be tried here, or not shown to have been.
    Skip,
    /// Did not hold.
    Fail,
    /// Still running at the time limit.
    Timeout,
    /// The tool, the guest or the evidence failed.
    Error,
}

impl Status {
    /// Returns the process exit code. Those of kselftest, sysexits and timeout(1).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Skip => 4,
            Self::Error => 70,
            Self::Timeout => 124,
        }
    }

    /// Returns the word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail => "fail",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

/// A status and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// How it came out.
    pub status: Status,
    /// One line: the evidence of a pass, the cause of anything else.
    pub reason: String,
}

impl Verdict {
    /// Returns a verdict.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}
