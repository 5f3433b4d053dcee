// SPDX-License-Identifier: GPL-2.0-or-later
//! Shadow of the machine's caches: events in, reports out.
//!
//! The module is pure. It has no I/O and no unsafe code, and knows nothing of QEMU. `docs/sanitizer.md` has the model.

#![forbid(unsafe_code)]

mod page;
mod pe;
#[cfg(test)]
mod property;
mod report;
mod stage1;
mod stage2;
mod tables;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use page::{Clean, LINE, LINES, LineStore, Marks, Memory, PAGE, Page, Stored, Version, Writer, is_raised, raise};
use pe::{Blamed, Op, Pe, Range};
pub(crate) use report::WrittenSection;
use report::{Example, Key, Kind, Missing, Owed, Reports};
pub(crate) use stage1::Stage1;
use stage2::{Change, Leaf, Machine, Stage2};

/// The most PEs: as many as the lab's machines can have.
pub(crate) const MOST_PES: usize = 64;

/// HCR_EL2.FWB.
const HCR_FWB: u64 = 1 << 46;
/// HCR_EL2.FB.
const HCR_FB: u64 = 1 << 9;
/// HCR_EL2.BSU, lowest bit.
const HCR_BSU_SHIFT: u32 = 10;

/// Properties of the machine's caches, read from its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// Stores need no clean before fetches see them.
    pub(crate) idc: bool,
    /// Fetches need no invalidation of the I-cache.
    pub(crate) dic: bool,
    /// The machine has FEAT_S2FWB.
    pub(crate) fwb: bool,
    /// Smallest line of the I-caches in bytes.
    pub(crate) imin_line: u64,
    /// Smallest line of the D-caches in bytes.
    pub(crate) dmin_line: u64,
    /// ID_AA64MMFR0_EL1.
    pub(crate) mmfr0: u64,
}

impl Features {
    /// Decodes the registers.
    pub(crate) fn of(ctr: u64, clidr: u64, mmfr0: u64, mmfr2: u64) -> Self {
        // Arm ARM, "CLIDR_EL1": LoUU at 29:27, LoC at 26:24, LoUIS at 23:21.
        let level = |shift: u32| clidr >> shift & 7;
        let no_clean = level(24) == 0 || (level(27) == 0 && level(21) == 0);
        Self {
            idc: ctr >> 28 & 1 != 0 || no_clean,
            dic: ctr >> 29 & 1 != 0,
            fwb: mmfr2 >> 40 & 0xf != 0,
            imin_line: 4 << (ctr & 0xf),
            dmin_line: 4 << (ctr >> 16 & 0xf),
            mmfr0,
        }
    }
}

/// Place in the code that accesses memory, and its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Address.
    pub(crate) pc: u64,
    /// Exception level.
    pub(crate) el: u8,
    /// True in a guest's context: HCR_EL2.VM is set, TGE is clear, and the VMID is not 0.
    pub(crate) guest: bool,
}

/// Physical memory, to read tables that existed before their root was known.
pub(crate) trait Ram: Sync {
    /// Reads doublewords from `pa` on.
    fn read(&self, pa: u64, entries: &mut [u64]);
}

/// A fetch of a word that is not coherent for all PEs, at a translated instruction.
#[derive(Debug)]
pub(crate) struct Suspect {
    place: Place,
    pa: u64,
    word: u32,
    old_word: Option<u32>,
}

/// A store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store<'a> {
    /// PE.
    pub(crate) pe: usize,
    /// Place in the code.
    pub(crate) place: &'a Place,
    /// Index of the place.
    pub(crate) site: u32,
    /// Physical address.
    pub(crate) pa: u64,
    /// Size in bytes.
    pub(crate) size: u64,
    /// True if it goes around the caches.
    pub(crate) uncached: bool,
}

/// Registers of a guest's context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// HCR_EL2.
    pub(crate) hcr: u64,
    /// VTCR_EL2.
    pub(crate) vtcr: u64,
}

/// Shadow of the machine.
pub(crate) struct Shadow<R> {
    features: Features,
    ram: R,
    memory: Memory,
    clock: AtomicU32,
    marks: Marks,
    pes: Vec<Pe>,
    stage2: Mutex<Stage2>,
    reports: Mutex<Reports>,
    places: RwLock<Vec<Place>>,
    /// HCR_EL2.FWB of the guests, or what the machine has if no guest has run yet.
    fwb: std::sync::atomic::AtomicBool,
    unseen: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic aborts the process, and the data is valid between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Access of the stage-2 tables to the machine.
struct Tables<'a, R> {
    memory: &'a Memory,
    ram: &'a R,
}

impl<R: Ram> Machine for Tables<'_, R> {
    fn watch(&self, pa: u64, bytes: u64, is_watched: bool) {
        for page in (pa..pa + bytes).step_by(PAGE as usize) {
            if let Some((page, _)) = self.memory.touch(page) {
                page.is_table.store(is_watched, Relaxed);
            }
        }
    }

    fn read(&self, pa: u64, entries: &mut [u64]) {
        self.ram.read(pa, entries);
    }

    fn publish(&self, pa: u64, is_published: bool) {
        if let Some(page) = self.memory.page(pa) {
            if is_published {
                page.forget_in_place();
                raise(&page.is_published);
            } else {
                page.is_published.store(false, Relaxed);
            }
        }
    }
}

impl<R: Ram> Shadow<R> {
    /// Returns the shadow of a machine on which nothing has happened yet. Its RAM ends below the physical address `end`.
    pub(crate) fn new(features: Features, ram: R, end: u64) -> Self {
        let mut stage2 = Stage2::default();
        stage2.set_fwb(features.fwb);
        Self {
            features,
            ram,
            memory: Memory::new(end),
            clock: AtomicU32::new(1),
            marks: Marks { all: [AtomicU32::new(0), AtomicU32::new(0)] },
            pes: (0..MOST_PES).map(|_| Pe::default()).collect(),
            stage2: Mutex::new(stage2),
            reports: Mutex::default(),
            places: RwLock::new(vec![Place { pc: 0, el: 0, guest: false }]),
            fwb: features.fwb.into(),
            unseen: AtomicU64::new(0),
        }
    }

    /// Returns the machine's features.
    pub(crate) fn features(&self) -> &Features {
        &self.features
    }

    /// Returns the index of a place that stores, from 1.
    pub(crate) fn place(&self, place: Place) -> u32 {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        places.push(place);
        (places.len() - 1) as u32
    }

    fn pc_of(&self, writer: Writer) -> u64 {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.get(writer.site() as usize).map_or(0, |place| place.pc)
    }

    fn tick(&self) -> u32 {
        self.clock.fetch_add(1, Relaxed) + 1
    }

    fn pe(&self, pe: usize) -> &Pe {
        &self.pes[pe % MOST_PES]
    }

    fn tables(&self) -> Tables<'_, R> {
        Tables { memory: &self.memory, ram: &self.ram }
    }

    fn fwb(&self) -> bool {
        self.fwb.load(Relaxed)
    }

    /// Begins a case of the run; 0 is everything outside of cases.
    pub(crate) fn begin_case(&self, case: u64) {
        let mut reports = lock(&self.reports);
        reports.section().checked.unseen_stores += self.unseen.swap(0, Relaxed);
        reports.begin(case);
    }

    /// Returns everything so far, by case.
    pub(crate) fn written(&self) -> Vec<WrittenSection> {
        let mut reports = lock(&self.reports);
        reports.section().checked.unseen_stores += self.unseen.swap(0, Relaxed);
        reports.written()
    }

    /// Returns the number of pages with a shadow, and the sizes in bytes of the shadows and of the fetched words.
    pub(crate) fn size(&self) -> (u64, u64, u64) {
        let (shadows, fetched) = self.memory.bytes();
        (self.memory.pages(), shadows, fetched)
    }

    /// Records a store that QEMU does not show.
    pub(crate) fn unseen_store(&self) {
        self.unseen.fetch_add(1, Relaxed);
    }

    /// Records a store. `value` returns the value if it has eight bytes, and is asked only where it matters.
    #[inline]
    pub(crate) fn store(&self, store: &Store<'_>, value: impl FnOnce() -> Option<u64>) {
        let Store { pe, site, place, pa, size, .. } = *store;
        let page = match self.memory.page(pa) {
            Some(page) => page,
            None => match self.new_page(pa) {
                Some(page) => page,
                None => return,
            },
        };
        let uncached = store.uncached && !self.fwb();
        let now = self.clock.load(Relaxed);
        let writer = Writer::new(site, pe);
        let (first, last) = (pa % PAGE, (pa % PAGE + size - 1).min(PAGE - 1));
        let mut in_place = 0u64;
        for line in (first / LINE)..=(last / LINE) {
            let from = first.max(line * LINE) % LINE / 4;
            let to = last.min(line * LINE + LINE - 1) % LINE / 4;
            let words = ((2u32 << to) - 1) & !((1 << from) - 1);
            let store = LineStore { line: line as usize, words, now, writer, guest: place.guest, uncached };
            if page.store(&store, &self.marks, self.features.idc, self.features.dic) == Stored::InPlace {
                in_place |= 1 << line;
            }
        }
        if in_place != 0 {
            lock(&self.stage2).rewrite(pa, in_place);
        }
        if is_raised(&page.is_table) {
            self.store_to_table(pe, place, pa, value());
        }
    }

    #[cold]
    fn new_page(&self, pa: u64) -> Option<&Page> {
        // The lock keeps a publication from coming between the look and the flag.
        let stage2 = lock(&self.stage2);
        let (page, is_new) = self.memory.touch(pa)?;
        if is_new && stage2.is_published(pa) {
            raise(&page.is_published);
        }
        Some(page)
    }

    #[cold]
    fn store_to_table(&self, pe: usize, place: &Place, pa: u64, value: Option<u64>) {
        let mut stage2 = lock(&self.stage2);
        match value.filter(|_| !place.guest && pa.is_multiple_of(8)) {
            Some(value) => {
                let changes = stage2.store(pa, value, &self.tables());
                self.judge_changes(&mut stage2, &changes, pe, place);
            }
            None => stage2.spoil(pa, &self.tables()),
        }
    }

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
            let late = serves(blamed, blamed.key.missing);
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

    /// Returns whether `pe`, or every PE if it is none, may fetch a version of a line.
    #[inline]
    fn is_fetchable(&self, page: &Page, line: usize, version: Version, pe: Option<usize>) -> bool {
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
    fn lacks_i(&self, page: &Page, pa: u64, version: Version, pe: Option<usize>) -> Option<Missing> {
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
    fn lacks_d(&self, page: &Page, pa: u64, version: Version) -> Option<Missing> {
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
        stage1.is_cacheable(va, read).unwrap_or(true)
    }

    /// Records a TLB invalidation by the host that concerns guests: those of the present VMID, or all.
    pub(crate) fn invalidate_tlb(&self, pe: usize, all_guests: bool) {
        let vttbr = self.pe(pe).vttbr.load(Relaxed);
        lock(&self.stage2).invalidate_tlb((!all_guests).then_some(vttbr));
    }

    fn judge_changes(&self, stage2: &mut Stage2, changes: &[Change], pe: usize, place: &Place) {
        for change in changes {
            match change {
                Change::Leaf(leaf) => self.judge_leaf(stage2, leaf, pe, place),
                Change::Unmapped { leaf } => {
                    if !self.fwb() && leaf.grants.cacheable {
                        lock(&self.pe(pe).pending).unmapped.push((*leaf, place.pc));
                        self.pe(pe).has_unmapped.store(true, Relaxed);
                    }
                }
                Change::Broken { missing, entry, ipa, vmid } => {
                    let key =
                        Key { kind: Kind::Break, missing: *missing, owed: Owed::Host, pc: place.pc, writer_pc: 0 };
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

    fn judge_unmapped(&self, pe: usize, leaf: &Leaf, pc: u64) {
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
    fn report_faults(&self, tally: &Tally, leaf: &Leaf, pe: usize, pc: u64, el: u8) -> Vec<Blamed> {
        let mut blamed = Vec::new();
        for fault in &tally.faults {
            let writer_pc = self.pc_of(fault.writer);
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
        let blamed = self.report_faults(&tally, leaf, pe, place.pc, place.el);
        lock(&self.pe(pe).pending).blamed.extend(blamed);
    }

    /// Returns who owes the maintenance of a line that a guest reaches and whose newest store is not `fulfilled`.
    fn owed(&self, page: &Page, pa: u64, host_lacks: bool, vttbr: u64) -> Owed {
        let line = (pa % PAGE / LINE) as usize;
        if page.writer(line, Version::Host).is_none() || !host_lacks {
            return Owed::Guest;
        }
        let stage2 = lock(&self.stage2);
        let root = stage2.root_of(vttbr);
        match root.and_then(|root| stage2.rewritten(root, pa)) {
            Some((rewritten, _)) if rewritten >> line & 1 != 0 => Owed::InPlace,
            _ => Owed::Host,
        }
    }

    /// Records that an instruction was translated. Returns a suspect if the word is not coherent for all PEs, to be
    /// judged when a PE executes it.
    pub(crate) fn translate(&self, place: Place, pa: u64, word: u32) -> Option<Suspect> {
        let page = match self.memory.page(pa) {
            Some(page) => page,
            None => self.new_page(pa)?,
        };
        let (line, index) = ((pa % PAGE / LINE) as usize, (pa % PAGE / 4) as usize);
        let is_written = page.state(line).written(index % (LINE / 4) as usize);
        if is_written && !self.is_fetchable(page, line, Version::Newest, None) {
            return Some(Suspect { place, pa, word, old_word: page.fetched(index) });
        }
        page.set_fetched(index, word);
        None
    }

    /// Judges a suspect that a PE executes. Returns true if it need not be judged again.
    pub(crate) fn execute(&self, pe: usize, suspect: &Suspect) -> bool {
        let Suspect { place, pa, word, old_word } = *suspect;
        let Some(page) = self.memory.page(pa) else { return true };
        let line = (pa % PAGE / LINE) as usize;
        if !page.state(line).written((pa % LINE / 4) as usize) {
            return true;
        }
        let mut reports = lock(&self.reports);
        reports.section().checked.fetches += 1;
        drop(reports);
        let Some(missing) = self.lacks_i(page, pa, Version::Newest, Some(pe)) else { return false };
        let may_differ = |word: Option<u32>| word.is_none_or(is_modifiable);
        if !place.guest && is_modifiable(word) && may_differ(old_word) {
            return true;
        }
        let vttbr = if place.guest { self.pe(pe).vttbr.load(Relaxed) } else { 0 };
        let owed = if place.guest {
            let host_lacks = self.lacks_i(page, pa, Version::Host, Some(pe)).is_some();
            self.owed(page, pa, host_lacks, vttbr)
        } else if (old_word.unwrap_or(NOP), word) == (NOP, MOV_X9_X30) {
            Owed::TextPatching
        } else {
            Owed::Host
        };
        let version = if place.guest && owed != Owed::Guest { Version::Host } else { Version::Newest };
        let writer = page.writer(line, version);
        self.report_access(pe, place, pa, Kind::Fetch, missing, owed, writer, vttbr, Some((word, old_word)));
        true
    }

    /// Records a load by a guest. `is_cached` tells whether it may hit in a cache, and is asked only where it matters.
    pub(crate) fn load(&self, pe: usize, place: &Place, pa: u64, is_cached: impl FnOnce() -> bool) {
        let Some(page) = self.memory.page(pa) else { return };
        let line = (pa % PAGE / LINE) as usize;
        let state = page.state(line);
        if self.fwb() || !state.written((pa % LINE / 4) as usize) {
            return;
        }
        if state.poc(Version::Newest) || is_cached() {
            return;
        }
        let Some(missing) = self.lacks_d(page, pa, Version::Newest) else { return };
        let vttbr = self.pe(pe).vttbr.load(Relaxed);
        let owed = self.owed(page, pa, self.lacks_d(page, pa, Version::Host).is_some(), vttbr);
        let writer = page.writer(line, Version::Newest);
        self.report_access(pe, *place, pa, Kind::Load, missing, owed, writer, vttbr, None);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one report")]
    fn report_access(
        &self,
        pe: usize,
        place: Place,
        pa: u64,
        kind: Kind,
        missing: Missing,
        owed: Owed,
        writer: Option<Writer>,
        vttbr: u64,
        words: Option<(u32, Option<u32>)>,
    ) {
        let stage2 = lock(&self.stage2);
        let ipa = stage2.root_of(vttbr).and_then(|root| stage2.rewritten(root, pa)).map(|(_, ipa)| ipa + pa % PAGE);
        drop(stage2);
        let writer_pc = writer.map_or(0, |writer| self.pc_of(writer));
        let example = Example {
            lines: 1,
            of: 1,
            pa,
            ipa,
            vmid: (vttbr >> 48) as u16,
            pe: pe as u64,
            el: place.el,
            writer_pe: writer.map_or(0, Writer::pe),
            word: words.map(|(word, _)| word),
            old_word: words.and_then(|(_, old)| old),
            ..Example::default()
        };
        lock(&self.reports).add(Key { kind, missing, owed, pc: place.pc, writer_pc }, example);
    }

    /// Records an entry into a guest, and judges the registers of its context.
    pub(crate) fn enter_guest(&self, pe: usize, context: Context, place: &Place) {
        self.return_to_user(pe);
        lock(&self.pe(pe).pending).blamed.clear();
        self.pe(pe).recent.iter().for_each(|time| time.store(0, Relaxed));
        let fwb = self.features.fwb && context.hcr & HCR_FWB != 0;
        if self.fwb.swap(fwb, Relaxed) != fwb {
            lock(&self.stage2).set_fwb(fwb);
        }
        let mut reports = lock(&self.reports);
        reports.section().checked.entries += 1;
        for missing in self.wrong_registers(context) {
            let key = Key { kind: Kind::Register, missing, owed: Owed::Host, pc: place.pc, writer_pc: 0 };
            let vmid = (self.pe(pe).vttbr.load(Relaxed) >> 48) as u16;
            reports.add(key, Example { vmid, pe: pe as u64, el: place.el, ..Example::default() });
        }
    }

    fn wrong_registers(&self, context: Context) -> impl Iterator<Item = Missing> {
        let Context { hcr, vtcr } = context;
        let field = |value: u64, shift: u32, bits: u32| value >> shift & ((1 << bits) - 1);
        let write_back = |field: u64| matches!(field, 1 | 3);
        // Arm ARM, "ID_AA64MMFR0_EL1": TGran4_2, TGran64_2 and TGran16_2 tell the granules of stage 2. 0 means that it
        // is as for stage 1, and 1 that there is none.
        let mmfr0 = self.features.mmfr0;
        let (second, first, none) = match field(vtcr, 14, 2) {
            0 => (field(mmfr0, 40, 4), field(mmfr0, 28, 4), 0xf),
            1 => (field(mmfr0, 36, 4), field(mmfr0, 24, 4), 0xf),
            _ => (field(mmfr0, 32, 4), field(mmfr0, 20, 4), 0),
        };
        let has_granule = if second == 0 { first != none } else { second != 1 };
        [
            (hcr & HCR_FB == 0, Missing::HcrFb),
            (field(hcr, HCR_BSU_SHIFT, 2) == 0, Missing::HcrBsu),
            (field(vtcr, 12, 2) != 3, Missing::VtcrShareability),
            (!write_back(field(vtcr, 8, 2)) || !write_back(field(vtcr, 10, 2)), Missing::VtcrCacheability),
            (field(vtcr, 16, 3) > field(mmfr0, 0, 4), Missing::VtcrSize),
            (!has_granule, Missing::VtcrGranule),
        ]
        .into_iter()
        .filter_map(|(is_wrong, missing)| is_wrong.then_some(missing))
    }
}

/// NOP.
const NOP: u32 = 0xd503_201f;
/// `MOV X9, X30`, the first instruction of a traced function.
const MOV_X9_X30: u32 = 0xaa1e_03e9;

/// Returns whether a word may be replaced by another such word while a PE executes it (Arm ARM, B2.3 "Concurrent
/// modification and execution of instructions"): B, BL, BRK, HVC, ISB, NOP, SMC and SVC.
fn is_modifiable(word: u32) -> bool {
    let is_branch = word >> 26 == 0b000101 || word >> 26 == 0b100101;
    let is_call = word & 0xffe0_001c == 0xd400_0000 && word & 3 != 0;
    let is_breakpoint = word & 0xffe0_001f == 0xd420_0000;
    is_branch || is_call || is_breakpoint || word == NOP || word & 0xffff_f0ff == 0xd503_30df
}

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
