//! Data of each CPU that its exception vectors need. TPIDR_EL1 points to it.

use core::arch::asm;
use core::mem::offset_of;

use abi::channel::MAX_VCPUS;

/// Data of one CPU.
#[repr(C)]
struct PerCpu {
    /// Address at which the CPU continues after an exception, or 0 if it expects none.
    recover_pc: u64,
    /// Stack pointer at that address.
    recover_sp: u64,
    /// ESR_EL1 of the last expected exception.
    esr: u64,
    /// FAR_EL1 of the last expected exception.
    far: u64,
    /// ELR_EL1 of the last expected exception.
    elr: u64,
    /// Index of the CPU, in the order of the device tree.
    index: u64,
}

static mut PER_CPU: [PerCpu; MAX_VCPUS] =
    [const { PerCpu { recover_pc: 0, recover_sp: 0, esr: 0, far: 0, elr: 0, index: 0 } }; MAX_VCPUS];

/// Offset of the address at which the CPU continues after an exception, followed by the stack pointer there.
pub(crate) const RECOVER_PC: usize = offset_of!(PerCpu, recover_pc);
/// Offset of the stack pointer at that address.
pub(crate) const RECOVER_SP: usize = offset_of!(PerCpu, recover_sp);
/// Offset of ESR_EL1 of the last expected exception, followed by FAR_EL1.
pub(crate) const ESR: usize = offset_of!(PerCpu, esr);
/// Offset of ELR_EL1 of the last expected exception.
pub(crate) const ELR: usize = offset_of!(PerCpu, elr);
// Accesses and vectors use pair instructions, and store RECOVER_PC without an offset.
const _: () = assert!(RECOVER_PC == 0 && RECOVER_SP == RECOVER_PC + 8 && offset_of!(PerCpu, far) == ESR + 8);

/// Points TPIDR_EL1 of this CPU, number `index`, to its data.
pub(crate) fn init(index: usize) {
    // SAFETY: each CPU initialises its own element, once, before it takes an exception that uses it.
    unsafe {
        let per_cpu = (&raw mut PER_CPU).cast::<PerCpu>().add(index);
        (*per_cpu).index = index as u64;
        asm!("msr tpidr_el1, {}", in(reg) per_cpu, options(nostack, preserves_flags));
    }
}

/// Returns the index of this CPU, or 0 before [`init`].
pub(crate) fn this_cpu() -> usize {
    let per_cpu: *const PerCpu;
    // SAFETY: the register is null until `init` points it to this CPU's element, which nothing else changes.
    unsafe {
        asm!("mrs {}, tpidr_el1", out(reg) per_cpu, options(nomem, nostack, preserves_flags));
        if per_cpu.is_null() { 0 } else { (*per_cpu).index as usize }
    }
}
