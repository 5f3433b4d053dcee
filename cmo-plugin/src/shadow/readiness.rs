// SPDX-License-Identifier: GPL-2.0-or-later
//! Readiness of a line: what the I side lacks before a fetch, and the D side before a read without caches.

use std::sync::atomic::Ordering::Relaxed;

use super::page::{LINE, PAGE, Page, Version};
use super::pe::{Op, Pe, Range};
use super::report::Missing;
use super::state::{Ram, Shadow, lock};

impl<R: Ram> Shadow<R> {
    /// Returns whether `pe`, or every PE if it is none, may fetch a version of a line.
    #[inline]
    pub(super) fn is_fetchable(&self, page: &Page, line: usize, version: Version, pe: Option<usize>) -> bool {
        let state = page.state(line);
        if page.writer(line, version).is_none() {
            return true;
        }
        if !self.features.idc && !state.pou(version) {
            return false;
        }
        let base = || page.base(line, version);
        self.features.dic
            || state.invalidated(version)
            || self.marks.all[version.index()].load(Relaxed) > base()
            || pe.is_some_and(|pe| self.pe(pe).local(version) > base())
    }

    /// Returns what the I side of a line lacks before `pe`, or any PE if it is none, may fetch a version.
    pub(super) fn lacks_i(&self, page: &Page, pa: u64, version: Version, pe: Option<usize>) -> Option<Missing> {
        let line = (pa % PAGE / LINE) as usize;
        if self.is_fetchable(page, line, version, pe) {
            return None;
        }
        let (state, base) = (page.state(line), page.base(line, version));
        let by_host = version == Version::Host;
        if !self.features.idc && !state.pou(version) {
            let is_pending = self.is_pending(pa, base, by_host, |op| matches!(op, Op::Clean(_)));
            return Some(if is_pending { Missing::DCleanNotCompleted } else { Missing::DClean });
        }
        let all_pending = || self.busy_pes().any(|pe| lock(&pe.pending).all[version.index()] > base);
        Some(if self.is_pending(pa, base, by_host, |op| op == Op::Invalidate) || all_pending() {
            Missing::INotCompleted
        } else if state.early() {
            Missing::IBeforeDClean
        } else if self.pes.iter().any(|pe| pe.recent[version.index()].load(Relaxed) > base) {
            Missing::IOnOnePe
        } else {
            Missing::IInvalidation
        })
    }

    /// Returns the PEs that have maintenance without a barrier.
    fn busy_pes(&self) -> impl Iterator<Item = &Pe> {
        self.pes.iter().filter(|pe| pe.is_busy.load(Relaxed))
    }

    /// Returns what the D side of a line lacks before a read that does not use the caches.
    pub(super) fn lacks_d(&self, page: &Page, pa: u64, version: Version) -> Option<Missing> {
        let line = (pa % PAGE / LINE) as usize;
        page.writer(line, version)?;
        if page.state(line).poc(version) {
            return None;
        }
        let base = page.base(line, version);
        let by_host = version == Version::Host;
        let is_pending = self.is_pending(pa, base, by_host, |op| matches!(op, Op::Clean(clean) if clean.poc));
        Some(if is_pending { Missing::DCleanNotCompleted } else { Missing::DClean })
    }

    /// Returns whether some PE has executed an operation on a line after `base` that no barrier has completed.
    fn is_pending(&self, pa: u64, base: u32, by_host: bool, is_wanted: impl Fn(Op) -> bool) -> bool {
        let serves = |range: &Range| {
            is_wanted(range.op) && !(by_host && range.guest) && range.meets(pa, 1) && range.issued > base
        };
        self.busy_pes().any(|pe| lock(&pe.pending).ranges.iter().any(serves))
    }
}
