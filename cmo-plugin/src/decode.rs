// SPDX-License-Identifier: GPL-2.0-or-later
//! Decoding of A64 words: cache maintenance and phase markers.

/// `SYS` encodings that the plugin counts: `op1`, `CRm` and `op2` with `CRn` = 7, and the name in the output.
/// Arm ARM (DDI 0487) C5.3, "A64 System instructions for cache maintenance".
const OPERATIONS: [(u32, u32, u32, &str); 12] = [
    (0, 1, 0, "ic_ialluis"),
    (0, 5, 0, "ic_iallu"),
    (3, 5, 1, "ic_ivau"),
    (0, 6, 1, "dc_ivac"),
    (0, 6, 2, "dc_isw"),
    (0, 10, 2, "dc_csw"),
    (0, 14, 2, "dc_cisw"),
    (3, 10, 1, "dc_cvac"),
    (3, 11, 1, "dc_cvau"),
    (3, 12, 1, "dc_cvap"),
    (3, 13, 1, "dc_cvadp"),
    (3, 14, 1, "dc_civac"),
];

/// Fixed bits of every `SYS` instruction: `SYS #0, C0, C0, #0, X0`.
const SYS: u32 = 0xd508_0000;

/// Bits of a word that do not name a register.
const WITHOUT_RT: u32 = !0x1f;

/// Word of `HINT #0`. Bits 5 to 11 are the number of the hint.
const HINT: u32 = 0xd503_201f;

/// First hint number that is a phase marker.
const FIRST_MARKER: u32 = 96;

/// Instruction that the plugin instruments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Cache-maintenance operation, with its name in the output.
    Maintenance(&'static str),
    /// Marker that begins the phase with this number.
    Marker(u8),
}

/// Decodes one A64 word. Returns `None` for an instruction that the plugin does not instrument.
pub(crate) fn decode(word: u32) -> Option<Watched> {
    if word & !(0x7f << 5) == HINT {
        let number = word >> 5 & 0x7f;
        return number.checked_sub(FIRST_MARKER).map(|phase| Watched::Marker(phase as u8));
    }
    OPERATIONS
        .iter()
        .find(|&&(op1, crm, op2, _)| word & WITHOUT_RT == SYS | op1 << 16 | 7 << 12 | crm << 8 | op2 << 5)
        .map(|&(.., name)| Watched::Maintenance(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_is_decoded_with_its_name() {
        for (word, name) in [
            (0xd508_711f, "ic_ialluis"),
            (0xd508_751f, "ic_iallu"),
            (0xd50b_7520, "ic_ivau"),  // x0
            (0xd50b_753e, "ic_ivau"),  // x30
            (0xd508_7621, "dc_ivac"),  // x1
            (0xd508_7642, "dc_isw"),   // x2
            (0xd508_7a43, "dc_csw"),   // x3
            (0xd508_7e44, "dc_cisw"),  // x4
            (0xd50b_7a25, "dc_cvac"),  // x5
            (0xd50b_7b26, "dc_cvau"),  // x6
            (0xd50b_7c27, "dc_cvap"),  // x7
            (0xd50b_7d28, "dc_cvadp"), // x8
            (0xd50b_7e29, "dc_civac"), // x9
        ] {
            assert_eq!(decode(word), Some(Watched::Maintenance(name)), "{word:#x}");
        }
    }

    #[test]
    fn similar_words_are_not_decoded() {
        // nop, dc zva x0, at s1e1r x0, tlbi vmalle1is, dsb ish, isb, mrs x0, ctr_el0, hint #95 (below the markers)
        for word in
            [0xd503_201f, 0xd50b_7420, 0xd508_7800, 0xd508_831f, 0xd503_3b9f, 0xd503_3fdf, 0xd53b_0020, HINT | 95 << 5]
        {
            assert_eq!(decode(word), None, "{word:#x}");
        }
    }

    #[test]
    fn markers_run_from_96_to_127() {
        assert_eq!(decode(0xd503_2c1f), Some(Watched::Marker(0)));
        assert_eq!(decode(0xd503_2fff), Some(Watched::Marker(31)));
    }
}
