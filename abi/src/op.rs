//! Programs: arrays of fixed-size ops that the guest's interpreter runs.
//!
//! An op that works over a range visits `start`, `start + stride`, … below `start + bytes`. Addresses are IPAs, which
//! stage 1 maps one to one.

use core::mem::size_of;

/// What an op does. The arguments are those of [`Op::args`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum OpCode {
    /// Ends the program.
    End = 0,
    /// Writes a code slot of generation `args[0]` at each element.
    WriteCode = 1,
    /// Loads a `u64` at each element; with [`CHECK`], compares it with `args[0]`, or as [`SLOT`] says. See also
    /// [`NON_CACHEABLE`] and [`CACHES_OFF`].
    Load = 2,
    /// Stores `args[0]` at each element.
    Store = 3,
    /// Calls the slot at each element and times it; with [`CHECK`], compares its token with generation `args[0]`.
    Fetch = 4,
    /// Cleans the D-cache line at each element: `DC CVAU`, or with `args[0]` = 1 `DC CVAC`, 2 `DC CIVAC`. Stride 0 is
    /// the line of CTR_EL0. Left out where IDC allows it, unless [`FORCE`].
    CleanD = 5,
    /// Invalidates the I-cache line at each element, `IC IVAU`. Stride 0 is the line of CTR_EL0. Left out where DIC
    /// allows it, unless [`FORCE`].
    InvalI = 6,
    /// Invalidates the whole I-cache, `IC IALLUIS`.
    InvalIAll = 7,
    /// Executes the barrier `args[0]`: see [`Barrier`].
    Barrier = 8,
    /// Maps the range anew at stage 1 with break-before-make, as [`Attr`] `args[0]` in blocks of at most `args[1]`
    /// bytes.
    Remap = 9,
    /// Waits in WFE until `args[1]` vCPUs have reached rendezvous number `args[0]`. With [`SLEEP`], first blocks in
    /// the host until all have arrived, so that waiting costs no instructions.
    Rendezvous = 10,
    /// Asks the host for the event `args[0]`, whose meaning is the host's, and goes on when it is done.
    Event = 11,
    /// Waits for `args[0]` ticks in WFE with the counter's event stream, or polling where there is none.
    Wait = 12,
    /// Goes back to op `args[0]` until this op has been reached `args[1]` times.
    Repeat = 13,
    /// Ends this program as [`OpCode::End`] does, and goes on with the one that the host puts in its place once all vCPUs
    /// are here. Records begin anew.
    Next = 14,
    /// Runs `args[0]` iterations of a race as thread `args[2]` of `args[1]`, in step with the others; `args[3]` seeds the
    /// skew. What is raced stands at `start`: see [`crate::race`]. Thread 0 writes an element for each outcome seen: the
    /// outcome as address, its count as value. Exceptions in a body are mismatches.
    Race = 15,
}

impl OpCode {
    /// Every op code, in order.
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

    /// Returns the op code a number stands for, if any.
    pub fn from_raw(raw: u16) -> Option<Self> {
        Self::ALL.get(usize::from(raw)).copied()
    }

    /// Returns the name used in results and plans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::WriteCode => "write-code",
            Self::Load => "load",
            Self::Store => "store",
            Self::Fetch => "fetch",
            Self::CleanD => "clean-d",
            Self::InvalI => "inval-i",
            Self::InvalIAll => "inval-i-all",
            Self::Barrier => "barrier",
            Self::Remap => "remap",
            Self::Rendezvous => "rendezvous",
            Self::Event => "event",
            Self::Wait => "wait",
            Self::Repeat => "repeat",
            Self::Next => "next",
            Self::Race => "race",
        }
    }
}

/// Flag: write one record per element, besides the summary.
pub const EACH: u16 = 1 << 0;
/// Flag: compare what was read or returned with what the op expects; mismatches are recorded up to [`MISMATCH_CAP`].
pub const CHECK: u16 = 1 << 1;
/// Flag: do the maintenance even where IDC or DIC makes it unnecessary.
pub const FORCE: u16 = 1 << 2;
/// Flag: wait in the host, not in the guest.
pub const SLEEP: u16 = 1 << 3;
/// Flag of [`OpCode::Load`]: what is expected is the first doubleword of the slot of generation `args[0]` there.
pub const SLOT: u16 = 1 << 4;
/// Flag of [`OpCode::Load`]: load through a Non-cacheable mapping of the same IPA.
pub const NON_CACHEABLE: u16 = 1 << 5;
/// Flag of [`OpCode::Load`]: load with SCTLR_EL1.C cleared.
pub const CACHES_OFF: u16 = 1 << 6;

/// The most mismatch records one op writes; further ones are only counted.
pub const MISMATCH_CAP: u64 = 64;

/// The most iterations of one [`OpCode::Repeat`] nest, and the number of rendezvous counters.
pub const MAX_RENDEZVOUS: u64 = 64;

/// Argument of [`OpCode::Barrier`].
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
    /// Returns the barrier a number stands for, if any.
    pub fn from_raw(raw: u64) -> Option<Self> {
        [Self::DmbIsh, Self::DsbIsh, Self::Isb, Self::DmbIshst, Self::DmbIshld].into_iter().find(|b| *b as u64 == raw)
    }
}

/// Stage-1 attributes, argument of [`OpCode::Remap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Attr {
    /// Normal, Write-Back cacheable, read-write-execute.
    Cacheable = 0,
    /// Normal, Non-cacheable, read-write-execute.
    NonCacheable = 1,
    /// Not mapped.
    Invalid = 2,
}

impl Attr {
    /// Returns the attributes a number stands for, if any.
    pub fn from_raw(raw: u64) -> Option<Self> {
        [Self::Cacheable, Self::NonCacheable, Self::Invalid].into_iter().find(|a| *a as u64 == raw)
    }
}

/// One step of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Op {
    /// [`OpCode`] as a number.
    pub code: u16,
    /// [`EACH`], [`CHECK`], [`FORCE`], [`SLEEP`].
    pub flags: u16,
    /// Free for the host; copied into every record of this op.
    pub tag: u32,
    /// First address of the range, an IPA.
    pub start: u64,
    /// Length of the range in bytes.
    pub bytes: u64,
    /// Distance of two elements in bytes; 0 means one element, or the cache line for maintenance.
    pub stride: u64,
    /// See [`OpCode`].
    pub args: [u64; 4],
}

const _: () = assert!(size_of::<Op>() == 64);

impl Op {
    /// Returns an op without a range.
    pub const fn plain(code: OpCode, args: [u64; 4]) -> Self {
        Self { code: code as u16, flags: 0, tag: 0, start: 0, bytes: 0, stride: 0, args }
    }

    /// Returns an op over a range; `arg` is its first argument.
    pub const fn range(code: OpCode, start: u64, bytes: u64, stride: u64, arg: u64) -> Self {
        Self { code: code as u16, flags: 0, tag: 0, start, bytes, stride, args: [arg, 0, 0, 0] }
    }

    /// Returns the op with more flags.
    pub const fn with_flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// Returns the op with a tag.
    pub const fn with_tag(mut self, tag: u32) -> Self {
        self.tag = tag;
        self
    }

    /// Returns the barrier op.
    pub const fn barrier(barrier: Barrier) -> Self {
        Self::plain(OpCode::Barrier, [barrier as u64, 0, 0, 0])
    }

    /// Returns the rendezvous op number `number` for `vcpus` vCPUs.
    pub const fn rendezvous(number: u64, vcpus: u64) -> Self {
        Self::plain(OpCode::Rendezvous, [number, vcpus, 0, 0])
    }

    /// Returns the eight little-endian words that stand for the op in memory.
    pub const fn to_words(self) -> [u64; 8] {
        let head = self.code as u64 | (self.flags as u64) << 16 | (self.tag as u64) << 32;
        let [a, b, c, d] = self.args;
        [head, self.start, self.bytes, self.stride, a, b, c, d]
    }

    /// Returns the op that ends a program and asks for another.
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
