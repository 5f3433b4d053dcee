//! The types of a measurement of I-cache maintenance, and of the class that follows from several of them.

use record::case::CaseResult;
use record::maintenance::Counted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Class of a kernel's I-cache maintenance at stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The kernel invalidates line by line, whatever the size.
    ByLine,
    /// The kernel invalidates line by line up to a cap, and the whole I-cache above it.
    Capped,
    /// The kernel always invalidates the whole I-cache.
    AlwaysAll,
    /// The kernel does no maintenance, which is wrong.
    None,
    /// The evidence fits more than one class.
    CannotTell,
}

impl Class {
    /// Returns the name for reports.
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

/// Bounds on the cap of a capped kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cap {
    /// Largest number of lines that was invalidated by line.
    pub by_line_up_to: u64,
    /// Smallest number of lines for which the whole I-cache was invalidated.
    pub all_from: u64,
}

/// Classification of a kernel from all block sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Classification {
    /// Class of the kernel.
    pub class: Class,
    /// Bounds on the cap, for a capped kernel.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cap: Option<Cap>,
    /// Evidence for the class, largest block first.
    pub evidence: Vec<String>,
    /// Distinctions that the evidence does not allow, with the reasons.
    pub cannot: Vec<String>,
}

/// Operations that the lab's plugin counted for one block size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ICacheCounts {
    /// Number of blocks that were made executable meanwhile.
    pub blocks: u64,
    /// Number of `IC IVAU`.
    pub ic_ivau: u64,
    /// Number of `IC IALLUIS`.
    pub ic_ialluis: u64,
}

/// Measurement of one block size. Times are medians in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Measurement {
    /// Size in bytes of the block or page that KVM maps.
    pub mapped_bytes: u64,
    /// Time of a permission fault by a fetch.
    pub permission_ns: u64,
    /// Time of a fetch without a fault.
    pub resident_ns: u64,
    /// Time of a translation fault by a load.
    pub by_load_ns: u64,
    /// Time of a translation fault by a fetch.
    pub by_fetch_ns: u64,
    /// Number of traced faults that granted execution.
    pub grants: u64,
    /// Number of calls that the probe on the maintenance function saw; absent without a probe.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_calls: Option<u64>,
    /// Size of the largest such call, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_max_bytes: Option<u64>,
    /// Time of the longest such call, in ns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_max_ns: Option<u64>,
    /// Operations that the lab's plugin counted; absent without it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub counted: Option<ICacheCounts>,
}

impl Measurement {
    /// Returns the measurement with the operations that the lab's plugin counted in its case, if it did.
    pub fn with_counts_of(self, case: &CaseResult) -> Self {
        let counts = |counted: &Counted| ICacheCounts {
            blocks: counted.faults,
            ic_ivau: counted.ic_ivau,
            ic_ialluis: counted.ic_ialluis,
        };
        Self { counted: case.counted.as_ref().map(counts).or(self.counted), ..self }
    }
}
