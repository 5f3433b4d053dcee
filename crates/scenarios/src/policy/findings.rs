//! The parts of a stored result that only `policy` has.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::icache::measurement::Class;
use crate::icache::measurement::{Classification, Measurement};

/// Findings of `policy` in one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Findings(pub Measurement);

/// Conclusion from all block sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Conclusion(pub Classification);

impl Finding for Findings {
    const SCENARIO: &'static str = "policy";
}

impl Finding for Conclusion {
    const SCENARIO: &'static str = "policy";
}
