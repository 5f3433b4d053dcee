//! Encodings of the A64 instructions in litmus tests. Arm ARM (DDI 0487) "A64 Base Instruction Descriptions".
//!
//! Each function for an instruction returns the encoding of the instruction that its comment names.

/// General register, by number. Number 31 is the zero register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

/// Link register.
pub const LINK: Reg = Reg(30);
/// Zero register.
pub const ZERO: Reg = Reg(31);

/// NOP.
pub const NOP: u32 = 0xd503_201f;

/// Barrier of a litmus test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// `DMB ISH`.
    DmbIsh,
    /// `DMB SY`.
    DmbSy,
    /// `DMB ST`.
    DmbSt,
    /// `DMB LD`.
    DmbLd,
    /// `DSB ISH`.
    DsbIsh,
    /// `DSB SY`.
    DsbSy,
    /// `ISB`.
    Isb,
}

impl Fence {
    /// Returns the encoding.
    pub const fn encode(self) -> u32 {
        const DMB: u32 = 0xd503_30bf;
        const DSB: u32 = 0xd503_309f;
        /// Returns field CRm, which holds domain and types.
        const fn crm(bits: u32) -> u32 {
            bits << 8
        }
        match self {
            Self::DmbIsh => DMB | crm(0b1011),
            Self::DmbSy => DMB | crm(0b1111),
            Self::DmbSt => DMB | crm(0b1110),
            Self::DmbLd => DMB | crm(0b1101),
            Self::DsbIsh => DSB | crm(0b1011),
            Self::DsbSy => DSB | crm(0b1111),
            Self::Isb => 0xd503_3fdf,
        }
    }
}

const fn rd(reg: Reg) -> u32 {
    reg.0 as u32
}

const fn rn(reg: Reg) -> u32 {
    (reg.0 as u32) << 5
}

const fn rm(reg: Reg) -> u32 {
    (reg.0 as u32) << 16
}

/// Returns the distance of a branch as a field of `bits` bits, which counts instructions.
const fn words(bytes: i64, bits: u32) -> u32 {
    ((bytes / 4) as u32) & ((1 << bits) - 1)
}

/// `B` to the address `bytes` after itself.
pub const fn b(bytes: i64) -> u32 {
    0x1400_0000 | words(bytes, 26)
}

/// `BL` to the address `bytes` after itself.
pub const fn bl(bytes: i64) -> u32 {
    0x9400_0000 | words(bytes, 26)
}

/// `B.NE` to the address `bytes` after itself.
pub const fn b_ne(bytes: i64) -> u32 {
    0x5400_0001 | words(bytes, 19) << 5
}

/// `CBNZ Wt` to the address `bytes` after itself.
pub const fn cbnz(t: Reg, bytes: i64) -> u32 {
    0x3500_0000 | words(bytes, 19) << 5 | rd(t)
}

/// `BR`.
pub const fn br(n: Reg) -> u32 {
    0xd61f_0000 | rn(n)
}

/// `RET` to the address in `n`.
pub const fn ret(n: Reg) -> u32 {
    0xd65f_0000 | rn(n)
}

/// `MOVZ Xd, #imm16`.
pub const fn movz(d: Reg, imm16: u16) -> u32 {
    0xd280_0000 | (imm16 as u32) << 5 | rd(d)
}

/// `MOVK Xd, #imm16, LSL #16·part`.
pub const fn movk(d: Reg, imm16: u16, part: u32) -> u32 {
    0xf280_0000 | part << 21 | (imm16 as u32) << 5 | rd(d)
}

/// `MOV Xd, Xm`.
pub const fn mov(d: Reg, m: Reg) -> u32 {
    orr(d, ZERO, m, 0)
}

/// `MOV Wd, Wm`.
pub const fn mov_w(d: Reg, m: Reg) -> u32 {
    0x2a00_0000 | rm(m) | rn(ZERO) | rd(d)
}

/// `STR Wt, [Xn]`.
pub const fn str_w(t: Reg, n: Reg) -> u32 {
    0xb900_0000 | rn(n) | rd(t)
}

/// `STR Xt, [Xn]`.
pub const fn str_x(t: Reg, n: Reg) -> u32 {
    0xf900_0000 | rn(n) | rd(t)
}

/// `LDR Wt, [Xn]`.
pub const fn ldr_w(t: Reg, n: Reg) -> u32 {
    0xb940_0000 | rn(n) | rd(t)
}

/// `LDR Xt, [Xn]`.
pub const fn ldr_x(t: Reg, n: Reg) -> u32 {
    0xf940_0000 | rn(n) | rd(t)
}

/// `DC CVAU, Xt`.
pub const fn dc_cvau(t: Reg) -> u32 {
    0xd50b_7b20 | rd(t)
}

/// `IC IVAU, Xt`.
pub const fn ic_ivau(t: Reg) -> u32 {
    0xd50b_7520 | rd(t)
}

/// `EOR Xd, Xn, Xm`.
pub const fn eor(d: Reg, n: Reg, m: Reg) -> u32 {
    0xca00_0000 | rm(m) | rn(n) | rd(d)
}

/// `ADD Xd, Xn, Xm`.
pub const fn add(d: Reg, n: Reg, m: Reg) -> u32 {
    0x8b00_0000 | rm(m) | rn(n) | rd(d)
}

/// `ORR Xd, Xn, Xm, LSL #shift`.
pub const fn orr(d: Reg, n: Reg, m: Reg, shift: u32) -> u32 {
    0xaa00_0000 | rm(m) | shift << 10 | rn(n) | rd(d)
}

/// `CMP Xn, Xm`.
pub const fn cmp(n: Reg, m: Reg) -> u32 {
    0xeb00_0000 | rm(m) | rn(n) | rd(ZERO)
}

/// `CMP Wn, Wm`.
pub const fn cmp_w(n: Reg, m: Reg) -> u32 {
    0x6b00_0000 | rm(m) | rn(n) | rd(ZERO)
}

/// `CSET Xd, EQ`.
pub const fn cset_eq(d: Reg) -> u32 {
    0x9a9f_17e0 | rd(d)
}

/// `BFI Xd, Xn, #lsb, #width`. With an `lsb` of 0, this is `BFXIL Xd, Xn, #0, #width`.
pub const fn bfi(d: Reg, n: Reg, lsb: u32, width: u32) -> u32 {
    let immr = (64 - lsb) % 64;
    0xb340_0000 | immr << 16 | (width - 1) << 10 | rn(n) | rd(d)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with the encodings of LLVM's assembler.
    #[test]
    fn known_encodings() {
        let x = Reg;
        let known = [
            (b(8), 0x1400_0002),
            (b(-4), 0x17ff_ffff),
            (bl(16), 0x9400_0004),
            (b_ne(12), 0x5400_0061),
            (cbnz(x(3), 4), 0x3500_0023),
            (br(x(4)), 0xd61f_0080),
            (ret(LINK), 0xd65f_03c0),
            (ret(x(27)), 0xd65f_0360),
            (mov(x(27), LINK), 0xaa1e_03fb),
            (movz(x(1), 0x1234), 0xd282_4681),
            (movk(x(1), 0x5678, 1), 0xf2aa_cf01),
            (movk(x(1), 0x9abc, 2), 0xf2d3_5781),
            (str_w(x(5), x(1)), 0xb900_0025),
            (str_x(x(5), x(1)), 0xf900_0025),
            (ldr_w(x(20), x(3)), 0xb940_0074),
            (ldr_x(x(20), x(3)), 0xf940_0074),
            (dc_cvau(x(2)), 0xd50b_7b22),
            (ic_ivau(x(2)), 0xd50b_7522),
            (eor(x(10), x(20), x(20)), 0xca14_028a),
            (add(x(10), x(10), x(2)), 0x8b02_014a),
            (cmp(x(20), x(2)), 0xeb02_029f),
            (cmp_w(x(20), x(10)), 0x6b0a_029f),
            (cset_eq(x(10)), 0x9a9f_17ea),
            (orr(x(0), x(0), x(10), 4), 0xaa0a_1000),
            (bfi(x(0), x(21), 6, 2), 0xb37a_06a0),
            (mov_w(x(19), x(9)), 0x2a09_03f3),
            (mov_w(x(19), ZERO), 0x2a1f_03f3),
        ];
        for (n, (encoded, wanted)) in known.into_iter().enumerate() {
            assert_eq!(encoded, wanted, "number {n}: {encoded:#010x}");
        }
        use Fence::{DmbIsh, DmbLd, DmbSt, DmbSy, DsbIsh, DsbSy, Isb};
        let fences = [DmbIsh, DmbSy, DmbSt, DmbLd, DsbIsh, DsbSy, Isb].map(Fence::encode);
        let wanted = [0xd503_3bbf, 0xd503_3fbf, 0xd503_3ebf, 0xd503_3dbf, 0xd503_3b9f, 0xd503_3f9f, 0xd503_3fdf];
        assert_eq!(fences, wanted);
    }
}
