// SPDX-License-Identifier: GPL-2.0-or-later
//! Address and memory type of an access in the EL1&0 translation regime, from its stage-1 tables.
//!
//! Arm ARM (DDI 0487), D8.2 "Translation process", "TCR_EL1" and "MAIR_EL1".

/// Translation of an address by stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translated {
    /// Intermediate physical address.
    pub(crate) ipa: u64,
    /// The access uses the caches.
    pub(crate) cacheable: bool,
}

/// Registers of the EL1&0 translation regime.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stage1 {
    /// TCR_EL1.
    pub(crate) tcr: u64,
    /// TTBR0_EL1 and TTBR1_EL1.
    pub(crate) ttbr: [u64; 2],
    /// MAIR_EL1.
    pub(crate) mair: u64,
}

impl Stage1 {
    /// Translates `va`; none if the tables do not translate it. `read` returns the descriptor at an intermediate
    /// physical address.
    pub(crate) fn translate(&self, va: u64, read: impl Fn(u64) -> Option<u64>) -> Option<Translated> {
        let upper = va >> 55 & 1 != 0;
        let (size, granule) = if upper {
            (self.tcr >> 16 & 0x3f, [None, Some(14), Some(12), Some(16)][(self.tcr >> 30 & 3) as usize]?)
        } else {
            (self.tcr & 0x3f, [Some(12), Some(16), Some(14), None][(self.tcr >> 14 & 3) as usize]?)
        };
        let bits = 64u32.checked_sub(size as u32)?;
        let index_bits = granule - 3;
        // A table of level 3 resolves the bits above the granule, and each level before it as many more.
        let levels = bits.checked_sub(granule)?.div_ceil(index_bits);
        let mut table = self.ttbr[usize::from(upper)] & 0x0000_ffff_ffff_fffe;
        for left in (0..levels).rev() {
            let shift = granule + left * index_bits;
            let width = (bits - shift).min(index_bits);
            let index = va >> shift & ((1 << width) - 1);
            let descriptor = read(table + index * 8)?;
            match (descriptor & 3, left) {
                (3, 0) | (1, 1..) => {
                    let attributes = self.mair >> (8 * (descriptor >> 2 & 7)) & 0xff;
                    let cacheable = [attributes >> 4, attributes & 0xf].iter().all(|side| !matches!(side, 0 | 4));
                    let inside = (1 << shift) - 1;
                    let ipa = descriptor & 0x0000_ffff_ffff_ffff & !inside | va & inside;
                    return Some(Translated { ipa, cacheable });
                }
                (3, _) => table = descriptor & 0x0000_ffff_ffff_ffff & !((1 << granule) - 1),
                _ => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// TCR_EL1: T0SZ 25 (39 bits), granule 4 KiB. MAIR_EL1: 0 Device, 1 Write-Back, 2 Non-cacheable.
    const REGISTERS: Stage1 = Stage1 { tcr: 25 | 25 << 16 | 2 << 30, ttbr: [0x1000, 0x8000], mair: 0x44_ff00 };

    #[test]
    fn the_attributes_of_blocks_and_pages_are_found() {
        let tables = HashMap::from([
            (0x1000, 0x2000 | 3),               // level 1
            (0x1008, 0x4000_0000 | 1 << 2 | 1), // a block of 1 GiB, Write-Back
            (0x2000, 0x3000 | 3),               // level 2
            (0x2008, 0x20_0000 | 1),            // a block of 2 MiB, Device
            (0x3000, 0x5000 | 2 << 2 | 3),      // level 3, Non-cacheable
            (0x8000, 1 << 2 | 1),
        ]);
        let read = |ipa: u64| Some(tables.get(&ipa).copied().unwrap_or(0));
        let translated = |ipa, cacheable| Some(Translated { ipa, cacheable });
        assert_eq!(REGISTERS.translate(0x4000_1234, read), translated(0x4000_1234, true));
        assert_eq!(REGISTERS.translate(0x20_0010, read), translated(0x20_0010, false));
        assert_eq!(REGISTERS.translate(0x10, read), translated(0x5010, false));
        assert_eq!(REGISTERS.translate(0x1000, read), None, "not mapped");
        assert_eq!(REGISTERS.translate(0xffff_ff80_0000_0008, read), translated(8, true));
    }
}
