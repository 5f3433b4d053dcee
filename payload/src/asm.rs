//! One function per instruction that Rust has no word for.

use core::arch::asm;

/// Reads CTR_EL0, which aarch64-cpu does not have.
pub fn ctr_el0() -> u64 {
    let value;
    // SAFETY: reads an identification register; no memory is touched.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads CNTVCT_EL0, ordered against what stands before and after it.
#[inline]
pub fn cntvct_el0_ordered() -> u64 {
    let value;
    // SAFETY: barriers and a counter read; may be taken as touching memory, so that nothing moves across.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Goes `rounds` times around a loop of nothing, without a barrier or a hint.
#[inline]
pub fn spin(rounds: u64) {
    // SAFETY: counts a register down; no memory is touched.
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
        pub unsafe fn $name(va: u64) {
            // SAFETY: maintenance by VA changes no memory contents; the caller has `va` mapped, so it cannot abort.
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
        pub fn $name() {
            // SAFETY: a barrier, hint or invalidation; changes no memory contents and no register.
            unsafe { asm!($instruction, options(nostack, preserves_flags)) };
        })*
    };
}

plain! {
    /// Invalidates all I-caches of the inner shareable domain to the PoU.
    ic_ialluis => "ic ialluis";
    /// DMB ISH.
    dmb_ish => "dmb ish";
    /// DMB ISHST.
    dmb_ishst => "dmb ishst";
    /// DMB ISHLD.
    dmb_ishld => "dmb ishld";
    /// DSB ISH.
    dsb_ish => "dsb ish";
    /// ISB.
    isb => "isb";
    /// WFE.
    wfe => "wfe";
    /// SEV, after the stores before it are visible.
    sev => "dsb ishst\nsev";
}
