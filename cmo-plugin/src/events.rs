// SPDX-License-Identifier: GPL-2.0-or-later
//! Decoding of A64 words for the sanitizer: the instructions that change caches, memory or translation.

/// Hint that begins a case of the run. X0 holds the number of the case, or 0 after its end.
const CASE: u32 = 0xd503_201f | 95 << 5;

/// Instruction that the sanitizer follows. `rt` is the number of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Marker of a case.
    Case,
    /// Clean of a D-cache line by address.
    Clean {
        /// Register with the address.
        rt: u32,
        /// To the point of coherency or further.
        poc: bool,
        /// With an invalidation.
        invalidates: bool,
    },
    /// Invalidation of an I-cache line by address.
    Invalidate {
        /// Register with the address.
        rt: u32,
    },
    /// Invalidation of all of the I-cache.
    InvalidateAll {
        /// On all PEs of the Inner Shareable domain.
        all_pes: bool,
    },
    /// Barrier for loads and stores.
    Barrier {
        /// At least for the Inner Shareable domain.
        for_all: bool,
    },
    /// Store of zeroes to a block.
    Zero {
        /// Register with the address.
        rt: u32,
    },
    /// Memory copy or set: the first of its three instructions.
    Copy {
        /// Register with the destination.
        rd: u32,
        /// Register with the number of bytes.
        rn: u32,
    },
    /// Store that QEMU does not show: of a vector of SVE.
    Unseen,
    /// Load, store or atomic.
    Access {
        /// True if it cannot store.
        only_loads: bool,
    },
    /// Write of VTTBR_EL2.
    WriteVttbr {
        /// Register with the value.
        rt: u32,
    },
    /// Write of SCTLR_EL1.
    WriteSctlr {
        /// Register with the value.
        rt: u32,
    },
    /// Write of another register on which the translation of addresses depends.
    WriteTranslation,
    /// Return from an exception.
    ExceptionReturn,
    /// TLB invalidation.
    InvalidateTlb {
        /// Of translations of stage 2.
        stage2: bool,
        /// Of all guests.
        all_guests: bool,
    },
}

/// Decodes one A64 word. Returns none for an instruction that the sanitizer does not follow.
pub(crate) fn decode(word: u32) -> Option<Event> {
    let rt = word & 0x1f;
    match word {
        CASE => Some(Event::Case),
        // ERET, ERETAA, ERETAB.
        0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff => Some(Event::ExceptionReturn),
        // DSB, with the type in the low bits of CRm: 3 is for loads and stores.
        _ if word & 0xffff_f0ff == 0xd503_309f && word >> 8 & 3 == 3 => {
            Some(Event::Barrier { for_all: word >> 10 & 3 != 1 })
        }
        // DSB nXS.
        _ if word & 0xffff_f3ff == 0xd503_323f => Some(Event::Barrier { for_all: word >> 10 & 3 != 1 }),
        _ if word & 0xfff8_0000 == 0xd508_0000 => system(word, rt),
        _ if word & 0xfff0_0000 == 0xd510_0000 => register(word, rt),
        // Memory copy and set (Arm ARM, C4.1, "Memory Copy and Memory Set").
        _ if word & 0xfb20_0c00 == 0x1900_0400 => {
            let (op1, op2) = (word >> 22 & 3, word >> 12 & 0xf);
            let is_first = op1 == 0 || (op1 == 3 && op2 >> 2 == 0);
            is_first.then_some(Event::Copy { rd: rt, rn: word >> 5 & 0x1f })
        }
        // SVE stores (Arm ARM, C4.1, "SVE encodings").
        _ if word >> 25 == 0b111_0010 => Some(Event::Unseen),
        // Loads and stores.
        _ if word >> 25 & 5 == 4 => Some(Event::Access { only_loads: only_loads(word) }),
        _ => None,
    }
}

/// Returns whether a load or store is one of the common forms that only load: of a pair, of a literal, or of one
/// register with an immediate or register offset (Arm ARM, C4.1, "Loads and Stores").
fn only_loads(word: u32) -> bool {
    let (is_vector, opc) = (word >> 26 & 1 != 0, word >> 22 & 3);
    match word >> 27 & 7 {
        0b011 => word >> 24 & 1 == 0,
        0b101 => opc & 1 != 0,
        0b111 if word >> 24 & 1 != 0 || word >> 21 & 1 == 0 || word >> 10 & 3 == 2 => {
            if is_vector {
                opc & 1 != 0
            } else {
                opc != 0
            }
        }
        _ => false,
    }
}

/// Decodes `SYS`.
fn system(word: u32, rt: u32) -> Option<Event> {
    let (op1, crn, crm, op2) = (word >> 16 & 7, word >> 12 & 15, word >> 8 & 15, word >> 5 & 7);
    match (crn, op1, crm, op2) {
        (7, 0, 1, 0) => Some(Event::InvalidateAll { all_pes: true }),
        (7, 0, 5, 0) => Some(Event::InvalidateAll { all_pes: false }),
        (7, 3, 5, 1) => Some(Event::Invalidate { rt }),
        // DC ZVA and DC GZVA.
        (7, 3, 4, 1 | 4) => Some(Event::Zero { rt }),
        // DC CVAU is the only one that stops at the point of unification. DC CIVAC invalidates.
        (7, 3, 10..=14, 1) => Some(Event::Clean { rt, poc: crm != 11, invalidates: crm == 14 }),
        (8 | 9, 4, 1 | 3 | 7, 4) => Some(Event::InvalidateTlb { stage2: true, all_guests: true }),
        (8 | 9, 4, 1 | 3 | 7, 6) | (8 | 9, 4, 0 | 4, _) => {
            Some(Event::InvalidateTlb { stage2: true, all_guests: false })
        }
        (8 | 9, ..) => Some(Event::InvalidateTlb { stage2: false, all_guests: false }),
        _ => None,
    }
}

/// Decodes `MSR` with a register.
fn register(word: u32, rt: u32) -> Option<Event> {
    let encoding = (word >> 19 & 3, word >> 16 & 7, word >> 12 & 15, word >> 8 & 15, word >> 5 & 7);
    match encoding {
        (3, 4, 2, 1, 0) => Some(Event::WriteVttbr { rt }),
        (3, 0, 1, 0, 0) => Some(Event::WriteSctlr { rt }),
        // HCR_EL2; SCTLR_EL2 and SCTLR_EL12; TTBR0, TTBR1 and TCR of EL1, EL2 and EL12.
        (3, 4, 1, 1, 0) | (3, 4 | 5, 1, 0, 0) | (3, 0 | 4 | 5, 2, 0, 0..=2) => Some(Event::WriteTranslation),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADS: Event = Event::Access { only_loads: true };
    const STORES: Event = Event::Access { only_loads: false };

    #[test]
    fn maintenance_and_barriers_are_decoded() {
        for (word, event) in [
            (0xd508_711f, Event::InvalidateAll { all_pes: true }),
            (0xd508_751f, Event::InvalidateAll { all_pes: false }),
            (0xd50b_7523, Event::Invalidate { rt: 3 }),
            (0xd50b_7a25, Event::Clean { rt: 5, poc: true, invalidates: false }),
            (0xd50b_7b26, Event::Clean { rt: 6, poc: false, invalidates: false }),
            (0xd50b_7e29, Event::Clean { rt: 9, poc: true, invalidates: true }),
            (0xd50b_7428, Event::Zero { rt: 8 }),
            (0xd503_3b9f, Event::Barrier { for_all: true }),  // dsb ish
            (0xd503_3f9f, Event::Barrier { for_all: true }),  // dsb sy
            (0xd503_379f, Event::Barrier { for_all: false }), // dsb nsh
            (0xd503_3e3f, Event::Barrier { for_all: true }),  // dsb synxs
            (0xd69f_03e0, Event::ExceptionReturn),
            (0xd51c_2101, Event::WriteVttbr { rt: 1 }),
            (0xd518_1000, Event::WriteSctlr { rt: 0 }),
            (0xd51d_1000, Event::WriteTranslation), // msr sctlr_el12, x0
            (0xd51c_1100, Event::WriteTranslation), // msr hcr_el2, x0
            (0xd50c_83df, Event::InvalidateTlb { stage2: true, all_guests: false }), // tlbi vmalls12e1is
            (0xd50c_839f, Event::InvalidateTlb { stage2: true, all_guests: true }), // tlbi alle1is
            (0xd50c_8020, Event::InvalidateTlb { stage2: true, all_guests: false }), // tlbi ipas2e1is, x0
            (0xd508_831f, Event::InvalidateTlb { stage2: false, all_guests: false }), // tlbi vmalle1is
            (0xd503_2bff, Event::Case),
            (0x1900_0440, Event::Copy { rd: 0, rn: 2 }), // cpyfp [x0]!, [x0]!, x2!
            (0x19c2_0420, Event::Copy { rd: 0, rn: 1 }), // setp [x0]!, x1!, x2
            (0xf900_0020, STORES),                       // str x0, [x1]
            (0xa900_0440, STORES),                       // stp x0, x1, [x2]
            (0xa8c1_7bfd, LOADS),                        // ldp x29, x30, [sp], #16
            (0x3d80_0000, STORES),                       // str q0, [x0]
            (0x3cc0_0000, LOADS),                        // ldur q0, [x0]
            (0xf940_0020, LOADS),                        // ldr x0, [x1]
            (0x3862_6820, LOADS),                        // ldrb w0, [x1, x2]
            (0x3822_6820, STORES),                       // strb w0, [x1, x2]
            (0xb980_0020, LOADS),                        // ldrsw x0, [x1]
            (0x5800_0040, LOADS),                        // ldr x0, .+8
            (0xf820_0020, STORES),                       // ldadd x0, x0, [x1]
            (0xc85f_7c20, STORES),                       // ldxr x0, [x1]: not told apart
            (0xd900_0020, STORES),                       // stlur x0, [x1]
            (0xd920_0820, STORES),                       // stg x0, [x1]
        ] {
            assert_eq!(decode(word), Some(event), "{word:#x}");
        }
    }

    #[test]
    fn other_instructions_are_not_followed() {
        // nop, isb, dsb ishst, dsb ishld, ssbb, dmb ish, mrs x0, ctr_el0, add, cpyfm, hint #94
        for word in [
            0xd503_201f,
            0xd503_3fdf,
            0xd503_3a9f,
            0xd503_399f,
            0xd503_309f,
            0xd503_3bbf,
            0xd53b_0020,
            0x8b01_0000,
            0x1940_0440,
            0xd503_2bdf,
        ] {
            assert_eq!(decode(word), None, "{word:#x}");
        }
    }
}
