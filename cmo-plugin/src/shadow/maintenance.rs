// SPDX-License-Identifier: GPL-2.0-or-later
//! Cleans, invalidations, and the barriers that complete them.

use std::sync::atomic::Ordering::Relaxed;

use super::page::{Clean, LINE, LINES, PAGE, Version};
use super::pe::{Blamed, Op, Range};
use super::report::Missing;
use super::state::{Ram, Shadow, lock};

impl<R: Ram> Shadow<R> {
    /// Records a clean of the D-cache line that holds `pa`.
    pub(crate) fn clean(&self, pe: usize, guest: bool, pa: u64, poc: bool, invalidates: bool) {
        let op = Op::Clean(Clean { poc, invalidates, idc: self.features.idc });
        self.operate(pe, guest, pa, self.features.dmin_line, op);
    }

    /// Records an invalidation of the I-cache line that holds `pa`.
    pub(crate) fn invalidate(&self, pe: usize, guest: bool, pa: u64) {
        self.operate(pe, guest, pa, self.features.imin_line, Op::Invalidate);
    }

    fn operate(&self, pe: usize, guest: bool, pa: u64, bytes: u64, op: Op) {
        let bytes = bytes.max(LINE);
        let first = pa / bytes * bytes;
        let mut pending = None;
        for at in (first..first + bytes).step_by(LINE as usize) {
            let Some(page) = self.memory.page(at) else { continue };
            let line = (at % PAGE / LINE) as usize;
            let state = page.state(line);
            let mut newest = None;
            for version in Version::served_by(guest) {
                if page.writer(line, *version).is_none() {
                    continue;
                }
                let needed = match op {
                    Op::Clean(clean) => {
                        !state.pou(*version) || (clean.poc && !state.poc(*version)) || (clean.poc && state.uncached())
                    }
                    Op::Invalidate if !self.features.idc && !state.pou(*version) => {
                        page.mark_early(line);
                        false
                    }
                    Op::Invalidate => !state.invalidated(*version),
                };
                if needed {
                    newest = newest.max(Some(page.base(line, *version)));
                }
            }
            let Some(newest) = newest else { continue };
            let pending = pending.get_or_insert_with(|| lock(&self.pe(pe).pending));
            pending.add(op, guest, at / LINE, newest, || self.tick());
        }
        if pending.is_some() {
            self.pe(pe).is_busy.store(true, Relaxed);
        }
    }

    /// Records an invalidation of the I-caches of all PEs, or of this one alone.
    pub(crate) fn invalidate_all(&self, pe: usize, guest: bool, all_pes: bool) {
        let time = self.tick();
        let mut pending = lock(&self.pe(pe).pending);
        let times = if all_pes { &mut pending.all } else { &mut pending.local };
        for version in Version::served_by(guest) {
            times[version.index()] = time;
        }
        self.pe(pe).is_busy.store(true, Relaxed);
    }

    /// Records a barrier for loads and stores. It completes the PE's operations for the PE itself, and for all if
    /// `for_all` is true.
    pub(crate) fn barrier(&self, pe: usize, for_all: bool) {
        let state = self.pe(pe);
        if !state.is_busy.load(Relaxed) {
            return;
        }
        let mut pending = lock(&state.pending);
        for version in Version::BOTH {
            let local = std::mem::take(&mut pending.local[version.index()]);
            state.complete_local(version, local);
        }
        if for_all {
            let now = self.tick();
            for version in Version::BOTH {
                let all = std::mem::take(&mut pending.all[version.index()]);
                self.marks.all[version.index()].fetch_max(all, Relaxed);
                if all != 0 && version == Version::Host {
                    self.mark_late(&mut pending.blamed, |_, missing| !missing.is_d_side());
                }
            }
            let ranges = std::mem::take(&mut pending.ranges);
            for range in &ranges {
                self.complete(range, now);
                if !range.guest {
                    let is_d_side = matches!(range.op, Op::Clean(_));
                    let serves = |blamed: &Blamed, missing: Missing| {
                        missing.is_d_side() == is_d_side && range.meets(blamed.pa, blamed.size)
                    };
                    self.mark_late(&mut pending.blamed, serves);
                }
            }
        }
        if pending.is_empty() {
            state.is_busy.store(false, Relaxed);
        }
    }

    fn mark_late(&self, blamed: &mut Vec<Blamed>, serves: impl Fn(&Blamed, Missing) -> bool) {
        blamed.retain(|blamed| {
            // An operation that a later barrier completes was not late itself.
            let late = !blamed.key.missing.is_barrier() && serves(blamed, blamed.key.missing);
            if late {
                lock(&self.reports).mark_late(&blamed.key);
            }
            !late
        });
    }

    fn complete(&self, range: &Range, now: u32) {
        for number in range.first..range.first + range.count {
            let Some(page) = self.memory.page(number * LINE) else { continue };
            let line = (number % LINES as u64) as usize;
            for version in Version::served_by(range.guest) {
                match range.op {
                    Op::Clean(clean) => page.complete_clean(line, *version, clean, range.issued, now),
                    Op::Invalidate => page.complete_invalidation(line, *version, range.issued, self.features.idc),
                }
            }
        }
    }
}
