// SPDX-License-Identifier: GPL-2.0-or-later
//! A machine with two guests, for the tests of the model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::entry::{Context, HCR_BSU_SHIFT, HCR_FB};
use super::features::Features;
use super::page::PAGE;
use super::report::{Kind, Missing, Owed};
use super::state::{Place, Ram, Shadow, Store, lock};

/// VTCR_EL2 as KVM sets it: granule 4 KiB, IPA of 40 bits, two tables of level 1.
pub(super) const VTCR: u64 = 0x8002_3558;
/// HCR_EL2 with VM, FB and BSU of Inner Shareable.
pub(super) const HCR: u64 = 1 | HCR_FB | 1 << HCR_BSU_SHIFT;
/// ID_AA64MMFR0_EL1 with 44-bit physical addresses and all granules.
pub(super) const MMFR0: u64 = 4 | 1 << 20;

/// Tables of the first guest, and of the second.
pub(super) const ROOTS: [u64; 2] = [0x4800_0000, 0x4900_0000];
/// Memory of the guests.
pub(super) const FRAME: u64 = 0x5000_0000;

pub(super) const READ: u64 = 1 << 54 | EXECUTE;
pub(super) const EXECUTE: u64 = 0x7fd | 2;

pub(super) const HOST: Place = Place { pc: 0xffff_8000_8000_1000, el: 2, guest: false };
pub(super) const GUEST: Place = Place { pc: 0x4000, el: 1, guest: true };

#[derive(Default)]
pub(super) struct TableRam(pub(super) Mutex<HashMap<u64, u64>>);

impl Ram for Arc<TableRam> {
    fn read(&self, pa: u64, entries: &mut [u64]) {
        let ram = lock(&self.0);
        entries.iter_mut().zip((pa..).step_by(8)).for_each(|(entry, at)| *entry = ram.get(&at).copied().unwrap_or(0));
    }
}

/// A machine with two guests, whose tables map nothing yet.
pub(super) struct Rig {
    pub(super) shadow: Shadow<Arc<TableRam>>,
    pub(super) ram: Arc<TableRam>,
    pub(super) host: u32,
    pub(super) guest: u32,
}

impl Rig {
    pub(super) fn new(idc: bool, fwb: bool) -> Self {
        Self::with(Features { idc, dic: false, fwb, imin_line: 64, dmin_line: 64, mmfr0: MMFR0 })
    }

    pub(super) fn with(features: Features) -> Self {
        let ram = Arc::<TableRam>::default();
        let shadow = Shadow::new(features, Arc::clone(&ram), 2 << 30);
        let (host, guest) = (shadow.place(HOST), shadow.place(GUEST));
        let rig = Self { shadow, ram, host, guest };
        for (n, root) in ROOTS.into_iter().enumerate() {
            rig.enter(0, n);
            rig.entry(0, root, (root + 0x10000) | 3);
            rig.entry(0, root + 0x10000, (root + 0x20000) | 3);
        }
        rig.enter(0, 0);
        rig
    }

    /// Stores an entry of a table.
    pub(super) fn entry(&self, pe: usize, pa: u64, value: u64) {
        lock(&self.ram.0).insert(pa, value);
        let store = Store { pe, place: &HOST, site: self.host, pa, size: 8, uncached: false };
        self.shadow.store(&store, || Some(value));
    }

    /// Lets a PE enter guest `n`.
    pub(super) fn enter(&self, pe: usize, n: usize) {
        self.shadow.load_stage2(pe, ((n as u64 + 1) << 48) | ROOTS[n], VTCR, &HOST);
        self.shadow.enter_guest(pe, Context { hcr: HCR, vtcr: VTCR }, &HOST);
    }

    /// Writes the entry of page `n` of the first guest.
    pub(super) fn map(&self, pe: usize, n: u64, pa: u64, attributes: u64) {
        self.map_in(0, pe, n, pa, attributes);
    }

    pub(super) fn map_in(&self, guest: usize, pe: usize, n: u64, pa: u64, attributes: u64) {
        self.entry(pe, ROOTS[guest] + 0x20000 + n * 8, pa | attributes);
    }

    pub(super) fn unmap(&self, pe: usize, n: u64) {
        self.entry(pe, ROOTS[0] + 0x20000 + n * 8, 0);
        self.shadow.invalidate_tlb(pe, false);
    }

    /// Stores a value that is no entry of a table.
    pub(super) fn store(&self, pe: usize, pa: u64, size: u64, guest: bool) {
        let (place, site) = if guest { (&GUEST, self.guest) } else { (&HOST, self.host) };
        self.shadow.store(&Store { pe, place, site, pa, size, uncached: false }, || (size == 8).then_some(0));
    }

    pub(super) fn host_store(&self, pe: usize, pa: u64) {
        self.store(pe, pa, 8, false);
    }

    pub(super) fn guest_store(&self, pe: usize, pa: u64) {
        self.store(pe, pa, 4, true);
    }

    pub(super) fn host_fill(&self, pe: usize, pa: u64) {
        (pa..pa + PAGE).step_by(8).for_each(|at| self.host_store(pe, at));
    }

    pub(super) fn clean(&self, pe: usize, pa: u64) {
        (pa..pa + PAGE).step_by(64).for_each(|at| self.shadow.clean(pe, false, at, true, true));
    }

    pub(super) fn invalidate(&self, pe: usize, pa: u64) {
        (pa..pa + PAGE).step_by(64).for_each(|at| self.shadow.invalidate(pe, false, at));
    }

    pub(super) fn dsb(&self, pe: usize) {
        self.shadow.barrier(pe, true);
    }

    /// Maintains a page as KVM does.
    pub(super) fn maintain(&self, pe: usize, pa: u64) {
        self.clean(pe, pa);
        self.dsb(pe);
        self.invalidate(pe, pa);
        self.dsb(pe);
    }

    /// Lets a PE of a guest translate and execute the word at `pa`.
    pub(super) fn fetch(&self, pe: usize, pa: u64, word: u32) {
        self.fetch_by(GUEST, pe, pa, word);
    }

    pub(super) fn fetch_by(&self, place: Place, pe: usize, pa: u64, word: u32) {
        if let Some(suspect) = self.shadow.translate(place, pa, word) {
            self.shadow.execute(pe, &suspect);
        }
    }

    /// Returns the reports: kind, missing thing, lateness, debtor, and lines of the first.
    pub(super) fn reports(&self) -> Vec<(Kind, Missing, bool, Owed, u64)> {
        let sections = self.shadow.written();
        let reports = sections.iter().flat_map(|section| &section.reports);
        reports.map(|report| (report.kind, report.missing, report.late, report.owed, report.first.lines)).collect()
    }

    pub(super) fn owed(&self) -> Vec<(Kind, Missing, u64)> {
        let owed = self.reports().into_iter().filter(|(.., owed, _)| *owed == Owed::Host);
        owed.map(|(kind, missing, _, _, lines)| (kind, missing, lines)).collect()
    }
}
