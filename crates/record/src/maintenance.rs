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

/// The cause of a stage-2 fault. It is decoded from the fault status code (Arm ARM, "ESR_ELx", ISS encoding for an
/// exception from an Instruction Abort or a Data Abort).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Nothing is mapped at this address.
    Translation,
    /// The mapping does not allow the access.
    Permission,
    /// The access flag of the mapping is clear.
    AccessFlag,
    /// Any other cause.
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

/// The rule by which KVM chooses the I-cache maintenance for an exec fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Every line of the block, whatever its size is (before v6.7).
    ByLine,
    /// Every line of a small block, and the whole I-cache for a larger one (since v6.7).
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

/// The I-cache operations that one exec fault should take, by policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Predicted {
    /// Operations by line: the number of `IC IVAU`, 1 (`IC IALLUIS`) for an aliasing I-cache, or 0 with DIC.
    pub by_line: u64,
    /// Operations under the cap of v6.7. 1 is `IC IALLUIS`.
    pub capped: u64,
}

/// The faults and the maintenance that the kernel did in the traced round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostSide {
    /// Stage-2 faults in the region, by access, kind and level.
    pub faults: Vec<FaultCount>,
    /// I-cache invalidations of guest memory. Absent if the kernel's function could not be probed.
    pub icache: Option<Maintenance>,
    /// D-cache cleans of guest memory. Absent if the kernel's function could not be probed.
    pub dcache: Option<Maintenance>,
    /// Reason why the trace does not show the maintenance, if it does not and nothing else judges it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unprobed: Option<String>,
}

/// The number of stage-2 faults with one access, kind and level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FaultCount {
    /// The access that faulted.
    pub access: Access,
    /// The cause of the fault.
    pub kind: FaultKind,
    /// The level of the entry that caused the fault.
    pub level: u8,
    /// The number of faults.
    pub count: u64,
}

/// Calls of one maintenance function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Maintenance {
    /// Number of calls.
    pub calls: u64,
    /// Largest range of a call, in bytes.
    pub max_bytes: u64,
    /// Longest call, in ns.
    pub max_ns: u64,
    /// Time of all calls, in ns.
    pub total_ns: u64,
}

/// Cache maintenance instructions that the host kernel executed. The TCG plugin counts them exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// Faults by a fetch in the same round. Each of them makes memory executable, so this is the factor between a
    /// prediction for one fault and the counts.
    pub faults: u64,
    /// `IC IVAU` in `icache_inval_pou`.
    pub ic_ivau: u64,
    /// `IC IALLUIS` anywhere.
    pub ic_ialluis: u64,
    /// `DC CIVAC` in `dcache_clean_inval_poc`.
    pub dc_civac: u64,
    /// Policies whose prediction equals the counts of the I side.
    pub agrees_with: Vec<Policy>,
}
