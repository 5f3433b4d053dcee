// SPDX-License-Identifier: GPL-2.0-or-later
//! Properties of the machine, as its registers tell them.

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
