//! `result.json`: what a run found, version 1. Everything that reports reads this and nothing else.
//!
//! `results/schema/result-v1.json` is generated from these types; a test keeps the two equal.

mod coherence;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evidence::attribution::{Attribution, attribute_all};
use crate::evidence::detector::Detector;
use crate::evidence::machine::Machine;
use crate::evidence::message::Event;
use crate::litmus::result::Litmus;
use crate::plan::blocks::Block;
use crate::plan::relax::Sharing;
use crate::plan::storm::{Mode, Order};
use crate::projection::Headroom;
use crate::verdict::policy::{Conclusion, Point};
pub use coherence::{Coherence, RandomPrograms, Sights, Way};

/// Version of the format; grows when a reader has to change.
pub const VERSION: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunResult {
    /// [`VERSION`].
    pub version: u32,
    /// Which run this is and when it was.
    pub run: RunId,
    /// The tool that ran.
    pub tool: Tool,
    /// Its arguments.
    pub command: Vec<String>,
    /// What the operator said about the kernel.
    #[serde(skip_serializing_if = "UnderTest::is_empty", default)]
    pub under_test: UnderTest,
    /// Name of the scenario.
    pub scenario: String,
    /// What a plan calls this run, where that is not the scenario's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step: Option<String>,
    /// Verdict over all cases.
    pub verdict: Verdict,
    /// The machine.
    pub machine: Machine,
    /// The kernel's lockup detectors while the run lasted.
    pub detector: Detector,
    /// What the guest read of its CPUs.
    pub vcpus: Vec<VcpuFacts>,
    /// Which evidence there was.
    pub evidence: EvidenceState,
    /// One entry for each kind of block asked for.
    pub cases: Vec<CaseResult>,
    /// The run did not live to write this: `faultline recover` made it of what the run had left.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub recovered: bool,
    /// The dead run that this one went on with; its cases come first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resumed_from: Option<String>,
    /// Which maintenance this kernel does, where the scenario asks for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<Conclusion>,
    /// How far the longest stall is from a soft lockup.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub headroom: Option<Headroom>,
}

impl RunResult {
    /// Returns how the user of the lab named the kernel.
    pub fn lab_kernel(&self) -> Option<&str> {
        self.machine.lab.as_ref()?["kernel"].as_str()
    }

    /// Returns how the lab was set up besides.
    pub fn lab_setup(&self) -> Option<serde_json::Value> {
        let mut lab = self.machine.lab.clone()?;
        if let Some(lab) = lab.as_object_mut() {
            lab.remove("kernel");
        }
        Some(lab)
    }

    /// Returns what reports call the run: the name that a plan gave it, or its scenario.
    pub fn title(&self) -> &str {
        self.step.as_deref().unwrap_or(&self.scenario)
    }
}

/// Which run, and when. The only part of a result that two equal runs do not share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunId {
    /// Name of the run directory.
    pub id: String,
    /// Start, RFC 3339, UTC.
    pub started: String,
    /// End, RFC 3339, UTC.
    pub finished: String,
}

/// What a running kernel cannot tell about itself; for the reports of labs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::Args)]
pub struct UnderTest {
    /// Name this run in reports: a branch, a night, before or after
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// Commit the kernel was built from
    #[arg(long, value_name = "HASH", value_parser = commit_hash)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub git_commit_hash: Option<String>,
    /// Hash of the patches on top, as KCIDB has it: sha256sum *.patch | cut -c-64 | sha256sum; empty without patches
    #[arg(long, value_name = "HASH", value_parser = patchset_hash)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub patchset_hash: Option<String>,
}

impl UnderTest {
    /// Returns whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn hash_of(digits: usize, text: &str) -> Result<String, String> {
    let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if hex && text.len() == digits {
        Ok(text.into())
    } else {
        Err(format!("give {digits} hexadecimal digits, in lower case"))
    }
}

fn commit_hash(text: &str) -> Result<String, String> {
    hash_of(40, text)
}

fn patchset_hash(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { hash_of(64, text) }
}

/// The tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Version of faultline.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// The most memory it had resident, guest included, in KiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_resident_kib: Option<u64>,
}

/// How a run or a case came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Held, with evidence that the path was taken.
    Pass,
    /// Could not be tried here, or not shown to have been.
    Skip,
    /// Did not hold.
    Fail,
    /// Still running at the time limit.
    Timeout,
    /// The tool, the guest or the evidence failed.
    Error,
}

impl Status {
    /// Returns the process exit code. Those of kselftest, sysexits and timeout(1).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Skip => 4,
            Self::Error => 70,
            Self::Timeout => 124,
        }
    }

    /// Returns the word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail => "fail",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

/// A status and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// How it came out.
    pub status: Status,
    /// One line: the evidence of a pass, the cause of anything else.
    pub reason: String,
}

impl Verdict {
    /// Returns a verdict.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// Identification registers of one vCPU, as its guest read them; CTR_EL0 as KVM gives it to guests that are shown no
/// other, since that is what the host's own maintenance goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VcpuFacts {
    /// MIDR_EL1.
    pub midr_el1: String,
    /// CTR_EL0.
    pub ctr_el0: String,
    /// CLIDR_EL1.
    pub clidr_el1: String,
    /// Smallest I-cache line in bytes.
    pub imin_line_bytes: u64,
    /// Smallest D-cache line in bytes.
    pub dmin_line_bytes: u64,
    /// CTR_EL0.IDC, or what CLIDR_EL1 implies.
    pub idc: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
    /// Level 1 I-cache policy.
    pub l1ip: String,
    /// Frequency of the counter in Hz.
    pub cntfrq_hz: u64,
    /// Smallest step of the counter seen, in ticks.
    pub resolution_ticks: u64,
    /// What the guest read in CTR_EL0, where `--guest-ctr` had KVM show it another one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shown: Option<ReadCtr>,
}

/// A CTR_EL0 that is not the machine's own, as the guest read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadCtr {
    /// CTR_EL0.
    pub ctr_el0: String,
    /// Smallest I-cache line in bytes.
    pub imin_line_bytes: u64,
    /// Smallest D-cache line in bytes.
    pub dmin_line_bytes: u64,
    /// CTR_EL0.IDC.
    pub idc: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
}

/// Which evidence there was, and what is missing from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceState {
    /// Parts that were not there, each with the reason.
    pub absent: Vec<String>,
    /// Kernel log records lost while the run lasted.
    pub kmsg_lost: u64,
    /// Trace records lost while the run lasted.
    pub trace_lost: u64,
    /// Anything else that a reader should know.
    pub notes: Vec<String>,
}

/// One kind of block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseResult {
    /// What was asked for.
    pub block: Block,
    /// How it came out.
    pub verdict: Verdict,
    /// Size in bytes of what KVM should map at once; 0 where the host has no such block.
    pub block_bytes: u64,
    /// Region size in bytes.
    pub region_bytes: u64,
    /// vCPUs.
    pub vcpus: u64,
    /// Who executed what.
    pub sharing: Sharing,
    /// Timed rounds; one more is traced, where tracing is there.
    pub rounds: u64,
    /// Cache maintenance that one exec fault takes, by policy.
    pub predicted: Predicted,
    /// First touch as data.
    pub touch: Option<Timing>,
    /// First execution.
    pub exec: Option<Timing>,
    /// Execution once mapped.
    pub resident: Option<Timing>,
    /// Elements that did not return their token.
    pub mismatches: u64,
    /// What the kernel did, from the traced round.
    pub host: Option<HostSide>,
    /// What the TCG plugin counted in the traced round, in the emulated lab with `--count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub counted: Option<Counted>,
    /// What tracing itself cost, where a round was traced and the kernel complained of nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tracing_cost: Option<TracingCost>,
    /// The kernel's complaints while this case ran.
    pub complaints: Vec<Complaint>,
    /// Descriptors the guest wrote to map the region.
    pub descriptor_writes: u64,
    /// From the guest's first instruction to its first op, in ticks.
    pub boot_ticks: u64,
    /// State of a guest that did not end by itself, per vCPU: registers and last records.
    pub autopsy: Vec<String>,
    /// The race, in `storm`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub storm: Option<Storm>,
    /// The D side, in `dside`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dside: Option<DSide>,
    /// An event and what guests saw after it, in `coherence`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub coherence: Option<Coherence>,
    /// Random programs, in `random`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub random: Option<RandomPrograms>,
    /// What the block size shows of the policy, in `policy`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<Point>,
    /// The litmus test, in `litmus`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub litmus: Option<Litmus>,
}

impl CaseResult {
    /// Says whether anything of it was measured or traced: of a case that was skipped or died there is nothing to tell.
    pub fn was_tried(&self) -> bool {
        self.touch.is_some() || self.exec.is_some() || self.host.is_some()
    }

    /// Returns what people call it: the kind of block, or the litmus test.
    pub fn name(&self) -> String {
        self.litmus.as_ref().map_or_else(|| self.block.to_string(), Litmus::name)
    }

    /// Returns a case of which nothing is known yet.
    pub fn not_run(block: Block, vcpus: u64, sharing: Sharing) -> Self {
        Self {
            block,
            verdict: Verdict::new(Status::Error, "not run"),
            block_bytes: 0,
            region_bytes: 0,
            vcpus,
            sharing,
            rounds: 1,
            predicted: Predicted::default(),
            touch: None,
            exec: None,
            resident: None,
            mismatches: 0,
            host: None,
            counted: None,
            tracing_cost: None,
            complaints: Vec::new(),
            descriptor_writes: 0,
            boot_ticks: 0,
            autopsy: Vec::new(),
            storm: None,
            dside: None,
            coherence: None,
            random: None,
            policy: None,
            litmus: None,
        }
    }
}

/// vCPUs racing into blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Storm {
    /// Who raced into which block.
    pub mode: Mode,
    /// What came first.
    pub order: Order,
    /// Races in each round.
    pub races: u64,
    /// Rounds that were timed.
    pub timed_rounds: u64,
    /// Longest stall of any racer in a timed round, in ns.
    pub worst_ns: u64,
    /// From the first racer's begin to the last one's end, over the timed races.
    pub wall: Option<Timing>,
    /// Each racer.
    pub racers: Vec<Racer>,
    /// Each race of the traced round: what the host really did.
    pub traced: Vec<TracedRace>,
    /// Worst stall ÷ that of one racer in the same run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub growth: Option<f64>,
    /// The stall that the model gives for this many racers; absent without a case of one racer, or where the kernel
    /// does not invalidate by line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<StormModel>,
}

/// One racer, over all timed races.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Racer {
    /// Which vCPU.
    pub vcpu: u64,
    /// Its races.
    pub races: u64,
    /// Those that took longer than any fetch without a fault: four times the longest of these.
    pub faulted: u64,
    /// How long it stalled.
    pub stall: Option<Timing>,
}

/// One race of the traced round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TracedRace {
    /// First IPA of the block.
    pub block_ipa: u64,
    /// vCPUs that raced into it.
    pub racers: u64,
    /// Those that faulted on it by a fetch.
    pub faulted: Vec<u64>,
    /// Their faults; more than racers where some had to fault again.
    pub faults: u64,
    /// I-cache invalidations of the block that the host did; absent without a probe.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub invalidations: Option<u64>,
    /// The longest of them, in ns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub longest_ns: Option<u64>,
}

/// `stall = racers × lines × cost of a line`, with the cost from one racer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StormModel {
    /// What one line took with one racer, in ns.
    pub ns_per_line: f64,
    /// The stall that this gives, in ns.
    pub predicted_ns: u64,
    /// The measured worst stall ÷ the predicted one.
    pub ratio: f64,
}

/// D-cache cleaning by the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DSide {
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

/// I-cache operations for one exec fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Predicted {
    /// `IC IVAU`, where every line is invalidated; 1 (`IC IALLUIS`) for an aliasing I-cache; 0 with DIC.
    pub by_line: u64,
    /// The same under the cap of v6.7: 1 is `IC IALLUIS`.
    pub capped: u64,
}

/// A distribution, in one unit. Percentiles by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// Samples.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Half are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// Largest.
    pub max: u64,
    /// Sum.
    pub sum: u64,
}

/// Times that the guest saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// In ticks of CNTVCT_EL0.
    pub ticks: Distribution,
    /// The same in nanoseconds.
    pub ns: Distribution,
}

/// The exec fault with and without tracing: the price of the evidence. Reported times are those without.
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
    /// `fetch` or `data`.
    pub access: String,
    /// `translation`, `permission` or `access_flag`.
    pub kind: String,
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
    /// Policies whose prediction is exactly what was counted on the I side: `by line`, `capped`, `none`.
    pub agrees_with: Vec<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/schema/result-v1.json");

    /// With `FAULTLINE_WRITE_SCHEMA` set, writes the file instead.
    #[test]
    fn schema_is_the_committed_one() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(RunResult)).expect("a schema is JSON") + "\n";
        if std::env::var_os("FAULTLINE_WRITE_SCHEMA").is_some() {
            std::fs::write(SCHEMA, &schema).expect("the repository can be written to");
        }
        let committed = std::fs::read_to_string(SCHEMA).expect("the schema is committed");
        assert!(committed == schema, "results/schema is stale: FAULTLINE_WRITE_SCHEMA=1 cargo test -p host-runner");
    }
}
