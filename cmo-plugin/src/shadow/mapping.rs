// SPDX-License-Identifier: GPL-2.0-or-later
//! Judgement of the memory that stage-2 entries make reachable or take away.

use std::sync::atomic::Ordering::Relaxed;

use super::page::{LINE, LINES, PAGE, Version, Writer};
use super::pe::Blamed;
use super::report::{Code, Example, Key, Kind, Missing, Owed};
use super::stage1::Stage1;
use super::stage2::{Change, Leaf, Stage2};
use super::state::{Place, Ram, Shadow, lock};

/// Lines of a leaf with one fault.
struct Fault {
    kind: Kind,
    missing: Missing,
    owed: Owed,
    lines: u64,
    first: u64,
    writer: Writer,
}

/// Faults of one leaf.
#[derive(Default)]
struct Tally {
    lines: u64,
    faults: Vec<Fault>,
}

impl Tally {
    fn add(&mut self, kind: Kind, missing: Missing, owed: Owed, pa: u64, writer: Writer) {
        let same = |fault: &&mut Fault| (fault.kind, fault.missing, fault.owed) == (kind, missing, owed);
        match self.faults.iter_mut().find(same) {
            Some(fault) => fault.lines += 1,
            None => self.faults.push(Fault { kind, missing, owed, lines: 1, first: pa, writer }),
        }
    }
}

impl<R: Ram> Shadow<R> {
    /// Records a new value of VTTBR_EL2.
    pub(crate) fn load_stage2(&self, pe: usize, vttbr: u64, vtcr: u64, place: &Place) {
        self.pe(pe).vttbr.store(vttbr, Relaxed);
        let mut stage2 = lock(&self.stage2);
        let changes = stage2.load(vttbr, vtcr, &self.tables());
        self.judge_changes(&mut stage2, &changes, pe, place);
    }

    /// Returns whether accesses of the guest that runs on `pe` use the caches at `va`, as far as its stage-1 tables tell.
    pub(crate) fn is_cacheable(&self, pe: usize, stage1: &Stage1, va: u64) -> bool {
        let vttbr = self.pe(pe).vttbr.load(Relaxed);
        let stage2 = lock(&self.stage2);
        let Some(root) = stage2.root_of(vttbr) else { return true };
        let read = |ipa: u64| {
            let mut entry = [0];
            self.ram.read(stage2.translate(root, ipa)?, &mut entry);
            Some(entry[0])
        };
        stage1.translate(va, read).is_none_or(|translated| translated.cacheable)
    }

    /// Records a TLB invalidation by the host that concerns guests: those of the present VMID, or all.
    pub(crate) fn invalidate_tlb(&self, pe: usize, all_guests: bool) {
        let vttbr = self.pe(pe).vttbr.load(Relaxed);
        lock(&self.stage2).invalidate_tlb((!all_guests).then_some(vttbr));
    }

    pub(super) fn judge_changes(&self, stage2: &mut Stage2, changes: &[Change], pe: usize, place: &Place) {
        for change in changes {
            match change {
                Change::Leaf(leaf) => self.judge_leaf(stage2, leaf, pe, place),
                Change::Unmapped { leaf } => {
                    if !self.fwb() && leaf.grants.cacheable {
                        lock(&self.pe(pe).pending).unmapped.push((*leaf, place.code()));
                        self.pe(pe).has_unmapped.store(true, Relaxed);
                    }
                }
                Change::Broken { missing, entry, ipa, vmid } => {
                    let key = Key {
                        kind: Kind::Break,
                        missing: *missing,
                        owed: Owed::Host,
                        pc: place.code(),
                        writer_pc: None,
                    };
                    let example = Example {
                        pa: *entry,
                        ipa: Some(*ipa),
                        vmid: *vmid,
                        pe: pe as u64,
                        el: place.el,
                        ..Example::default()
                    };
                    lock(&self.reports).add(key, example);
                }
            }
        }
    }

    /// Returns whether the PE removed leaves since it last left the kernel.
    pub(crate) fn has_unmapped(&self, pe: usize) -> bool {
        self.pe(pe).has_unmapped.load(Relaxed)
    }

    /// Records that the host's kernel returns to a program. Memory that it took from a guest has to be clean by then.
    pub(crate) fn return_to_user(&self, pe: usize) {
        if !self.pe(pe).has_unmapped.swap(false, Relaxed) {
            return;
        }
        // The lock must not be held in the loop, which takes that of the tables.
        let unmapped = std::mem::take(&mut lock(&self.pe(pe).pending).unmapped);
        for (leaf, pc) in unmapped {
            self.judge_unmapped(pe, &leaf, pc);
        }
    }

    fn judge_unmapped(&self, pe: usize, leaf: &Leaf, pc: Code) {
        let (mut tally, stage2) = (Tally::default(), lock(&self.stage2));
        for pa in (leaf.pa..leaf.pa + leaf.size).step_by(PAGE as usize) {
            let Some(page) = self.memory.page(pa).filter(|_| !stage2.is_published(pa)) else { continue };
            for line in 0..LINES {
                let Some(writer) = page.writer(line, Version::Newest) else { continue };
                tally.lines += 1;
                if page.state(line).uncached() {
                    tally.add(Kind::Uncached, Missing::DClean, Owed::Host, pa + line as u64 * LINE, writer);
                }
            }
        }
        drop(stage2);
        self.report_faults(&tally, leaf, pe, pc, 2);
    }

    /// Adds reports on the lines of a leaf, and returns those that the host owes.
    fn report_faults(&self, tally: &Tally, leaf: &Leaf, pe: usize, pc: Code, el: u8) -> Vec<Blamed> {
        let mut blamed = Vec::new();
        for fault in &tally.faults {
            let writer_pc = self.code_of(fault.writer);
            let key = Key { kind: fault.kind, missing: fault.missing, owed: fault.owed, pc, writer_pc };
            let example = Example {
                lines: fault.lines,
                of: tally.lines,
                offset: fault.first - leaf.pa,
                size: leaf.size,
                pa: fault.first,
                ipa: Some(leaf.ipa + (fault.first - leaf.pa)),
                vmid: leaf.vmid,
                pe: pe as u64,
                el,
                writer_pe: fault.writer.pe(),
                ..Example::default()
            };
            if fault.owed == Owed::Host {
                blamed.push(Blamed { key: key.clone(), pa: leaf.pa, size: leaf.size });
            }
            lock(&self.reports).add(key, example);
        }
        blamed
    }

    /// Judges the memory that a leaf makes reachable.
    fn judge_leaf(&self, stage2: &mut Stage2, leaf: &Leaf, pe: usize, place: &Place) {
        let tables = self.tables();
        let mut tally = Tally::default();
        let mut is_new = false;
        for pa in (leaf.pa..leaf.pa + leaf.size).step_by(PAGE as usize) {
            let news = stage2.publish(leaf, pa, &tables);
            is_new |= news.read || news.execute;
            let judges_d = news.read && leaf.grants.cacheable && !self.fwb();
            let judges_i = news.execute && leaf.grants.cacheable && !self.features.dic;
            let Some(page) = self.memory.page(pa).filter(|_| judges_d || judges_i) else { continue };
            for line in 0..LINES {
                let Some(writer) = page.writer(line, Version::Host) else { continue };
                let at = pa + line as u64 * LINE;
                tally.lines += 1;
                if let Some(missing) = self.lacks_d(page, at, Version::Host).filter(|_| judges_d) {
                    tally.add(Kind::PublishedD, missing, Owed::Host, at, writer);
                }
                if let Some(missing) = self.lacks_i(page, at, Version::Host, None).filter(|_| judges_i) {
                    let in_place = !news.read && news.rewritten >> line & 1 != 0;
                    let owed = if in_place { Owed::InPlace } else { Owed::Host };
                    tally.add(Kind::PublishedI, missing, owed, at, writer);
                }
            }
        }
        if !is_new {
            return;
        }
        let mut reports = lock(&self.reports);
        let checked = &mut reports.section().checked;
        checked.published += 1;
        checked.lines += tally.lines;
        drop(reports);
        let blamed = self.report_faults(&tally, leaf, pe, place.code(), place.el);
        lock(&self.pe(pe).pending).blamed.extend(blamed);
    }
}
