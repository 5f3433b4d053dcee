// SPDX-License-Identifier: GPL-2.0-or-later
//! Words that a kernel may patch while they run.

/// NOP.
pub(super) const NOP: u32 = 0xd503_201f;
/// `MOV X9, X30`, the first instruction of a traced function.
pub(super) const MOV_X9_X30: u32 = 0xaa1e_03e9;

/// Returns whether a word may be replaced by another such word while a PE executes it (Arm ARM, B2.3 "Concurrent
/// modification and execution of instructions"): B, BL, BRK, HVC, ISB, NOP, SMC and SVC.
pub(super) fn is_modifiable(word: u32) -> bool {
    let is_branch = word >> 26 == 0b000101 || word >> 26 == 0b100101;
    let is_call = word & 0xffe0_001c == 0xd400_0000 && word & 3 != 0;
    let is_breakpoint = word & 0xffe0_001f == 0xd420_0000;
    is_branch || is_call || is_breakpoint || word == NOP || word & 0xffff_f0ff == 0xd503_30df
}
