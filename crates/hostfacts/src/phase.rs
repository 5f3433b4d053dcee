//! Markers in the instruction stream that tell the plugin of the lab where a phase or a case of a run begins.

/// Number of phases that the plugin can tell apart.
const PHASES: u8 = 32;

/// Returns the phase for the case with this index. Phase 0 counts everything else. The plugin has no phase for the
/// cases beyond its last one.
pub fn phase_of_case(index: usize) -> Option<u8> {
    u8::try_from(index + 1).ok().filter(|phase| *phase < PHASES)
}

/// Begins phase `number`: the plugin books all instructions up to the next marker there.
///
/// The marker is one unallocated hint, `HINT #(96 + number)`, which every arm64 CPU executes as NOP. On other
/// architectures the function does nothing.
///
/// # Panics
///
/// If `number` is not below the number of phases, 32.
pub fn begin_phase(number: u8) {
    assert!(number < PHASES, "the plugin knows phases 0 to {}", PHASES - 1);
    #[cfg(target_arch = "aarch64")]
    marker::execute(number);
}

/// Number of what is outside of all cases.
pub const NO_CASE: u64 = 0;

/// Begins the case with this number, from 1: the sanitizer books everything up to the next marker there.
///
/// The marker is `HINT #95`, with the number in X0. On other architectures the function does nothing.
pub fn begin_case(number: u64) {
    #[cfg(target_arch = "aarch64")]
    marker::execute_case(number);
    #[cfg(not(target_arch = "aarch64"))]
    let _ = number;
}

#[cfg(target_arch = "aarch64")]
mod marker {
    //! One instruction for each phase, because an instruction encodes its number.

    macro_rules! markers {
        ($number:expr, $($phase:literal)*) => {
            match $number {
                $(
                    // SAFETY: an unallocated hint executes as NOP. The block does not claim `nomem`, so the compiler
                    // moves no access across the marker.
                    $phase => unsafe { core::arch::asm!("hint #{}", const 96 + $phase, options(nostack, preserves_flags)) },
                )*
                _ => unreachable!("checked by the caller"),
            }
        };
    }

    pub(super) fn execute_case(number: u64) {
        // SAFETY: an unallocated hint executes as NOP.
        unsafe { core::arch::asm!("hint #95", in("x0") number, options(nostack, preserves_flags)) }
    }

    pub(super) fn execute(number: u8) {
        markers!(number, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_runs_anywhere() {
        begin_phase(0);
        begin_phase(PHASES - 1);
        begin_case(NO_CASE);
    }
}
