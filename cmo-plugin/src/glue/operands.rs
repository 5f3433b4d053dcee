// SPDX-License-Identifier: GPL-2.0-or-later
//! Operands of an instruction that fit into the pointer that QEMU keeps for a callback.

use std::ffi::c_void;

use crate::shadow::Place;

/// Context of an instruction, and its small operands, in the place of a pointer.
#[derive(Clone, Copy)]
pub(super) struct Operands(usize);

impl Operands {
    /// Packs the number of a register, the context of a place, and flags.
    pub(super) fn new(rt: u32, place: Place, flags: u32) -> Self {
        Self((rt | u32::from(place.guest) << 5 | u32::from(place.el) << 6 | flags << 8) as usize)
    }

    /// Returns the value in the place of a pointer.
    pub(super) fn pointer(self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0)
    }

    /// Returns the operands in the place of a pointer.
    pub(super) fn of(pointer: *mut c_void) -> Self {
        Self(pointer.addr())
    }

    /// Returns the number of the register.
    pub(super) fn rt(self) -> u64 {
        self.0 as u64 & 31
    }

    /// Returns whether a guest executes the instruction.
    pub(super) fn guest(self) -> bool {
        self.0 >> 5 & 1 != 0
    }

    /// Returns the part that tells translation regimes apart.
    pub(super) fn context(self) -> u64 {
        self.0 as u64 >> 5 & 7
    }

    /// Returns flag number `n`.
    pub(super) fn flag(self, n: u32) -> bool {
        self.0 >> (8 + n) & 1 != 0
    }
}
