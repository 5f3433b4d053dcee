//! A model of the storm. From the measured cost of one cache line, it projects the length of a stall and the number of
//! vCPUs that lock up.
//!
//! Invalidations from different CPUs serialise completely, so `stall = racers × lines × cost of a line`.
//! docs/projection.md compares this with the figures of the report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use units::size::Size;
use units::text::time;

/// Cost of invalidating one cache line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LineCost {
    /// Time of `IC IVAU` for one line and of its share of the loop, in ns.
    pub ns_per_line: f64,
    /// Size of the smallest I-cache line in bytes.
    pub line_bytes: u64,
}

impl LineCost {
    /// Returns the cost if the invalidation of a block took `ns`.
    pub fn measured(ns: u64, block_bytes: u64, line_bytes: u64) -> Self {
        Self { ns_per_line: ns as f64 / lines(block_bytes, line_bytes).max(1) as f64, line_bytes }
    }

    /// Returns the stall of the last of `racers` vCPUs that execute one block at once, in ns.
    pub fn stall_ns(&self, racers: u64, block_bytes: u64) -> f64 {
        racers as f64 * lines(block_bytes, self.line_bytes) as f64 * self.ns_per_line
    }

    /// Returns the smallest number of racers that stall for `threshold_ns` in one block.
    fn racers_to_lock_up(&self, block_bytes: u64, threshold_ns: u64) -> u64 {
        let one = self.stall_ns(1, block_bytes);
        if one <= 0.0 { u64::MAX } else { ((threshold_ns as f64 / one).ceil() as u64).max(1) }
    }
}

/// Returns the number of lines in a block.
pub fn lines(block_bytes: u64, line_bytes: u64) -> u64 {
    block_bytes / line_bytes.max(1)
}

/// Distance of a machine from a soft lockup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Headroom {
    /// Threshold of the soft lockup detector, in ns.
    pub threshold_ns: u64,
    /// Longest measured time without scheduling, in ns.
    pub longest_ns: u64,
    /// Threshold divided by the longest time; below 1 the machine locks up.
    pub factor: f64,
    /// Projected limits for each block size; empty if the cost does not grow with the block.
    pub locks_up_from: Vec<Limit>,
}

/// Smallest number of vCPUs that lock up if they execute one block of this size at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limit {
    /// Size of the block in bytes.
    pub block_bytes: u64,
    /// Number of vCPUs.
    pub racers: u64,
}

impl Headroom {
    /// Returns the headroom for a longest time without scheduling. `cost` is given if the kernel invalidates by line;
    /// it yields a limit for each size in `block_bytes`.
    pub fn new(threshold_ns: u64, longest_ns: u64, cost: Option<LineCost>, block_bytes: &[u64]) -> Self {
        let limit = |cost: &LineCost, bytes: u64| Limit {
            block_bytes: bytes,
            racers: cost.racers_to_lock_up(bytes, threshold_ns),
        };
        Self {
            threshold_ns,
            longest_ns,
            factor: threshold_ns as f64 / longest_ns.max(1) as f64,
            locks_up_from: cost.iter().flat_map(|cost| block_bytes.iter().map(|bytes| limit(cost, *bytes))).collect(),
        }
    }

    /// Returns the headroom as one line of text.
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

    /// The report has 64 vCPUs on one 512 MiB block of an Altra Max, and a worst stall of 37 s.
    #[test]
    fn reported_stall_follows_from_one_measured_block() {
        let cost = LineCost::measured(ALTRA_MAX.0, ALTRA_MAX.1, 64);
        assert!((cost.ns_per_line - 69.0).abs() < 0.1, "{cost:?}");
        let stall = cost.stall_ns(64, 512 << 20) / 1e9;
        assert!((stall - 37.0).abs() / 37.0 < 0.02, "{stall} s");
    }

    #[test]
    fn limits_and_factor() {
        let cost = LineCost::measured(ALTRA_MAX.0, ALTRA_MAX.1, 64);
        assert_eq!(cost.racers_to_lock_up(512 << 20, 20_000_000_000), 35);
        assert_eq!(cost.racers_to_lock_up(1 << 40, 20_000_000_000), 1);
        let headroom = Headroom::new(20_000_000_000, 579_000_000, Some(cost), &[2 << 20, 512 << 20]);
        assert_eq!(headroom.locks_up_from.iter().map(|l| l.racers).collect::<Vec<_>>(), [8843, 35]);
        assert!((headroom.factor - 34.5).abs() < 0.1);
        assert!(Headroom::new(1, 1, None, &[4096]).locks_up_from.is_empty());
    }
}
