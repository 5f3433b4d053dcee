//! The part of a stored result that only `dside` has.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::stats::Distribution;

/// Findings of `dside` in one case: the host's D-cache cleaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// True if the CPU has FWB, so that the host cleans nothing; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fwb: Option<bool>,
    /// Evidence for `fwb`.
    pub how: String,
    /// Number of D-cache lines in the region.
    pub lines: u64,
    /// Time to unmap the region at stage 2 with mprotect, in ns, in untraced rounds.
    pub unmap: Option<Distribution>,
    /// Time to free the memory of the region while the VM exists, in ns.
    pub discard_ns: Option<u64>,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "dside";
}
