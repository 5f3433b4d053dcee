//! Findings of `dside`.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::stats::Distribution;

/// D-cache cleaning by the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Whether FWB spares the host the cleaning; absent where that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fwb: Option<bool>,
    /// How that is known.
    pub how: String,
    /// D-cache lines of the region.
    pub lines: u64,
    /// Unmapping the region at stage 2 (mprotect), in ns, in untraced rounds.
    pub unmap: Option<Distribution>,
    /// Taking its memory away while the VM lives, in ns.
    pub discard_ns: Option<u64>,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "dside";
}
