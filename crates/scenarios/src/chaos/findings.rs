//! Findings of `chaos`.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Ends of hostile guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Guests that powered themselves off.
    pub powered_off: u64,
    /// Guests that were stopped at something impossible.
    pub trapped: u64,
    /// Guests that were stopped at the time limit.
    pub timed_out: u64,
    /// Records read.
    pub records: u64,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "chaos";
}
