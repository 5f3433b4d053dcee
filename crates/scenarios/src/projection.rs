//! The storm on paper: how long a stall is, and from where on it locks up, by the measured cost of one line. Pure.
//!
//! Invalidations from different CPUs serialise completely (docs/projection.md checks this against the figures of the
//! report), so `stall = racers × lines × cost of a line`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use units::size::Size;
use units::text::time;

/// What the stall depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// What `IC IVAU` of one line takes, with its share of the loop, in ns.
    pub ns_per_line: f64,
    /// Smallest I-cache line in bytes.
    pub line_bytes: u64,
}

impl Cost {
    /// Returns the cost behind one stretch of `ns` over a block.
    pub fn measured(ns: u64, block_bytes: u64, line_bytes: u64) -> Self {
        Self { ns_per_line: ns as f64 / lines(block_bytes, line_bytes).max(1) as f64, line_bytes }
    }

    /// Returns how long the last of `racers` vCPUs waits in one block, in ns.
    pub fn stall_ns(&self, racers: u64, block_bytes: u64) -> f64 {
        racers as f64 * lines(block_bytes, self.line_bytes) as f64 * self.ns_per_line
    }

    /// Returns the fewest racers that stall for `threshold_ns` in one block.
    pub fn racers_to_lock_up(&self, block_bytes: u64, threshold_ns: u64) -> u64 {
        let one = self.stall_ns(1, block_bytes);
        if one <= 0.0 { u64::MAX } else { ((threshold_ns as f64 / one).ceil() as u64).max(1) }
    }
}

/// Returns how many lines a block has.
pub fn lines(block_bytes: u64, line_bytes: u64) -> u64 {
    block_bytes / line_bytes.max(1)
}

/// How far a machine is from a soft lockup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Headroom {
    /// The soft lockup threshold in ns.
    pub threshold_ns: u64,
    /// The longest stretch without scheduling that was measured, in ns.
    pub longest_ns: u64,
    /// Threshold ÷ longest stretch; below 1 the machine locks up.
    pub factor: f64,
    /// From where on it would lock up, by the cost of a line; empty where the cost does not grow with the block.
    pub locks_up_from: Vec<Limit>,
}

/// The fewest vCPUs that lock up when they race into one block of this size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limit {
    /// MemoryKind size in bytes.
    pub block_bytes: u64,
    /// vCPUs.
    pub racers: u64,
}

impl Headroom {
    /// Returns the headroom after a longest stretch; `cost` where the kernel invalidates by line, for blocks of
    /// `block_bytes`.
    pub fn new(threshold_ns: u64, longest_ns: u64, cost: Option<Cost>, block_bytes: &[u64]) -> Self {
        let limit =
            |cost: &Cost, bytes: u64| Limit { block_bytes: bytes, racers: cost.racers_to_lock_up(bytes, threshold_ns) };
        Self {
            threshold_ns,
            longest_ns,
            factor: threshold_ns as f64 / longest_ns.max(1) as f64,
            locks_up_from: cost.iter().flat_map(|cost| block_bytes.iter().map(|bytes| limit(cost, *bytes))).collect(),
        }
    }

    /// Says it in one line.
    pub fn text(&self) -> String {
        let from: Vec<_> =
            self.locks_up_from.iter().map(|l| format!("{} vCPUs × {}", l.racers, Size(l.block_bytes))).collect();
        let from = if from.is_empty() { String::new() } else { format!("; locks up from {}", from.join(", ")) };
        format!(
            "headroom {:.3}: longest stretch {}, threshold {}{from}",
            self.factor,
            time(self.longest_ns),
            time(self.threshold_ns)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALTRA_MAX: (u64, u64) = (579_000_000, 512 << 20);

    /// The report: 64 vCPUs on one 512 MiB block of an Altra Max, worst stall 37 s.
    #[test]
    fn the_reported_stall_from_the_measured_block() {
        let cost = Cost::measured(ALTRA_MAX.0, ALTRA_MAX.1, 64);
        assert!((cost.ns_per_line - 69.0).abs() < 0.1, "{cost:?}");
        let stall = cost.stall_ns(64, 512 << 20) / 1e9;
        assert!((stall - 37.0).abs() / 37.0 < 0.02, "{stall} s");
    }

    #[test]
    fn fewest_racers() {
        let cost = Cost::measured(ALTRA_MAX.0, ALTRA_MAX.1, 64);
        assert_eq!(cost.racers_to_lock_up(512 << 20, 20_000_000_000), 35);
        assert_eq!(cost.racers_to_lock_up(1 << 40, 20_000_000_000), 1);
        let headroom = Headroom::new(20_000_000_000, 579_000_000, Some(cost), &[2 << 20, 512 << 20]);
        assert_eq!(headroom.locks_up_from.iter().map(|l| l.racers).collect::<Vec<_>>(), [8843, 35]);
        assert!((headroom.factor - 34.5).abs() < 0.1);
        assert!(Headroom::new(1, 1, None, &[4096]).locks_up_from.is_empty());
    }
}
