//! Findings of `policy`.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maintenance of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Line by line, whatever the size.
    ByLine,
    /// Line by line up to a cap, beyond it the whole I-cache at once.
    Capped,
    /// Always the whole I-cache.
    AlwaysAll,
    /// No maintenance: a broken kernel.
    None,
    /// What was seen fits more than one of these.
    CannotTell,
}

impl Class {
    /// Returns the name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByLine => "by line",
            Self::Capped => "capped",
            Self::AlwaysAll => "always all",
            Self::None => "no maintenance",
            Self::CannotTell => "cannot be told",
        }
    }
}

/// Between which sizes the cap lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cap {
    /// Most lines that were seen to be invalidated one by one.
    pub by_line_up_to: u64,
    /// Fewest lines for which the whole cache was.
    pub all_from: u64,
}

/// What was concluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conclusion {
    /// The policy.
    pub class: Class,
    /// The cap, for [`Class::Capped`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cap: Option<Cap>,
    /// What it rests on, strongest first.
    pub evidence: Vec<String>,
    /// What cannot be told apart here, and why.
    pub cannot: Vec<String>,
}

/// Operations that the emulator's plugin counted for one block size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// Blocks that were made executable while counting.
    pub blocks: u64,
    /// `IC IVAU`.
    pub ic_ivau: u64,
    /// `IC IALLUIS`.
    pub ic_ialluis: u64,
}

/// One block size as measured. Times are medians in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// What KVM maps at once, in bytes.
    pub mapped_bytes: u64,
    /// Permission fault by a fetch.
    pub permission_ns: u64,
    /// Fetch without a fault.
    pub resident_ns: u64,
    /// Translation fault by a load.
    pub by_load_ns: u64,
    /// Translation fault by a fetch.
    pub by_fetch_ns: u64,
    /// Faults that granted execution while the probe was there.
    pub grants: u64,
    /// Calls that the probe on the maintenance function saw; absent without a probe.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_calls: Option<u64>,
    /// Largest size of such a call, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_max_bytes: Option<u64>,
    /// Longest such call, in ns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_max_ns: Option<u64>,
    /// Counted operations, where the lab gave them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub counted: Option<Counted>,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "policy";
}

impl Finding for Conclusion {
    const SCENARIO: &'static str = "policy";
}
