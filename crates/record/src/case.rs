//! The result of one case.

use klog::attribution::{Attribution, attribute_all};
use klog::message::Event;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::stats::Timing;

use crate::findings::Findings;
use crate::maintenance::{Counted, HostSide, Predicted};
use crate::memory::MemoryKind;
use crate::status::{Status, Verdict};

/// One part of a run that has a verdict of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseResult {
    /// Name in tables: the kind of memory, or the litmus test.
    pub name: String,
    /// Name among the cases of its scenario, for formats and comparisons: depends on the case alone, never on its
    /// neighbours.
    pub id: String,
    /// How it came out.
    pub verdict: Verdict,
    /// vCPUs.
    pub vcpus: u64,
    /// Timed rounds; one more is traced, where tracing is there.
    pub rounds: u64,
    /// Memory under test; absent where the scenario tests none of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory: Option<Memory>,
    /// Times of the guest's faults, where the scenario times them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub times: Option<FaultTimes>,
    /// I-cache operations that one exec fault takes, by policy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub predicted: Option<Predicted>,
    /// Elements that did not return their token.
    pub mismatches: u64,
    /// Stage-2 faults and maintenance of the traced round.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<HostSide>,
    /// Maintenance that the TCG plugin counted in the traced round, in the emulated lab with `--count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub counted: Option<Counted>,
    /// The kernel's complaints while this case ran.
    pub complaints: Vec<Complaint>,
    /// Start of the guest; absent where it did not start.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boot: Option<Boot>,
    /// State of a guest that did not end by itself, per vCPU: registers and last records.
    pub autopsy: Vec<String>,
    /// Findings of the scenario's own.
    #[serde(skip_serializing_if = "Findings::is_none", default)]
    pub findings: Findings,
}

/// The memory under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// Its kind, as asked for.
    pub kind: MemoryKind,
    /// Size in bytes of what KVM should map at once; 0 where the host has no such memory.
    pub block_bytes: u64,
    /// Region size in bytes.
    pub region_bytes: u64,
}

/// Times that the guest saw its first accesses take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FaultTimes {
    /// First touch as data.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub touch: Option<Timing>,
    /// First execution.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exec: Option<Timing>,
    /// Execution once mapped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resident: Option<Timing>,
    /// Cost of tracing, where a round was traced and the kernel complained of nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tracing_cost: Option<TracingCost>,
}

/// The exec fault with and without tracing. Reported times are those without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TracingCost {
    /// Median exec fault of the timed rounds.
    pub untraced_ns: u64,
    /// The same of the traced round.
    pub traced_ns: u64,
}

impl TracingCost {
    /// Returns what tracing added, in percent; negative where the traced round happened to be faster.
    pub fn percent(&self) -> f64 {
        (self.traced_ns as f64 / self.untraced_ns.max(1) as f64 - 1.0) * 100.0
    }
}

/// Work of a guest's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Boot {
    /// Descriptors the guest wrote to map the region.
    pub descriptor_writes: u64,
    /// From the guest's first instruction to its first op, in ticks of CNTVCT_EL0.
    pub ticks: u64,
}

impl CaseResult {
    /// Returns a case of which nothing is known yet.
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
            counted: None,
            complaints: Vec::new(),
            boot: None,
            autopsy: Vec::new(),
            findings: Findings::default(),
        }
    }

    /// Returns a case on one kind of memory, of which nothing is known yet.
    pub fn on(kind: MemoryKind, vcpus: u64) -> Self {
        let memory = Memory { kind, block_bytes: 0, region_bytes: 0 };
        Self { memory: Some(memory), ..Self::not_run(kind.to_string(), vcpus) }
    }

    /// Returns the times, empty where the scenario takes none.
    pub fn times(&self) -> FaultTimes {
        self.times.unwrap_or_default()
    }

    /// Returns the size in bytes of what KVM should map at once; 0 where that is not known.
    pub fn block_bytes(&self) -> u64 {
        self.memory.map_or(0, |memory| memory.block_bytes)
    }

    /// Returns the size in bytes of the region under test; 0 where there is none.
    pub fn region_bytes(&self) -> u64 {
        self.memory.map_or(0, |memory| memory.region_bytes)
    }

    /// Returns whether anything was measured or traced: of a case that was skipped or died there is nothing to tell.
    pub fn was_tried(&self) -> bool {
        self.times.is_some_and(|times| times.touch.is_some() || times.exec.is_some()) || self.host.is_some()
    }
}

/// Something the kernel complained about, and why it is thought to have happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Complaint {
    /// What the kernel said.
    pub event: Event,
    /// What kept the CPU busy: of the longest report, then of each of [`Event::elsewhere`].
    pub attributions: Vec<Attribution>,
}

impl From<Event> for Complaint {
    fn from(event: Event) -> Self {
        Self { attributions: attribute_all(&event), event }
    }
}
