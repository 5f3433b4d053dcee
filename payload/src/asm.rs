//! Functions for single instructions.

use core::arch::asm;

/// Reads CTR_EL0, which aarch64-cpu lacks.
pub(crate) fn ctr_el0() -> u64 {
    let value;
    // SAFETY: the instruction reads an identification register and accesses no memory.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads CNTVCT_EL0. Earlier instructions execute before the read, later ones after it.
#[inline]
pub(crate) fn cntvct_el0_ordered() -> u64 {
    let value;
    // SAFETY: the instructions are barriers and a counter read. Without `nomem` the compiler moves no access across
    // them.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Executes an empty loop `rounds` times, without a barrier or a hint.
#[inline]
pub(crate) fn spin(rounds: u64) {
    // SAFETY: the loop counts a register down and accesses no memory.
    unsafe {
        asm!("1: cbz {0}, 2f", "sub {0}, {0}, #1", "b 1b", "2:", inout(reg) rounds => _, options(nomem, nostack, preserves_flags))
    };
}

macro_rules! by_address {
    ($($(#[$doc:meta])* $name:ident => $instruction:literal;)*) => {
        $($(#[$doc])*
        ///
        /// # Safety
        ///
        /// `va` must be mapped.
        #[inline]
        pub(crate) unsafe fn $name(va: u64) {
            // SAFETY: maintenance by VA changes no contents of memory. It cannot abort, because the caller has mapped
            // `va`.
            unsafe { asm!(concat!($instruction, ", {}"), in(reg) va, options(nostack, preserves_flags)) };
        })*
    };
}

by_address! {
    /// Cleans the D-cache line to the PoU.
    dc_cvau => "dc cvau";
    /// Cleans the D-cache line to the PoC.
    dc_cvac => "dc cvac";
    /// Cleans and invalidates the D-cache line to the PoC.
    dc_civac => "dc civac";
    /// Invalidates the I-cache line to the PoU.
    ic_ivau => "ic ivau";
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident => $instruction:literal;)*) => {
        $($(#[$doc])*
        #[inline]
        pub(crate) fn $name() {
            // SAFETY: a barrier, a hint or an invalidation changes neither contents of memory nor registers.
            unsafe { asm!($instruction, options(nostack, preserves_flags)) };
        })*
    };
}

plain! {
    /// Invalidates all I-caches of the inner shareable domain to the PoU.
    ic_ialluis => "ic ialluis";
    /// Executes DMB ISH.
    dmb_ish => "dmb ish";
    /// Executes DMB ISHST.
    dmb_ishst => "dmb ishst";
    /// Executes DMB ISHLD.
    dmb_ishld => "dmb ishld";
    /// Executes DSB ISH.
    dsb_ish => "dsb ish";
    /// Executes ISB.
    isb => "isb";
    /// Executes WFE.
    wfe => "wfe";
    /// Executes SEV once earlier stores are visible.
    sev => "dsb ishst\nsev";
}
