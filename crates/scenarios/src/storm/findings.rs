//! Findings of `storm`.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::stats::Timing;

use crate::projection::Headroom;
use crate::storm::program::{Mode, Order};

/// vCPUs racing into blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
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

/// Conclusion from all races.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conclusion {
    /// Distance of the longest stall from a soft lockup.
    pub headroom: Headroom,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "storm";
}

impl Finding for Conclusion {
    const SCENARIO: &'static str = "storm";
}
