// SPDX-License-Identifier: GPL-2.0-or-later
//! Entries into guests, and the registers that a guest runs with.

use std::sync::atomic::Ordering::Relaxed;

use super::report::{Example, Key, Kind, Missing, Owed};
use super::state::{Place, Ram, Shadow, lock};

/// HCR_EL2.FWB.
pub(super) const HCR_FWB: u64 = 1 << 46;
/// HCR_EL2.FB.
pub(super) const HCR_FB: u64 = 1 << 9;
/// HCR_EL2.BSU, lowest bit.
pub(super) const HCR_BSU_SHIFT: u32 = 10;

/// Registers of a guest's context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// HCR_EL2.
    pub(crate) hcr: u64,
    /// VTCR_EL2.
    pub(crate) vtcr: u64,
}

impl<R: Ram> Shadow<R> {
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
            let key = Key { kind: Kind::Register, missing, owed: Owed::Host, pc: place.code(), writer_pc: None };
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
