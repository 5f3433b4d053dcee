//! Findings of `boot`.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The case of `boot`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Size in bytes of the region that the guest mapped.
    pub region_bytes: u64,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "boot";
}
