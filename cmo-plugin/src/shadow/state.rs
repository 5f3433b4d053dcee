// SPDX-License-Identifier: GPL-2.0-or-later
//! State of the shadow, and the stores that begin everything else.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::features::Features;
use super::page::{LINE, LineStore, Marks, Memory, PAGE, Page, Stored, Writer, is_raised, raise};
use super::pe::Pe;
use super::report::{Code, Reports, WrittenMachine, WrittenSection};
use super::stage2::{Machine, Stage2};

/// The most PEs: as many as the lab's machines can have.
pub(crate) const MOST_PES: usize = 64;

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

impl Place {
    /// Returns the address.
    pub(super) fn code(&self) -> Code {
        Code { pc: self.pc, guest: self.guest }
    }
}

/// Physical memory, to read tables that existed before their root was known.
pub(crate) trait Ram: Sync {
    /// Reads doublewords from `pa` on.
    fn read(&self, pa: u64, entries: &mut [u64]);
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

/// Shadow of the machine.
pub(crate) struct Shadow<R> {
    pub(super) features: Features,
    pub(super) ram: R,
    pub(super) memory: Memory,
    pub(super) clock: AtomicU32,
    pub(super) marks: Marks,
    pub(super) pes: Vec<Pe>,
    pub(super) stage2: Mutex<Stage2>,
    pub(super) reports: Mutex<Reports>,
    pub(super) places: RwLock<Vec<Place>>,
    /// HCR_EL2.FWB of the guests, or what the machine has if no guest has run yet.
    pub(super) fwb: AtomicBool,
    pub(super) unseen: AtomicU64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic aborts the process, and the data is valid between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Access of the stage-2 tables to the machine.
pub(super) struct Tables<'a, R> {
    pub(super) memory: &'a Memory,
    pub(super) ram: &'a R,
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

    /// Returns the address of the code of a writer.
    pub(super) fn code_of(&self, writer: Writer) -> Option<Code> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.get(writer.site() as usize).map(Place::code)
    }

    pub(super) fn tick(&self) -> u32 {
        self.clock.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn pe(&self, pe: usize) -> &Pe {
        &self.pes[pe % MOST_PES]
    }

    pub(super) fn tables(&self) -> Tables<'_, R> {
        Tables { memory: &self.memory, ram: &self.ram }
    }

    pub(super) fn fwb(&self) -> bool {
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

    /// Returns the features of the machine and the size of the shadow.
    pub(crate) fn written_machine(&self) -> WrittenMachine {
        let (pages, shadow_bytes, fetched_bytes) = self.size();
        let Features { idc, dic, fwb, imin_line, dmin_line, .. } = self.features;
        WrittenMachine { idc, dic, fwb, imin_line, dmin_line, pages, shadow_bytes, fetched_bytes }
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
        let template = LineStore { line: 0, words: 0, now, writer, guest: place.guest, uncached };
        if first / LINE != last / LINE {
            self.store_lines(page, pa, first, last, template);
        } else if self.store_line(page, first, last, template) {
            lock(&self.stage2).rewrite(pa, 1 << (first / LINE));
        }
        if is_raised(&page.is_table) {
            self.store_to_table(pe, place, pa, value());
        }
    }

    /// Records a store to the bytes from offset `first` to `last` of a page, which lie in one line. Returns whether the
    /// host changed a published page in place.
    #[inline(always)]
    fn store_line(&self, page: &Page, first: u64, last: u64, template: LineStore) -> bool {
        let (from, to) = (first % LINE / 4, last % LINE / 4);
        let words = ((2u32 << to) - 1) & !((1 << from) - 1);
        let store = LineStore { line: (first / LINE) as usize, words, ..template };
        page.store(&store, &self.marks, self.features.idc, self.features.dic) == Stored::InPlace
    }

    /// Records a store to more than one line of a page.
    #[inline(never)]
    fn store_lines(&self, page: &Page, pa: u64, first: u64, last: u64, template: LineStore) {
        let mut in_place = 0u64;
        for line in (first / LINE)..=(last / LINE) {
            let (from, to) = (first.max(line * LINE), last.min(line * LINE + LINE - 1));
            in_place |= u64::from(self.store_line(page, from, to, template)) << line;
        }
        if in_place != 0 {
            lock(&self.stage2).rewrite(pa, in_place);
        }
    }

    #[cold]
    pub(super) fn new_page(&self, pa: u64) -> Option<&Page> {
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
}
