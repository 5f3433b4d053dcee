//! Exception vectors and timed accesses that survive an exception.
//!
//! An access arms its CPU's [`PerCpu`] with a place to go on; a synchronous exception taken while that is armed is
//! noted there and control goes on at that place, on the stack as it was. Any other exception ends the guest.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use abi::channel::MAX_VCPUS;
use payload::interpreter::Access;

/// What the vectors know of a CPU; TPIDR_EL1 points to it.
#[repr(C)]
pub struct PerCpu {
    recover_pc: u64,
    recover_sp: u64,
    esr: u64,
    far: u64,
    elr: u64,
    /// Index of the CPU, in the order of the device tree.
    pub index: u64,
}

static mut PER_CPU: [PerCpu; MAX_VCPUS] =
    [const { PerCpu { recover_pc: 0, recover_sp: 0, esr: 0, far: 0, elr: 0, index: 0 } }; MAX_VCPUS];

const RECOVER_PC: usize = offset_of!(PerCpu, recover_pc);
const RECOVER_SP: usize = offset_of!(PerCpu, recover_sp);
const ESR: usize = offset_of!(PerCpu, esr);
const FAR: usize = offset_of!(PerCpu, far);
const ELR: usize = offset_of!(PerCpu, elr);
const _: () = assert!(RECOVER_SP == RECOVER_PC + 8 && FAR == ESR + 8);

/// Makes TPIDR_EL1 of this CPU, number `index`, point to its [`PerCpu`].
pub fn init(index: usize) {
    // SAFETY: each CPU takes its own element, and only once, before it can take an exception that uses it.
    unsafe {
        let per_cpu = (&raw mut PER_CPU).cast::<PerCpu>().add(index);
        (*per_cpu).index = index as u64;
        asm!("msr tpidr_el1, {}", in(reg) per_cpu, options(nostack, preserves_flags));
    }
}

/// Returns the index of this CPU, 0 before [`init`].
pub fn this_cpu() -> usize {
    let per_cpu: *const PerCpu;
    // SAFETY: reads a register that boot code or `init` set to null or to this CPU's element.
    unsafe {
        asm!("mrs {}, tpidr_el1", out(reg) per_cpu, options(nomem, nostack, preserves_flags));
        if per_cpu.is_null() { 0 } else { (*per_cpu).index as usize }
    }
}

/// The registers that an unexpected exception found, as the vectors stored them.
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Which vector: offset from VBAR_EL1.
    pub vector: u64,
}

/// VBAR_EL1 points here. Arm ARM "Exception vectors".
#[unsafe(naked)]
#[unsafe(link_section = ".text.vectors")]
pub extern "C" fn vectors() {
    naked_asm!(
        ".macro other offset",
        ".balign 0x80",
        "msr tpidrro_el0, x0",
        "mov x0, \\offset",
        "b {unexpected}",
        ".endm",
        "other 0x000",
        "other 0x080",
        "other 0x100",
        "other 0x180",
        // Current EL with SPx, synchronous.
        ".balign 0x80",
        "msr tpidrro_el0, x0",
        "msr tpidr_el0, x1",
        "mrs x0, sctlr_el1",
        "orr x0, x0, #4",               // SCTLR_EL1.C, which `timed_load_caches_off` clears
        "msr sctlr_el1, x0",
        "isb",
        "mrs x0, tpidr_el1",
        "cbz x0, 1f",
        "ldr x1, [x0, #{recover_pc}]",
        "cbz x1, 1f",
        "str xzr, [x0, #{recover_pc}]",
        "mrs x2, esr_el1",
        "mrs x3, far_el1",
        "stp x2, x3, [x0, #{esr}]",
        "mrs x2, elr_el1",
        "str x2, [x0, #{elr}]",
        "ldr x2, [x0, #{recover_sp}]",
        "mov sp, x2",
        "msr elr_el1, x1",
        "mov x1, #0x3c5",               // SPSR_EL1: EL1h, DAIF masked, whatever the fetched code did
        "msr spsr_el1, x1",
        "eret",
        "1: mrs x1, tpidr_el0",
        "mov x0, #0x200",
        "b {unexpected}",
        "other 0x280",
        "other 0x300",
        "other 0x380",
        "other 0x400",
        "other 0x480",
        "other 0x500",
        "other 0x580",
        "other 0x600",
        "other 0x680",
        "other 0x700",
        "other 0x780",
        ".purgem other",
        unexpected = sym unexpected,
        recover_pc = const RECOVER_PC,
        recover_sp = const RECOVER_SP,
        esr = const ESR,
        elr = const ELR,
    )
}

/// Stores the registers and leaves for good. x0 is the vector's offset, the interrupted x0 is in TPIDRRO_EL0.
#[unsafe(naked)]
extern "C" fn unexpected() {
    naked_asm!(
        "sub sp, sp, #256",
        "stp x2, x3, [sp, #16]",
        "stp x4, x5, [sp, #32]",
        "stp x6, x7, [sp, #48]",
        "stp x8, x9, [sp, #64]",
        "stp x10, x11, [sp, #80]",
        "stp x12, x13, [sp, #96]",
        "stp x14, x15, [sp, #112]",
        "stp x16, x17, [sp, #128]",
        "stp x18, x19, [sp, #144]",
        "stp x20, x21, [sp, #160]",
        "stp x22, x23, [sp, #176]",
        "stp x24, x25, [sp, #192]",
        "stp x26, x27, [sp, #208]",
        "stp x28, x29, [sp, #224]",
        "stp x30, x0, [sp, #240]",
        "mrs x0, tpidrro_el0",
        "stp x0, x1, [sp]",
        "mov x0, sp",
        "b {report}",
        report = sym crate::guest::unexpected_exception,
    )
}

/// Defines an access: what stands in `measured` is all that is executed between the two counter reads.
///
/// The fence around each read is kvm-unit-tests' order: barrier, ISB, read, ISB.
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

/// Defines an access with something before it, which may leave a time in x20, and after it, which may leave one in x21.
///
/// Recovery is armed around all three; an exception goes on at label 9. All registers that AAPCS64 wants kept are kept,
/// whatever the code called does. The result is returned through x8, as AAPCS64 returns large structures.
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
    /// Calls the code at `va`, without barriers and without a time.
    plain_call(va), "", "blr x9", "mov x20, xzr\nmov x21, xzr"
}
timed_access! {
    /// Loads the `u64` at `va`.
    timed_load(va), "ldr x0, [x9]"
}
timed_access! {
    /// Loads the `u64` at `va` with SCTLR_EL1.C cleared; no other access to memory is made until it is set again.
    timed_load_caches_off(va), "mrs x13, sctlr_el1\nbic x13, x13, #4\nmsr sctlr_el1, x13\nisb\nldr x0, [x9]\ndsb ish\n\
        orr x13, x13, #4\nmsr sctlr_el1, x13\nisb"
}
timed_access! {
    /// Stores `value` at `va`.
    timed_store(va, value), "str x1, [x9]"
}

/// Calls the code at `va` and returns what it returned, or the exception it took.
///
/// # Safety
///
/// If anything is mapped executable at `va`, it must be a code slot, a prefix of one, or instructions that trap: code
/// that returns with other memory or system registers changed cannot be caught.
#[inline]
pub unsafe fn fetch(va: u64) -> Access {
    // SAFETY: the caller answers for the code at `va`.
    unsafe { timed_call(va) }
}

/// As [`fetch`], without barriers around the call and without its time.
///
/// # Safety
///
/// What runs at `va` must keep SP and system registers, and may write only to memory that Rust does not know of.
#[inline]
pub unsafe fn call(va: u64) -> Access {
    // SAFETY: the caller answers for the code at `va`.
    unsafe { plain_call(va) }
}

/// Loads the `u64` at `va`, or returns the exception that took.
///
/// # Safety
///
/// If `va` is mapped, it must be memory, not a device that a read changes.
#[inline]
pub unsafe fn load(va: u64) -> Access {
    // SAFETY: the caller answers for what is mapped at `va`.
    unsafe { timed_load(va) }
}

/// Loads the `u64` at `va` past the data caches, or returns the exception that took.
///
/// # Safety
///
/// As [`load`]; and the stage-1 tables must be clean to the PoC.
#[inline]
pub unsafe fn load_caches_off(va: u64) -> Access {
    // SAFETY: the caller answers for what is mapped at `va` and for the tables.
    unsafe { timed_load_caches_off(va) }
}

/// Stores `value` at `va`, or returns the exception that took.
///
/// # Safety
///
/// If `va` is mapped, it must be memory that Rust does not know of.
#[inline]
pub unsafe fn store(va: u64, value: u64) -> Access {
    // SAFETY: the caller answers for what is mapped at `va`.
    unsafe { timed_store(va, value) }
}
