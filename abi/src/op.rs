//! Programs: arrays of ops, which the guest's interpreter runs.
//!
//! An op over a range visits its elements: the addresses `start`, `start + stride`, … below `start + bytes`. Addresses
//! are IPAs, which the guest maps one to one at stage 1.

use core::mem::size_of;

/// Code of an op, which selects the work that it does. `args` is [`Op::args`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum OpCode {
    /// Ends the program.
    End = 0,
    /// Writes a code slot of generation `args[0]` at each element.
    WriteCode = 1,
    /// Loads the `u64` at each element.
    ///
    /// With [`CHECK`] it compares the value with `args[0]`, or, with [`SLOT`] too, with code of that generation.
    /// [`NON_CACHEABLE`] and [`CACHES_OFF`] make it load past the data caches.
    Load = 2,
    /// Stores `args[0]` at each element.
    Store = 3,
    /// Calls the slot at each element and measures the time. With [`CHECK`] it compares the token with that of
    /// generation `args[0]`.
    Fetch = 4,
    /// Cleans the D-cache line at each element.
    ///
    /// `args[0]` selects the instruction: 1 is `DC CVAC`, 2 is `DC CIVAC`, any other number is `DC CVAU`. A stride of 0
    /// stands for DminLine of CTR_EL0. Without [`FORCE`] the op does no `DC CVAU` where IDC makes it unnecessary.
    CleanD = 5,
    /// Invalidates the I-cache line at each element with `IC IVAU`.
    ///
    /// A stride of 0 stands for IminLine of CTR_EL0. Without [`FORCE`] the op does nothing where DIC makes it
    /// unnecessary.
    InvalI = 6,
    /// Invalidates the whole I-cache with `IC IALLUIS`.
    InvalIAll = 7,
    /// Executes the [`Barrier`] `args[0]`.
    Barrier = 8,
    /// Maps the range anew at stage 1 with break-before-make, with the attributes [`Attr`] `args[0]`. If `args[1]` is
    /// 4096 it uses page descriptors alone, otherwise the largest blocks that fit.
    Remap = 9,
    /// Waits in WFE until `args[1]` vCPUs have reached the rendezvous number `args[0]`.
    ///
    /// With [`SLEEP`] the vCPU first blocks in the host until all have arrived, so that it executes no instructions
    /// while it waits.
    Rendezvous = 10,
    /// Asks the host for the host event `args[0]` and waits until the host has done it. The host defines the numbers.
    Event = 11,
    /// Polls the counter until `args[0]` ticks have passed.
    Wait = 12,
    /// Jumps back to the op with index `args[0]`, until this op has been reached `args[1]` times.
    Repeat = 13,
    /// Ends the program as [`OpCode::End`] does, and runs the program by which the host replaces it.
    ///
    /// The host replaces the programs of all vCPUs once all of them are at this op. Their record buffers are then empty.
    Next = 14,
    /// Runs a race of `args[1]` threads for `args[0]` iterations, as its thread number `args[2]`.
    ///
    /// The shared memory of [`crate::race`] is at `start`. `args[3]` seeds the random delays. Thread 0 writes a
    /// [`crate::record::RaceCount`] for each outcome that occurred. An exception in a body is a mismatch.
    Race = 15,
}

impl OpCode {
    /// All op codes, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::End,
        Self::WriteCode,
        Self::Load,
        Self::Store,
        Self::Fetch,
        Self::CleanD,
        Self::InvalI,
        Self::InvalIAll,
        Self::Barrier,
        Self::Remap,
        Self::Rendezvous,
        Self::Event,
        Self::Wait,
        Self::Repeat,
        Self::Next,
        Self::Race,
    ];

    /// Returns the op code with this number, if there is one.
    pub fn from_raw(raw: u16) -> Option<Self> {
        Self::ALL.get(usize::from(raw)).copied()
    }
}

/// Flag of an op over a range: write a record for each element, in addition to the summary.
pub const EACH: u16 = 1 << 0;
/// Flag of [`OpCode::Load`] and [`OpCode::Fetch`]: compare the value or token with the expected one.
pub const CHECK: u16 = 1 << 1;
/// Flag of [`OpCode::CleanD`] and [`OpCode::InvalI`]: do the maintenance even where IDC or DIC makes it unnecessary.
pub const FORCE: u16 = 1 << 2;
/// Flag of [`OpCode::Rendezvous`]: wait in the host, not in the guest.
pub const SLEEP: u16 = 1 << 3;
/// Flag of [`OpCode::Load`]: expect the first doubleword of the slot of generation `args[0]` at this address.
pub const SLOT: u16 = 1 << 4;
/// Flag of [`OpCode::Load`]: load through a Non-cacheable mapping of the same IPA.
pub const NON_CACHEABLE: u16 = 1 << 5;
/// Flag of [`OpCode::Load`]: load with SCTLR_EL1.C cleared.
pub const CACHES_OFF: u16 = 1 << 6;

/// Maximum number of mismatch records that one op writes. The op only counts further mismatches.
pub const MISMATCH_CAP: u64 = 64;

/// Number of rendezvous counters. The number of a rendezvous is below it.
pub const MAX_RENDEZVOUS: u64 = 64;

/// Barrier instruction, argument of [`OpCode::Barrier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Barrier {
    /// `DMB ISH`.
    DmbIsh = 0,
    /// `DSB ISH`.
    DsbIsh = 1,
    /// `ISB`.
    Isb = 2,
    /// `DMB ISHST`.
    DmbIshst = 3,
    /// `DMB ISHLD`.
    DmbIshld = 4,
}

impl Barrier {
    /// Returns the barrier with this number, if there is one.
    pub fn from_raw(raw: u64) -> Option<Self> {
        [Self::DmbIsh, Self::DsbIsh, Self::Isb, Self::DmbIshst, Self::DmbIshld].into_iter().find(|b| *b as u64 == raw)
    }
}

/// Attributes of a stage-1 mapping, argument of [`OpCode::Remap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Attr {
    /// Normal, Write-Back cacheable, read-write-execute.
    Cacheable = 0,
    /// Normal, Non-cacheable, read-write-execute.
    NonCacheable = 1,
    /// No mapping.
    Invalid = 2,
}

impl Attr {
    /// Returns the attributes with this number, if there are any.
    pub fn from_raw(raw: u64) -> Option<Self> {
        [Self::Cacheable, Self::NonCacheable, Self::Invalid].into_iter().find(|a| *a as u64 == raw)
    }
}

/// One entry of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Op {
    /// [`OpCode`] as a number.
    pub code: u16,
    /// OR of the flags of this module, such as [`EACH`] and [`CHECK`].
    pub flags: u16,
    /// Number for the host's own use. The guest copies it into every record of the op.
    pub tag: u32,
    /// First IPA of the range.
    pub start: u64,
    /// Length of the range in bytes.
    pub bytes: u64,
    /// Distance between two elements in bytes. 0 means a single element, or for maintenance the size of a cache line.
    pub stride: u64,
    /// Arguments, as [`OpCode`] describes them.
    pub args: [u64; 4],
}

const _: () = assert!(size_of::<Op>() == 64);

impl Op {
    /// Returns an op without a range.
    pub const fn plain(code: OpCode, args: [u64; 4]) -> Self {
        Self { code: code as u16, flags: 0, tag: 0, start: 0, bytes: 0, stride: 0, args }
    }

    /// Returns an op over a range, with `arg` as its first argument.
    pub const fn range(code: OpCode, start: u64, bytes: u64, stride: u64, arg: u64) -> Self {
        Self { code: code as u16, flags: 0, tag: 0, start, bytes, stride, args: [arg, 0, 0, 0] }
    }

    /// Returns the op with these flags added.
    pub const fn with_flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// Returns the op with another tag.
    pub const fn with_tag(mut self, tag: u32) -> Self {
        self.tag = tag;
        self
    }

    /// Returns the op that executes `barrier`.
    pub const fn barrier(barrier: Barrier) -> Self {
        Self::plain(OpCode::Barrier, [barrier as u64, 0, 0, 0])
    }

    /// Returns the op that waits for `vcpus` vCPUs at the rendezvous `number`.
    pub const fn rendezvous(number: u64, vcpus: u64) -> Self {
        Self::plain(OpCode::Rendezvous, [number, vcpus, 0, 0])
    }

    /// Returns the eight words that the op is in memory.
    pub const fn to_words(self) -> [u64; 8] {
        let head = self.code as u64 | (self.flags as u64) << 16 | (self.tag as u64) << 32;
        let [a, b, c, d] = self.args;
        [head, self.start, self.bytes, self.stride, a, b, c, d]
    }

    /// Returns the op that ends a program and asks for the next one.
    pub const fn next() -> Self {
        Self::plain(OpCode::Next, [0; 4])
    }

    /// Returns the op that ends a program.
    pub const fn end() -> Self {
        Self::plain(OpCode::End, [0; 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_words_is_the_memory_layout() {
        let op = Op { code: 4, flags: 3, tag: 9, start: 1, bytes: 2, stride: 3, args: [4, 5, 6, 7] };
        // SAFETY: both are 64 bytes of plain integers without padding.
        assert_eq!(op.to_words(), unsafe { core::mem::transmute::<Op, [u64; 8]>(op) });
    }

    #[test]
    fn every_code_round_trips() {
        for code in OpCode::ALL {
            assert_eq!(OpCode::from_raw(code as u16), Some(code));
        }
        assert_eq!(OpCode::from_raw(OpCode::ALL.len() as u16), None);
    }
}
