//! Memory that the threads of one race share. It starts at the address of the race op.
//!
//! ```text
//! 0        Setup               written by the host before the race
//! 0x100    arrivals            number of arrivals at meetings so far; written by all threads
//! 0x200    stop                1 after the last iteration, otherwise 0; written by thread 0
//! 0x300    observed 0, 1, …    return value of each thread's body, LINE_BYTES apart; written by that thread
//! 0x1000   counts              number of iterations with each outcome; written by thread 0
//! ```

use core::mem::size_of;

/// Maximum number of threads in one race.
pub const MAX_THREADS: usize = 8;
/// Number of distinct outcomes. An outcome is below it.
pub const OUTCOMES: u64 = 256;
/// Distance in bytes between words that different vCPUs write: the size of the longest known cache line.
pub const LINE_BYTES: u64 = 256;
/// Size of the memory, in bytes.
pub const BYTES: u64 = 0x2000;

/// Offset of the number of arrivals at meetings.
pub const ARRIVED: u64 = 0x100;
/// Offset of the word that ends the race.
pub const STOP: u64 = 0x200;
/// Offset of the value that thread 0 observed.
pub const OBSERVED: u64 = 0x300;
/// Offset of the first count. The count after that of the last outcome is for iterations with an exception in a body.
pub const COUNTS: u64 = 0x1000;

/// Observed value of a thread whose body took an exception.
pub const EXCEPTION: u64 = 1 << 63;

/// Functions and limits of a race. Each address is that of a function that follows AAPCS64; 0 means no function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Setup {
    /// Function that thread 0 calls before each iteration. It restores the initial state, coherent for all threads.
    pub init: u64,
    /// Function that each thread calls after `init`.
    pub prime: u64,
    /// Function that thread 0 calls after each iteration. Its return value is part of the outcome.
    pub finish: u64,
    /// Mask of the random number of rounds that each thread spins before its body.
    pub skew_mask: u64,
    /// Ticks after the start of the race from which no iteration begins; 0 means no limit.
    pub limit_ticks: u64,
    /// Unused. It makes the size a multiple of 64 bytes.
    pub reserved: [u64; 3],
    /// Functions that the threads call at the same time, one each. The outcome is the OR of their return values and
    /// that of `finish`.
    pub bodies: [u64; MAX_THREADS],
}

const _: () = assert!(size_of::<Setup>() == 128 && size_of::<Setup>() as u64 <= ARRIVED);
const _: () = assert!(OBSERVED + MAX_THREADS as u64 * LINE_BYTES <= COUNTS && COUNTS + 8 * (OUTCOMES + 1) <= BYTES);

impl Setup {
    /// Returns the sixteen words that the setup is in memory.
    pub const fn to_words(self) -> [u64; 16] {
        let [a, b, c, d, e, f, g, h] = self.bodies;
        let Self { init, prime, finish, skew_mask, limit_ticks, reserved: [x, y, z], .. } = self;
        [init, prime, finish, skew_mask, limit_ticks, x, y, z, a, b, c, d, e, f, g, h]
    }

    /// Returns the setup that these words are in memory.
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
