// SPDX-License-Identifier: GPL-2.0-or-later
//! Maintenance that a PE has executed and not yet completed by a barrier.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::page::{Clean, LINE, Version};
use super::report::{Code, Key};
use super::stage2::Leaf;

/// The most ranges that a PE remembers. Only code that never executes a barrier comes near it.
const MOST_RANGES: usize = 1 << 20;
/// Number of the newest ranges that a new operation can continue.
const CONTINUED: usize = 6;

/// Kind of an operation on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Clean of the D side.
    Clean(Clean),
    /// Invalidation of the I side.
    Invalidate,
}

/// Operations of one kind on consecutive lines, none of which was stored to since `issued`, before its operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// Kind.
    pub(crate) op: Op,
    /// True if a guest executed them.
    pub(crate) guest: bool,
    /// Number of the first line: its physical address divided by the size of a line.
    pub(crate) first: u64,
    /// Number of lines.
    pub(crate) count: u64,
    /// A time before all of the operations and after the stores that they serve.
    pub(crate) issued: u32,
}

impl Range {
    /// Returns whether the range has a line of the memory from `pa` on.
    pub(crate) fn meets(&self, pa: u64, size: u64) -> bool {
        self.first * LINE < pa + size && pa < (self.first + self.count) * LINE
    }
}

/// Report about the newest publication by a PE, to which maintenance may come too late.
#[derive(Clone, Debug)]
pub(crate) struct Blamed {
    pub(crate) key: Key,
    pub(crate) pa: u64,
    pub(crate) size: u64,
}

/// Operations without a barrier.
#[derive(Default)]
pub(crate) struct Pending {
    /// Operations on lines.
    pub(crate) ranges: Vec<Range>,
    /// Time of the newest invalidation of the I-caches of all PEs, by version; 0 if there is none.
    pub(crate) all: [u32; 2],
    /// Time of the newest invalidation of this PE's I-cache, by version; 0 if there is none.
    pub(crate) local: [u32; 2],
    /// Leaves that the PE removed since it last left the kernel, with the address of the code that did.
    pub(crate) unmapped: Vec<(Leaf, Code)>,
    /// Newest publications with a report.
    pub(crate) blamed: Vec<Blamed>,
}

impl Pending {
    /// Returns whether a barrier has nothing to complete.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.all == [0; 2] && self.local == [0; 2]
    }

    /// Adds an operation on the line with number `line`. `newest_base` is the time that it has to follow, and `tick`
    /// makes a new time.
    pub(crate) fn add(&mut self, op: Op, guest: bool, line: u64, newest_base: u32, tick: impl FnOnce() -> u32) {
        let continues = |range: &&mut Range| {
            range.op == op && range.guest == guest && range.first + range.count == line && newest_base < range.issued
        };
        let first = self.ranges.len().saturating_sub(CONTINUED);
        if let Some(range) = self.ranges[first..].iter_mut().rev().find(continues) {
            range.count += 1;
            return;
        }
        if self.ranges.len() == MOST_RANGES {
            self.ranges.clear();
        }
        self.ranges.push(Range { op, guest, first: line, count: 1, issued: tick() });
    }
}

/// State of a PE.
#[derive(Default)]
pub(crate) struct Pe {
    /// Operations without a barrier.
    pub(crate) pending: Mutex<Pending>,
    /// True if `pending` may have something for a barrier to complete.
    pub(crate) is_busy: AtomicBool,
    /// Time of the newest completed invalidation of this PE's own I-cache, by version.
    pub(crate) local: [AtomicU32; 2],
    /// The same, since the PE last entered a guest; 0 if there was none.
    pub(crate) recent: [AtomicU32; 2],
    /// True if `unmapped` has leaves.
    pub(crate) has_unmapped: AtomicBool,
    /// VTTBR_EL2.
    pub(crate) vttbr: AtomicU64,
}

impl Pe {
    /// Returns the time of the newest completed invalidation of this PE's own I-cache.
    pub(crate) fn local(&self, version: Version) -> u32 {
        self.local[version.index()].load(Relaxed)
    }

    /// Completes an invalidation of this PE's own I-cache.
    pub(crate) fn complete_local(&self, version: Version, time: u32) {
        for times in [&self.local, &self.recent] {
            times[version.index()].fetch_max(time, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_operations_are_one_range_until_a_line_is_stored_to() {
        let mut pending = Pending::default();
        let mut time = 0;
        let mut tick = || {
            time += 1;
            time
        };
        let clean = Op::Clean(Clean { poc: true, invalidates: true, idc: false });
        for line in 10..20 {
            pending.add(clean, false, line, 0, &mut tick);
            pending.add(Op::Invalidate, false, line, 0, &mut tick);
        }
        assert_eq!(pending.ranges.iter().map(|range| range.count).collect::<Vec<_>>(), [10, 10]);
        pending.add(clean, false, 20, 1, &mut tick);
        assert_eq!(pending.ranges.last().map(|range| (range.first, range.issued)), Some((20, 3)));
        assert!(pending.ranges[2].meets(20 * LINE, 1) && !pending.ranges[2].meets(21 * LINE, 4096));
    }
}
