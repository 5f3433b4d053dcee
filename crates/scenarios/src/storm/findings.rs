//! The part of a stored result that only `storm` has.

use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::stats::Timing;

use crate::projection::Headroom;
use crate::storm::program::{Mode, Order};

/// Findings of `storm` in one case: vCPUs that race into blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Assignment of blocks to racers.
    pub mode: Mode,
    /// First access to a block.
    pub order: Order,
    /// Number of races in each round.
    pub races: u64,
    /// Number of timed rounds.
    pub timed_rounds: u64,
    /// Longest stall of a racer in a timed round, in ns.
    pub worst_ns: u64,
    /// Time from the start of the first racer to the end of the last one, over the timed races.
    pub wall: Option<Timing>,
    /// Times of each racer.
    pub racers: Vec<Racer>,
    /// Trace of each block in the traced round.
    pub traced: Vec<TracedRace>,
    /// Worst stall, divided by the worst stall of one racer in the same run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub growth: Option<f64>,
    /// Projected stall for this number of racers; absent without a case of one racer, or if the kernel does not
    /// invalidate by line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<StormModel>,
}

/// Times of one racer, over all timed races.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Racer {
    /// Number of the vCPU.
    pub vcpu: u64,
    /// Number of its races.
    pub races: u64,
    /// Number of its races with a fault: the fetch took more than four times as long as the longest fetch without a
    /// fault.
    pub faulted: u64,
    /// Times of its fetches.
    pub stall: Option<Timing>,
}

/// Trace of one block in one race of the traced round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TracedRace {
    /// First IPA of the block.
    pub block_ipa: u64,
    /// Number of vCPUs that raced into it.
    pub racers: u64,
    /// Numbers of the vCPUs that took a fault on it by a fetch.
    pub faulted: Vec<u64>,
    /// Number of their faults; more than the racers if some had to fault again.
    pub faults: u64,
    /// Number of I-cache invalidations of the block by the host; absent without a probe.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub invalidations: Option<u64>,
    /// Time of the longest of them, in ns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub longest_ns: Option<u64>,
}

/// The model `stall = racers × lines × cost of a line`, with the cost from the case of one racer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StormModel {
    /// Time of one line with one racer, in ns.
    pub ns_per_line: f64,
    /// Projected stall, in ns.
    pub predicted_ns: u64,
    /// Worst measured stall, divided by the projected one.
    pub ratio: f64,
}

/// Conclusion from all cases.
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
