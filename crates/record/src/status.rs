//! Verdicts: a status, and the reason for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exit::HARNESS;

/// The status of a run or a case. A later variant is worse than an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The kernel is right, and there is evidence that the code under test was executed.
    Pass,
    /// This machine cannot run the case, or there is no evidence that the code under test was executed.
    Skip,
    /// The kernel is wrong.
    Fail,
    /// The run or the case did not end before its time limit.
    Timeout,
    /// The tool or its surroundings failed, or evidence was lost.
    Error,
}

impl Status {
    /// Returns the exit code of a process with this status. The codes are those of kselftest, sysexits.h and
    /// timeout(1).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Skip => 4,
            Self::Error => HARNESS,
            Self::Timeout => 124,
        }
    }

    /// Returns the name used in results and reports.
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

/// A status and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The status.
    pub status: Status,
    /// The reason, in one line: the evidence of a pass, or the cause of any other status.
    pub reason: String,
}

impl Verdict {
    /// Returns a verdict with this status and reason.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}
