//! The memory that the threads of one race share, argument of [`crate::OpCode::Race`].
//!
//! ```text
//! 0        Setup               written by the host before the race
//! 0x100    arrivals            at the meeting that is under way, by all threads
//! 0x200    stop                whether the last iteration is over, by thread 0
//! 0x300    observed 0, 1, …    what each thread's body returned, LINE_BYTES apart
//! 0x1000   counts              how often each outcome came, by thread 0
//! ```

use core::mem::size_of;

/// The most threads of one race.
pub const MAX_THREADS: usize = 8;
/// Outcomes that are told apart: 0 to this − 1.
pub const OUTCOMES: u64 = 256;
/// Distance of words that different vCPUs write, in bytes: the longest cache line known.
pub const LINE_BYTES: u64 = 256;
/// Size of the memory in bytes.
pub const BYTES: u64 = 0x2000;

/// Offset of the count of arrivals.
pub const ARRIVED: u64 = 0x100;
/// Offset of the word that ends the race.
pub const STOP: u64 = 0x200;
/// Offset of what thread 0 observed.
pub const OBSERVED: u64 = 0x300;
/// Offset of the first count; the one after the last outcome's counts iterations in which a body took an exception.
pub const COUNTS: u64 = 0x1000;

/// What a thread has observed when its body took an exception.
pub const EXCEPTION: u64 = 1 << 63;

/// What the host says of a race. Each address is that of a function that keeps to AAPCS64, 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Setup {
    /// Called by thread 0 before each iteration: makes everything as it was, coherent for all.
    pub init: u64,
    /// Called by each thread after that.
    pub prime: u64,
    /// Called by thread 0 after each iteration; what it returns is part of the outcome.
    pub finish: u64,
    /// Before its body each thread spins for a random number of rounds, of which this masks the bits.
    pub skew_mask: u64,
    /// No iteration begins later than this many ticks after the first; 0 for no limit.
    pub limit_ticks: u64,
    /// Keeps the size a multiple of 64.
    pub reserved: [u64; 3],
    /// Called by each thread at the same time: what they return, all together, is the outcome.
    pub bodies: [u64; MAX_THREADS],
}

const _: () = assert!(size_of::<Setup>() == 128 && size_of::<Setup>() as u64 <= ARRIVED);
const _: () = assert!(OBSERVED + MAX_THREADS as u64 * LINE_BYTES <= COUNTS && COUNTS + 8 * (OUTCOMES + 1) <= BYTES);

impl Setup {
    /// Returns the sixteen little-endian words that stand for it in memory.
    pub const fn to_words(self) -> [u64; 16] {
        let [a, b, c, d, e, f, g, h] = self.bodies;
        let Self { init, prime, finish, skew_mask, limit_ticks, reserved: [x, y, z], .. } = self;
        [init, prime, finish, skew_mask, limit_ticks, x, y, z, a, b, c, d, e, f, g, h]
    }

    /// Returns what stands in memory as these words.
    pub const fn from_words(words: [u64; 16]) -> Self {
        let [init, prime, finish, skew_mask, limit_ticks, x, y, z, bodies @ ..] = words;
        Self { init, prime, finish, skew_mask, limit_ticks, reserved: [x, y, z], bodies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_memory_layout() {
        let words: [u64; 16] = core::array::from_fn(|n| n as u64);
        let setup = Setup::from_words(words);
        assert_eq!((setup.to_words(), setup.limit_ticks, setup.bodies[0]), (words, 4, 8));
        // SAFETY: both are 128 bytes of plain integers without padding.
        assert_eq!(words, unsafe { core::mem::transmute::<Setup, [u64; 16]>(setup) });
    }
}
