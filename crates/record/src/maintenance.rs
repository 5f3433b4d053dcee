//! Stage-2 faults and cache maintenance: predicted, traced and counted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The access that a stage-2 fault interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// An instruction fetch.
    Fetch,
    /// A load or a store.
    Data,
}

impl Access {
    /// Returns the name used in results and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Data => "data",
        }
    }
}

/// The cause of a stage-2 fault, from the fault status code (Arm ARM, "ESR_ELx", ISS encoding for an exception from an
/// Instruction Abort or a Data Abort).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Nothing is mapped there.
    Translation,
    /// The mapping does not allow the access.
    Permission,
    /// The mapping's access flag is clear.
    AccessFlag,
    /// Any other.
    Other,
}

impl FaultKind {
    /// Returns the name used in results and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Translation => "translation",
            Self::Permission => "permission",
            Self::AccessFlag => "access_flag",
            Self::Other => "other",
        }
    }
}

/// The I-cache maintenance that KVM does for one exec fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Every line of the block, however large (before v6.7).
    ByLine,
    /// Every line of small blocks, the whole I-cache for larger ones (since v6.7).
    Capped,
    /// No maintenance at all.
    None,
}

impl Policy {
    /// Returns the name used in results and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByLine => "by line",
            Self::Capped => "capped",
            Self::None => "none",
        }
    }
}

/// I-cache operations for one exec fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Predicted {
    /// `IC IVAU`, where every line is invalidated; 1 (`IC IALLUIS`) for an aliasing I-cache; 0 with DIC.
    pub by_line: u64,
    /// The same under the cap of v6.7: 1 is `IC IALLUIS`.
    pub capped: u64,
}

/// What the kernel did in the traced round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostSide {
    /// Stage-2 faults in the region, by kind.
    pub faults: Vec<FaultCount>,
    /// I-cache invalidations of guest memory, if they could be probed.
    pub icache: Option<Maintenance>,
    /// D-cache cleans of guest memory, if they could be probed.
    pub dcache: Option<Maintenance>,
}

/// Stage-2 faults of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FaultCount {
    /// The access that faulted.
    pub access: Access,
    /// The cause.
    pub kind: FaultKind,
    /// Level of the table walk.
    pub level: u8,
    /// How many.
    pub count: u64,
}

/// Calls of one maintenance function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Maintenance {
    /// Calls.
    pub calls: u64,
    /// Largest range of one call, in bytes.
    pub max_bytes: u64,
    /// Longest call, in ns.
    pub max_ns: u64,
    /// All calls, in ns.
    pub total_ns: u64,
}

/// Cache maintenance instructions that the host kernel executed, counted exactly by the TCG plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// Faults by a fetch in the same round, each of which grants execution: the factor between the predictions and the counts.
    pub faults: u64,
    /// `IC IVAU` in `icache_inval_pou`.
    pub ic_ivau: u64,
    /// `IC IALLUIS` anywhere.
    pub ic_ialluis: u64,
    /// `DC CIVAC` in `dcache_clean_inval_poc`.
    pub dc_civac: u64,
    /// Policies whose prediction is exactly what was counted on the I side.
    pub agrees_with: Vec<Policy>,
}
