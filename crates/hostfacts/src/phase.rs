//! Tells the lab's counting plugin which phase of a run begins.

/// Number of phases that the plugin can tell apart.
pub const PHASES: u8 = 32;

/// Returns the phase in which case `index` is counted; none is left for cases beyond the plugin's last.
pub fn phase_of(index: usize) -> Option<u8> {
    u8::try_from(index + 1).ok().filter(|phase| *phase < PHASES)
}

/// Tells the plugin, if there is one, that phase `number` begins: everything counted from here to the next marker is
/// booked there. Executes one unallocated hint (`HINT #(96 + number)`), which does nothing on any CPU; on other
/// architectures it is nothing at all.
///
/// # Panics
///
/// `number` is not below [`PHASES`].
pub fn phase(number: u8) {
    assert!(number < PHASES, "the plugin knows phases 0 to {}", PHASES - 1);
    #[cfg(target_arch = "aarch64")]
    marker::execute(number);
}

#[cfg(target_arch = "aarch64")]
mod marker {
    //! The number is part of the instruction, so there is one instruction for each.

    macro_rules! markers {
        ($number:expr, $($phase:literal)*) => {
            match $number {
                $(
                    // SAFETY: an unallocated hint executes as NOP. It keeps the default claim to read and write memory,
                    // so that the compiler moves no access across the marker.
                    $phase => unsafe { core::arch::asm!("hint #{}", const 96 + $phase, options(nostack, preserves_flags)) },
                )*
                _ => unreachable!("checked by the caller"),
            }
        };
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
        phase(0);
        phase(PHASES - 1);
    }
}
