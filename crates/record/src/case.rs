//! The result of one case.

use klog::attribution::{Attribution, attribute};
use klog::complaint::Complaint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::stats::Timing;

use crate::budget::Budget;
use crate::findings::StoredFindings;
use crate::maintenance::{Counted, HostSide, Predicted};
use crate::memory::MemoryKind;
use crate::sanitizer::Sanitizer;
use crate::status::{Status, Verdict};

/// One part of a run that has a verdict of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseResult {
    /// Name in tables: the kind of memory, the litmus test or the like.
    pub name: String,
    /// Name in formats and comparisons. It is unique among the cases of the scenario, and depends on this case alone.
    pub id: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Number of vCPUs.
    pub vcpus: u64,
    /// Number of timed rounds. One more round is traced, if the kernel can trace.
    pub rounds: u64,
    /// Memory under test. Absent if the scenario has none of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory: Option<Memory>,
    /// Times of the guest's faults, if the scenario measures them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub times: Option<FaultTimes>,
    /// I-cache operations that one exec fault takes under each policy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub predicted: Option<Predicted>,
    /// Number of looks that did not return the expected token.
    pub mismatches: u64,
    /// Stage-2 faults and maintenance of the traced round.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<HostSide>,
    /// Comparison of the traced faults and maintenance with what a correct kernel needs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget: Option<Budget>,
    /// Maintenance that the TCG plugin counted in the traced round, in the lab with `--count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub counted: Option<Counted>,
    /// Checks and reports of the sanitizer, in the lab with `--sanitize`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sanitizer: Option<Sanitizer>,
    /// Complaints of the kernel while this case ran.
    pub complaints: Vec<AttributedComplaint>,
    /// Start of the guest. Absent if the guest did not start.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boot: Option<Boot>,
    /// State of each vCPU of a guest that did not end by itself: its registers and its last records.
    pub autopsy: Vec<String>,
    /// Findings of the scenario.
    #[serde(skip_serializing_if = "StoredFindings::is_empty", default)]
    pub findings: StoredFindings,
}

/// The memory under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// The kind of memory that was asked for.
    pub kind: MemoryKind,
    /// Size in bytes of the block or page that KVM should map. 0 if the host has no such memory.
    pub block_bytes: u64,
    /// Size of the region in bytes.
    pub region_bytes: u64,
}

/// Durations of the guest's first accesses, as the guest measured them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FaultTimes {
    /// First touch, as data.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub touch: Option<Timing>,
    /// First execution.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exec: Option<Timing>,
    /// Execution of code that is mapped already.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resident: Option<Timing>,
    /// Cost of tracing. Absent if no round was traced, or if the kernel had a complaint.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tracing_cost: Option<TracingCost>,
}

/// The time of an exec fault with and without tracing. Reports show the times without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TracingCost {
    /// Median exec fault of the timed rounds.
    pub untraced_ns: u64,
    /// Median exec fault of the traced round.
    pub traced_ns: u64,
}

impl TracingCost {
    /// Returns the time that tracing added, in percent. It is negative if the traced round was faster by chance.
    pub fn percent(&self) -> f64 {
        (self.traced_ns as f64 / self.untraced_ns.max(1) as f64 - 1.0) * 100.0
    }
}

/// The start of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Boot {
    /// Number of descriptors that the guest wrote to map the region.
    pub descriptor_writes: u64,
    /// Time from the guest's first instruction to its first op, in ticks of CNTVCT_EL0.
    pub ticks: u64,
}

impl CaseResult {
    /// Returns a case about which nothing is known yet.
    pub fn not_run(name: impl Into<String>, vcpus: u64) -> Self {
        let name = name.into();
        Self {
            id: name.clone(),
            name,
            verdict: Verdict::new(Status::Error, "not run"),
            vcpus,
            rounds: 1,
            memory: None,
            times: None,
            predicted: None,
            mismatches: 0,
            host: None,
            budget: None,
            counted: None,
            sanitizer: None,
            complaints: Vec::new(),
            boot: None,
            autopsy: Vec::new(),
            findings: StoredFindings::default(),
        }
    }

    /// Returns a case on one kind of memory, about which nothing else is known yet.
    pub fn on(kind: MemoryKind, vcpus: u64) -> Self {
        let memory = Memory { kind, block_bytes: 0, region_bytes: 0 };
        Self { memory: Some(memory), ..Self::not_run(kind.to_string(), vcpus) }
    }

    /// Returns the times. They are empty if the scenario measures none.
    pub fn times(&self) -> FaultTimes {
        self.times.unwrap_or_default()
    }

    /// Returns the size in bytes of the block or page that KVM should map, or 0 if it is not known.
    pub fn block_bytes(&self) -> u64 {
        self.memory.map_or(0, |memory| memory.block_bytes)
    }

    /// Returns the size in bytes of the region under test, or 0 if there is none.
    pub fn region_bytes(&self) -> u64 {
        self.memory.map_or(0, |memory| memory.region_bytes)
    }

    /// Returns whether anything was measured or traced. A case that was skipped, or that died early, has no numbers.
    pub fn was_tried(&self) -> bool {
        self.times.is_some_and(|times| times.touch.is_some() || times.exec.is_some()) || self.host.is_some()
    }
}

/// A complaint of the kernel with its attributions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttributedComplaint {
    /// The complaint.
    #[serde(rename = "event")]
    pub complaint: Complaint,
    /// The attribution of the longest report, followed by that of each place in [`Complaint::elsewhere`].
    pub attributions: Vec<Attribution>,
}

impl From<Complaint> for AttributedComplaint {
    fn from(complaint: Complaint) -> Self {
        Self { attributions: attribute(&complaint), complaint }
    }
}
