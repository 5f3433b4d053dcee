//! Accesses under test: calls, loads and stores that survive an exception. All but [`call`] are timed.
//!
//! An access writes the address at which it continues after an exception to its CPU's per-CPU data. The vectors store
//! the syndrome of a synchronous exception there and return to that address, with the stack as it was.

use core::arch::naked_asm;
use core::mem::offset_of;

use payload::interpreter::Access;

use crate::per_cpu::{ELR, ESR};

// The assembly below stores the fields at these offsets.
const _: () = assert!(offset_of!(Access, value) == 16 && offset_of!(Access, far) == 32 && size_of::<Access>() == 48);

/// Defines a timed access. Only the instructions in `measured` execute between the two counter reads.
///
/// The instructions around each read are in the order of kvm-unit-tests: barrier, ISB, read, ISB.
macro_rules! timed_access {
    ($(#[$doc:meta])* $name:ident($($argument:ident),*), $measured:literal) => {
        access! {
            $(#[$doc])*
            $name($($argument),*),
            "dsb ish\nisb\nmrs x20, cntvct_el0\nisb",
            $measured,
            "dsb ish\nisb\nmrs x21, cntvct_el0\nisb"
        }
    };
}

/// Defines an access: `before` puts its begin into x20, `after` puts its end into x21.
///
/// An exception in any of the three parts continues at label 9. The function preserves all registers that AAPCS64 asks
/// it to, even if the called code does not. It returns the result through x8, as AAPCS64 returns large structures.
macro_rules! access {
    ($(#[$doc:meta])* $name:ident($($argument:ident),*), $before:literal, $measured:literal, $after:literal) => {
        $(#[$doc])*
        #[unsafe(naked)]
        unsafe extern "C" fn $name($($argument: u64),*) -> Access {
            naked_asm!(
                "stp x29, x30, [sp, #-112]!",
                "stp x19, x20, [sp, #16]",
                "stp x21, x22, [sp, #32]",
                "stp x23, x24, [sp, #48]",
                "stp x25, x26, [sp, #64]",
                "stp x27, x28, [sp, #80]",
                "str x8, [sp, #96]",
                "mov x9, x0",
                "mrs x10, tpidr_el1",
                "adr x11, 9f",
                "mov x12, sp",
                "stp x11, x12, [x10]",
                $before,
                $measured,
                $after,
                "mrs x9, tpidr_el1",
                "str xzr, [x9]",
                "ldr x8, [sp, #96]",
                "stp x20, x21, [x8]",
                "stp x0, xzr, [x8, #16]",
                "stp xzr, xzr, [x8, #32]",
                "8: ldp x19, x20, [sp, #16]",
                "ldp x21, x22, [sp, #32]",
                "ldp x23, x24, [sp, #48]",
                "ldp x25, x26, [sp, #64]",
                "ldp x27, x28, [sp, #80]",
                "ldp x29, x30, [sp], #112",
                "ret",
                "9: mrs x9, tpidr_el1",
                "ldr x8, [sp, #96]",
                "ldp x10, x11, [x9, {esr}]",
                "ldr x12, [x9, {elr}]",
                "stp xzr, xzr, [x8]",
                "stp xzr, x10, [x8, #16]",
                "stp x11, x12, [x8, #32]",
                "b 8b",
                esr = const ESR,
                elr = const ELR,
            )
        }
    };
}

timed_access! {
    /// Calls the code at `va`.
    timed_call(va), "blr x9"
}
access! {
    /// Calls the code at `va`, without barriers and without reading the counter.
    plain_call(va), "", "blr x9", "mov x20, xzr\nmov x21, xzr"
}
timed_access! {
    /// Loads the `u64` at `va`.
    timed_load(va), "ldr x0, [x9]"
}
timed_access! {
    /// Loads the `u64` at `va` with SCTLR_EL1.C cleared. The CPU makes no other access to memory until C is set again.
    timed_load_caches_off(va), "mrs x13, sctlr_el1\nbic x13, x13, #4\nmsr sctlr_el1, x13\nisb\nldr x0, [x9]\ndsb ish\n\
        orr x13, x13, #4\nmsr sctlr_el1, x13\nisb"
}
timed_access! {
    /// Stores `value` at `va`.
    timed_store(va, value), "str x1, [x9]"
}

/// Calls the code at `va`. Returns its return value, or the exception that it took.
///
/// # Safety
///
/// If `va` is mapped executable, it must hold a code slot, a part of one from its start, or an instruction that traps.
/// Code that returns after it changed other memory or system registers cannot be caught.
#[inline]
pub(crate) unsafe fn fetch(va: u64) -> Access {
    // SAFETY: the caller promises that the code at `va` is a slot or traps.
    unsafe { timed_call(va) }
}

/// Calls the code at `va` without barriers and without measuring the time. Returns its return value, or the exception
/// that it took.
///
/// # Safety
///
/// The code at `va` must preserve SP and the system registers. It may write only to memory that Rust does not use.
#[inline]
pub(crate) unsafe fn call(va: u64) -> Access {
    // SAFETY: the caller promises that the code at `va` changes no state that Rust relies on.
    unsafe { plain_call(va) }
}

/// Loads the `u64` at `va`. Returns it, or the exception that the load took.
///
/// # Safety
///
/// If `va` is mapped, it must be memory, not a device that a read changes.
#[inline]
pub(crate) unsafe fn load(va: u64) -> Access {
    // SAFETY: the caller promises that a load from `va` has no side effect.
    unsafe { timed_load(va) }
}

/// Loads the `u64` at `va` with the data caches off. Returns it, or the exception that the load took.
///
/// # Safety
///
/// If `va` is mapped, it must be memory, not a device that a read changes. The stage-1 tables must be clean to the PoC.
#[inline]
pub(crate) unsafe fn load_caches_off(va: u64) -> Access {
    // SAFETY: the caller promises that a load from `va` has no side effect, and that a walk past the caches sees the
    // tables.
    unsafe { timed_load_caches_off(va) }
}

/// Stores `value` at `va`. Returns the exception that the store took, if any.
///
/// # Safety
///
/// If `va` is mapped, it must be memory that Rust does not use.
#[inline]
pub(crate) unsafe fn store(va: u64, value: u64) -> Access {
    // SAFETY: the caller promises that no Rust object is at `va`.
    unsafe { timed_store(va, value) }
}
