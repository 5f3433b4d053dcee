//! The part of a stored result that only `boot` has.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Findings of `boot` in its case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Size in bytes of the region that the guest mapped.
    pub region_bytes: u64,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "boot";
}
