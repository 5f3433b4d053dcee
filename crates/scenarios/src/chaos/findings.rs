//! The part of a stored result that only `chaos` has.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Findings of `chaos` in its case: the ends of the hostile guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Number of guests that powered themselves off.
    pub powered_off: u64,
    /// Number of guests that were stopped because they did something impossible.
    pub trapped: u64,
    /// Number of guests that were stopped at the time limit.
    pub timed_out: u64,
    /// Number of records that were read.
    pub records: u64,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "chaos";
}
