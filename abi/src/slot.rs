//! Code slots: the small functions that programs write and call.
//!
//! A slot returns a token, which contains the IPA of the slot and its generation. A wrong token therefore tells which
//! slot ran, and which version of it.
//!
//! ```text
//! movz x0, #generation
//! movk x0, #ipa[19:4],  lsl #16
//! movk x0, #ipa[35:20], lsl #32
//! movk x0, #ipa[51:36], lsl #48
//! ret
//! ```
//!
//! Two generations of a slot differ in the MOVZ alone. A fetch during a change therefore executes one or the other.

/// Number of instructions in a slot.
pub const INSTRUCTIONS: usize = 5;

/// Size of a slot in bytes, rounded up so that every 32-byte cache line can hold one slot.
pub const BYTES: u64 = 32;

const MOVZ_X0: u32 = 0xd280_0000;
const MOVK_X0: u32 = 0xf280_0000;
const RET: u32 = 0xd65f_03c0;

/// Encodes `MOVZ/MOVK x0, #imm16, LSL #(16 * shift)`. Arm ARM "MOVZ", "MOVK".
const fn mov_wide(base: u32, imm16: u64, shift: u32) -> u32 {
    base | (shift << 21) | (((imm16 & 0xffff) as u32) << 5)
}

/// Returns the instructions of the slot at `ipa` in `generation`.
#[inline]
pub const fn encode(ipa: u64, generation: u16) -> [u32; INSTRUCTIONS] {
    [
        mov_wide(MOVZ_X0, generation as u64, 0),
        mov_wide(MOVK_X0, ipa >> 4, 1),
        mov_wide(MOVK_X0, ipa >> 20, 2),
        mov_wide(MOVK_X0, ipa >> 36, 3),
        RET,
    ]
}

/// Returns the first doubleword of the slot at `ipa`. It contains the generation.
#[inline]
pub const fn first_doubleword(ipa: u64, generation: u16) -> u64 {
    let [first, second, ..] = encode(ipa, generation);
    first as u64 | (second as u64) << 32
}

/// Returns the generation of a slot with this first doubleword.
pub const fn generation_of(first_doubleword: u64) -> u16 {
    (first_doubleword >> 5) as u16
}

/// Returns the token that the slot at `ipa` in `generation` returns.
#[inline]
pub const fn token(ipa: u64, generation: u16) -> u64 {
    ((ipa >> 4) << 16) | generation as u64
}

/// Returns the IPA and the generation in a token.
pub const fn decode(token: u64) -> (u64, u16) {
    ((token >> 16) << 4, (token & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the slot's five instructions, independently of `encode`'s helpers.
    fn execute(code: [u32; INSTRUCTIONS]) -> u64 {
        let mut x0 = 0;
        for instruction in code {
            let imm = u64::from((instruction >> 5) & 0xffff);
            let shift = 16 * ((instruction >> 21) & 3);
            match instruction >> 23 {
                0b1_1010_0101 => x0 = imm << shift,
                0b1_1110_0101 => x0 = (x0 & !(0xffff << shift)) | (imm << shift),
                _ => assert_eq!(instruction, 0xd65f_03c0),
            }
        }
        x0
    }

    #[test]
    fn code_returns_its_token() {
        for (ipa, generation) in [(0x8000_0000, 0), (0x1_2345_6789_abc0, 7), (0xf_ffff_ffff_fff0, 0xffff)] {
            assert_eq!(execute(encode(ipa, generation)), token(ipa, generation));
            assert_eq!(decode(token(ipa, generation)), (ipa, generation));
        }
    }

    #[test]
    fn generations_differ_in_one_instruction() {
        let (a, b) = (encode(0x4000_0000, 1), encode(0x4000_0000, 2));
        assert_eq!(a.iter().zip(b).filter(|(a, b)| **a != *b).count(), 1);
    }
}
