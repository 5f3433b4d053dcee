//! CTR_EL0, the Cache Type Register.

/// Value of CTR_EL0. Arm ARM (DDI 0487) "CTR_EL0, Cache Type Register".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctr(pub u64);

/// Indexing and tagging of the level 1 I-cache, CTR_EL0.L1Ip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L1Ip {
    /// Physically indexed, physically tagged, VMID-aware. The architecture no longer has it.
    Vpipt,
    /// Reserved. Armv7 used it for AIVIVT.
    Reserved,
    /// Virtually indexed, physically tagged. Such a cache is aliasing, so KVM always invalidates all of it.
    Vipt,
    /// Physically indexed, physically tagged.
    Pipt,
}

impl L1Ip {
    /// Returns the name that the Arm ARM uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vpipt => "VPIPT",
            Self::Reserved => "reserved",
            Self::Vipt => "VIPT",
            Self::Pipt => "PIPT",
        }
    }
}

// Fields that this module reads and writes.
const LINE_MASK: u64 = 0xf;
const IMIN_LINE_SHIFT: u32 = 0;
const DMIN_LINE_SHIFT: u32 = 16;
const IDC: u64 = 1 << 28;
const DIC: u64 = 1 << 29;

impl Ctr {
    /// Returns the size of the smallest I-cache line in bytes (IminLine).
    pub const fn imin_line_bytes(self) -> u64 {
        4 << ((self.0 >> IMIN_LINE_SHIFT) & LINE_MASK)
    }

    /// Returns the size of the smallest D-cache line in bytes (DminLine).
    pub const fn dmin_line_bytes(self) -> u64 {
        4 << ((self.0 >> DMIN_LINE_SHIFT) & LINE_MASK)
    }

    /// Returns the indexing of the level 1 I-cache.
    pub const fn l1ip(self) -> L1Ip {
        match (self.0 >> 14) & 0b11 {
            0b00 => L1Ip::Vpipt,
            0b01 => L1Ip::Reserved,
            0b10 => L1Ip::Vipt,
            _ => L1Ip::Pipt,
        }
    }

    /// Returns whether instruction fetches see stores without a clean of the D-cache (IDC).
    pub const fn idc(self) -> bool {
        self.0 & IDC != 0
    }

    /// Returns whether instruction fetches see stores without an invalidation of the I-cache (DIC).
    pub const fn dic(self) -> bool {
        self.0 & DIC != 0
    }

    /// Returns the value with a smallest I-cache line of `bytes`, which is 4 times a power of two.
    pub const fn with_imin_line_bytes(self, bytes: u64) -> Self {
        self.with_line(IMIN_LINE_SHIFT, bytes)
    }

    /// Returns the value with a smallest D-cache line of `bytes`, which is 4 times a power of two.
    pub const fn with_dmin_line_bytes(self, bytes: u64) -> Self {
        self.with_line(DMIN_LINE_SHIFT, bytes)
    }

    const fn with_line(self, shift: u32, bytes: u64) -> Self {
        let log2_words = ((bytes / 4).trailing_zeros() as u64) & LINE_MASK;
        Self(self.0 & !(LINE_MASK << shift) | log2_words << shift)
    }

    /// Returns the value with IDC set or cleared.
    pub const fn with_idc(self, idc: bool) -> Self {
        Self(if idc { self.0 | IDC } else { self.0 & !IDC })
    }

    /// Returns the value with DIC set or cleared.
    pub const fn with_dic(self, dic: bool) -> Self {
        Self(if dic { self.0 | DIC } else { self.0 & !DIC })
    }
}

/// Returns whether this CLIDR_EL1 implies IDC: LoC is 0, or both LoUU and LoUIS are 0. Arm ARM "CLIDR_EL1".
///
/// Linux derives IDC in the same way (`read_cpuid_effective_cachetype` in arch/arm64).
pub const fn clidr_implies_idc(clidr_el1: u64) -> bool {
    let louis = (clidr_el1 >> 21) & 0b111;
    let loc = (clidr_el1 >> 24) & 0b111;
    let louu = (clidr_el1 >> 27) & 0b111;
    loc == 0 || (louis == 0 && louu == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neoverse_n1_model() {
        let ctr = Ctr(0x8444_c004);
        assert_eq!((ctr.imin_line_bytes(), ctr.dmin_line_bytes()), (64, 64));
        assert_eq!((ctr.l1ip(), ctr.idc(), ctr.dic()), (L1Ip::Pipt, false, false));
        assert!(Ctr(0x9444_c004).idc());
    }

    #[test]
    fn a64fx_is_vipt_with_256_byte_lines() {
        let ctr = Ctr(0x8668_8006);
        assert_eq!((ctr.imin_line_bytes(), ctr.l1ip()), (256, L1Ip::Vipt));
    }

    #[test]
    fn changed_fields_leave_the_others() {
        let ctr = Ctr(0x8444_c004).with_imin_line_bytes(32).with_dmin_line_bytes(16).with_idc(true).with_dic(true);
        assert_eq!(ctr, Ctr(0xb442_c003));
        assert_eq!((ctr.imin_line_bytes(), ctr.dmin_line_bytes(), ctr.idc(), ctr.dic()), (32, 16, true, true));
        assert_eq!(ctr.with_idc(false).with_dic(false), Ctr(0x8442_c003));
    }

    #[test]
    fn clidr() {
        assert!(clidr_implies_idc(0));
        assert!(!clidr_implies_idc(0x0a20_0023));
    }
}
