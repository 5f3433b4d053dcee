//! The parts of a stored result that only `check` has.

use record::answer::Answer;
use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::icache::measurement::{Cap, Class, Measurement};
use crate::projection::Limit;

/// Findings of `check` in one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Findings(pub Measurement);

/// The answer of `check`, with its grounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conclusion {
    /// The answer.
    pub answer: Answer,
    /// The reason for the answer, as one clause.
    pub reason: String,
    /// The command that supplies what is missing for an answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<String>,
    /// Class of the kernel's maintenance.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<Class>,
    /// Bounds on the cap, for a capped kernel.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cap: Option<Cap>,
    /// Evidence for the class, largest block first.
    pub evidence: Vec<String>,
    /// Longest first execution in ns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub longest_ns: Option<u64>,
    /// Time without scheduling after which this machine reports a soft lockup, in ns. Absent if it reports none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub threshold_ns: Option<u64>,
    /// Numbers of vCPUs from which the threshold, or the default of 20 s, is passed, for each size of block that KVM can
    /// map on this machine. Empty unless the kernel is affected.
    pub passed_from: Vec<Limit>,
    /// Other stalls and complaints. They do not change the answer.
    pub also: Vec<String>,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "check";
}

impl Finding for Conclusion {
    const SCENARIO: &'static str = "check";
}
