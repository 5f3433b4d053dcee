// SPDX-License-Identifier: GPL-2.0-or-later
//! Format of stage-2 tables: the geometry that VTCR_EL2 selects, and descriptors.
//!
//! Arm ARM (DDI 0487), D8.2 "Translation process" and D8.3 "Translation table descriptor formats".

/// Geometry of the stage-2 tables of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Shift of the granule: 12, 14 or 16.
    pub(crate) granule_shift: u32,
    /// Level of the tables that VTTBR_EL2 points to, from -1.
    pub(crate) start_level: i8,
    /// Number of those tables, one after another.
    pub(crate) tables: u64,
    /// True if output addresses have 52 bits (VTCR_EL2.DS, or a granule of 64 KiB).
    wide: Wide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wide {
    /// Output addresses of 48 bits.
    No,
    /// Bits 51:50 in bits 9:8 of a descriptor, and bits 49:48 in place.
    Ds,
    /// Bits 51:48 in bits 15:12 of a descriptor.
    Granule64K,
}

/// Kind of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descriptor {
    /// Bit 0 is clear.
    Invalid,
    /// Points to a table of the next level at this physical address.
    Table(u64),
    /// Maps memory at this physical address.
    Leaf {
        /// Output address.
        pa: u64,
        /// Size in bytes.
        size: u64,
        /// Permissions and type.
        grants: Grants,
    },
}

/// Access that a leaf grants to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    /// Loads.
    pub(crate) read: bool,
    /// Fetches, at EL1 or EL0.
    pub(crate) execute: bool,
    /// The memory is Normal and Write-Back.
    pub(crate) cacheable: bool,
}

impl Geometry {
    /// Decodes VTCR_EL2. Returns none for reserved values.
    pub(crate) fn of(vtcr: u64) -> Option<Self> {
        let (t0sz, sl0, ds) = (vtcr & 0x3f, vtcr >> 6 & 3, vtcr >> 32 & 1 != 0);
        let sl2 = vtcr >> 33 & 1 != 0;
        let granule_shift = match vtcr >> 14 & 3 {
            0 => 12,
            1 => 16,
            2 => 14,
            _ => return None,
        };
        let start_level = match (granule_shift, sl0) {
            (12, 0) if ds && sl2 => -1,
            (12, 3) => 3,
            (12, sl0) => 2 - sl0 as i8,
            (_, sl0) => 3 - sl0 as i8,
        };
        let wide = match (granule_shift, ds) {
            (16, _) => Wide::Granule64K,
            (_, true) => Wide::Ds,
            _ => Wide::No,
        };
        let geometry = Self { granule_shift, start_level, tables: 1, wide };
        let resolved = geometry.shift(start_level) + geometry.index_bits();
        let bits = 64 - t0sz as u32;
        let concatenated = bits.saturating_sub(resolved);
        (concatenated <= 4).then_some(Self { tables: 1 << concatenated, ..geometry })
    }

    /// Returns the number of bits that one level resolves.
    fn index_bits(&self) -> u32 {
        self.granule_shift - 3
    }

    /// Returns the number of entries of a table.
    pub(crate) fn entries(&self) -> usize {
        1 << self.index_bits()
    }

    /// Returns the shift of the size that one entry of a level maps.
    pub(crate) fn shift(&self, level: i8) -> u32 {
        self.granule_shift + self.index_bits() * (3 - i32::from(level)).max(0) as u32
    }

    /// Returns the size of a table in bytes.
    pub(crate) fn table_bytes(&self) -> u64 {
        1 << self.granule_shift
    }

    /// Decodes the descriptor `value` of a table of `level`.
    pub(crate) fn decode(&self, value: u64, level: i8, fwb: bool) -> Descriptor {
        let is_table_or_page = value & 2 != 0;
        match (value & 1 != 0, is_table_or_page, level) {
            (false, ..) | (true, false, 3) => Descriptor::Invalid,
            (true, true, ..3) => Descriptor::Table(self.address(value, self.granule_shift)),
            _ => {
                let shift = self.shift(level);
                Descriptor::Leaf { pa: self.address(value, shift), size: 1 << shift, grants: Grants::of(value, fwb) }
            }
        }
    }

    /// Returns the output address of a descriptor, aligned to `1 << shift`.
    fn address(&self, value: u64, shift: u32) -> u64 {
        let bits = |high: u32, low: u32| value & ((1 << (high + 1)) - (1 << low));
        let address = match self.wide {
            Wide::No => bits(47, 12),
            Wide::Ds => bits(49, 12) | bits(9, 8) << 42,
            Wide::Granule64K => bits(47, 16) | bits(15, 12) << 36,
        };
        address >> shift << shift
    }
}

impl Grants {
    /// Decodes the attributes of a leaf.
    fn of(value: u64, fwb: bool) -> Self {
        // XN[1:0] = 0b10 forbids fetches at EL1 and EL0; without FEAT_XNX, bit 53 is zero.
        let execute = value >> 53 & 3 != 2;
        let attributes = value >> 2 & 0xf;
        let cacheable = if fwb { attributes & 7 == 6 || attributes & 7 == 7 } else { attributes == 0xf };
        Self { read: value >> 6 & 1 != 0, execute, cacheable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VTCR_EL2 as KVM sets it on the emulated neoverse-n1: granule 4 KiB, IPA of 40 bits, start level 1.
    const VTCR: u64 = 0x8002_3558;

    #[test]
    fn a_table_of_forty_bits_is_two_tables_of_level_one() {
        let geometry = Geometry::of(VTCR).expect("valid");
        assert_eq!((geometry.granule_shift, geometry.start_level, geometry.tables), (12, 1, 2));
        assert_eq!((geometry.entries(), geometry.shift(1), geometry.shift(3)), (512, 30, 12));
    }

    #[test]
    fn larger_granules_start_where_their_tables_say() {
        // 64 KiB (TG0 1), SL0 1 (level 2), T0SZ 24 (40 bits): one table of level 2 resolves 42 bits.
        let geometry = Geometry::of(1 << 14 | 1 << 6 | 24).expect("valid");
        assert_eq!((geometry.start_level, geometry.tables, geometry.shift(2)), (2, 1, 29));
        // 16 KiB (TG0 2), SL0 1 (level 2), T0SZ 24: a table of level 2 resolves 36 bits, so there are 16.
        let geometry = Geometry::of(2 << 14 | 1 << 6 | 24).expect("valid");
        assert_eq!((geometry.start_level, geometry.tables), (2, 16));
        assert_eq!(Geometry::of(3 << 14), None);
    }

    #[test]
    fn descriptors_are_decoded() {
        let geometry = Geometry::of(VTCR).expect("valid");
        assert_eq!(geometry.decode(0x4000_0003, 2, false), Descriptor::Table(0x4000_0000));
        let leaf = geometry.decode(1 << 54 | 0x4020_07fd, 2, false);
        let grants = Grants { read: true, execute: false, cacheable: true };
        assert_eq!(leaf, Descriptor::Leaf { pa: 0x4020_0000, size: 2 << 20, grants });
        assert_eq!(geometry.decode(0x4000_0001, 3, false), Descriptor::Invalid);
        assert_eq!(geometry.decode(1 << 10, 3, false), Descriptor::Invalid);
        let Descriptor::Leaf { grants, .. } = geometry.decode(0x4000_07c7, 3, false) else { panic!("a page") };
        assert!(grants.execute && !grants.cacheable, "Device memory");
    }
}
