//! Exception vectors.
//!
//! A synchronous exception that the CPU expects is stored in its per-CPU data, and the CPU continues at the address
//! that the access under test has set there. Every other exception ends the guest.

use core::arch::naked_asm;

use crate::fatal;
use crate::per_cpu::{ELR, ESR, RECOVER_PC, RECOVER_SP};

/// Vector table, to which VBAR_EL1 points. Arm ARM "Exception vectors".
#[unsafe(naked)]
#[unsafe(link_section = ".text.vectors")]
pub(crate) extern "C" fn vectors() {
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
        "orr x0, x0, #4",               // SCTLR_EL1.C, which a load with the caches off clears
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
        "mov x1, #0x3c5",               // SPSR_EL1: EL1h, DAIF masked, whatever the fetched code changed
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

/// Stores the registers as a [`fatal::Frame`] and reports the exception.
///
/// On entry x0 is the offset of the vector, and TPIDRRO_EL0 holds the interrupted x0.
#[unsafe(naked)]
extern "C" fn unexpected() {
    naked_asm!(
        "sub sp, sp, #{frame_bytes}",
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
        frame_bytes = const size_of::<fatal::Frame>(),
        report = sym fatal::unexpected_exception,
    )
}
