//! Boot: from the first instruction to Rust code, at EL1 and at the linked address, with caches and a stack.
//!
//! The boot CPU is entered by the arm64 boot protocol (kernel Documentation/arch/arm64/booting.rst): the MMU is off,
//! and x0 is the address of the device tree. PSCI CPU_ON enters every other CPU, with its index in x0.
//!
//! The only stores before the MMU is on are those that fill the boot tables. They bypass the caches, so the code
//! invalidates the cache lines of the tables before and after them.

use core::arch::naked_asm;

use crate::vectors::vectors;
use crate::{guest, mair};

/// Size of the stack of each CPU, in bytes.
const STACK_BYTES: usize = 16 << 10;

#[repr(C, align(4096))]
struct Table([u64; 512]);

/// Boot tables: levels 1, 2 and 3 for the image in TTBR1, then levels 0, 1 and 2 for an identity map of the 2 MiB block
/// of the image in TTBR0. The code refers to them by symbols of the linker script.
#[used]
#[unsafe(link_section = ".boot_tables")]
static mut BOOT_TABLES: [Table; 6] = [const { Table([0; 512]) }; 6];

#[repr(C, align(16))]
struct Stacks([[u8; STACK_BYTES]; abi::channel::MAX_VCPUS]);
/// Stacks, by CPU. Boot code does not zero them, because a stack holds nothing before its first use.
#[unsafe(link_section = ".noinit")]
static mut STACKS: Stacks = Stacks([[0; STACK_BYTES]; abi::channel::MAX_VCPUS]);

/// Fields of TCR_EL1. Arm ARM "TCR_EL1, Translation Control Register (EL1)". IPS comes from ID_AA64MMFR0_EL1.
mod tcr {
    const T0SZ_48_BIT: u64 = 16;
    const T1SZ_39_BIT: u64 = 25 << 16;
    const WRITE_BACK_0: u64 = (1 << 8) | (1 << 10);
    const WRITE_BACK_1: u64 = (1 << 24) | (1 << 26);
    const INNER_SHAREABLE: u64 = (3 << 12) | (3 << 28);
    const TG1_4K: u64 = 2 << 30;
    pub(super) const BASE: u64 = T0SZ_48_BIT | T1SZ_39_BIT | WRITE_BACK_0 | WRITE_BACK_1 | INNER_SHAREABLE | TG1_4K;
    pub(super) const IPS_SHIFT: u64 = 32;
    /// 48 bits, the largest size that the 4 KiB granule supports without LPA2.
    pub(super) const IPS_MAX: u64 = 5;
}

/// Fields of SCTLR_EL1. Arm ARM "SCTLR_EL1, System Control Register (EL1)".
mod sctlr {
    /// Bits that are RES1 in Armv8.0: LSMAOE, nTLSMD, SPAN, EIS, TSCXT, EOS.
    pub(super) const RES1: u64 = (1 << 29) | (1 << 28) | (1 << 23) | (1 << 22) | (1 << 20) | (1 << 11);
    const M: u64 = 1 << 0;
    const C: u64 = 1 << 2;
    const SA: u64 = 1 << 3;
    const I: u64 = 1 << 12;
    pub(super) const MMU_ON: u64 = RES1 | M | C | SA | I;
}

/// Descriptors of the boot tables. Arm ARM "VMSAv8-64 descriptor formats".
mod descriptor {
    use crate::mair;

    pub(super) const TABLE: u64 = 0b11;
    const BLOCK: u64 = 0b01;
    const PAGE: u64 = 0b11;
    const ACCESSED: u64 = 1 << 10;
    const INNER_SHAREABLE: u64 = 3 << 8;
    const READ_ONLY: u64 = 1 << 7;
    const PXN: u64 = 1 << 53;
    const UXN: u64 = 1 << 54;
    const NORMAL: u64 = (mair::NORMAL << 2) | ACCESSED | INNER_SHAREABLE | UXN;
    pub(super) const CODE_BLOCK: u64 = BLOCK | NORMAL | READ_ONLY;
    pub(super) const CODE: u64 = PAGE | NORMAL | READ_ONLY;
    pub(super) const READ_ONLY_DATA: u64 = PAGE | NORMAL | READ_ONLY | PXN;
    pub(super) const DATA: u64 = PAGE | NORMAL | PXN;
}

/// Header of the arm64 Image. Kernel Documentation/arch/arm64/booting.rst, "Call the kernel image".
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.header")]
extern "C" fn _header() {
    // The flags mean: little-endian, 4 KiB pages, anywhere in memory.
    naked_asm!(
        "b {start}",
        ".long 0",
        ".quad 0",
        ".quad image_bytes",
        ".quad {flags}",
        ".quad 0, 0, 0",
        ".ascii \"ARM\\x64\"",
        ".long 0",
        start = sym start,
        flags = const (1 << 1) | (1 << 3),
    )
}

/// Entry of the boot CPU.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn start() {
    naked_asm!(
        "mrs x28, cntvct_el0",          // counter at the first instruction
        "mov x19, x0",                  // device tree
        "adr x26, {start_secondary}",   // physical address, because the MMU is off
        "bl {to_el1}",
        "bl {fill_tables}",
        "bl {mmu_on}",
        // The CPU is now at the linked address. Zero the memory that the image file does not contain.
        "adrp x0, bss_start",
        "add x0, x0, :lo12:bss_start",
        "adrp x1, bss_end",
        "2: stp xzr, xzr, [x0], #16",
        "cmp x0, x1",
        "b.lo 2b",
        "mov x0, xzr",
        "bl {set_stack}",
        "mov x0, x19",
        "mov x1, x27",                  // physical address of the image
        "mov x2, x28",
        "mov x3, x26",
        "b {main}",
        to_el1 = sym to_el1,
        fill_tables = sym fill_tables,
        mmu_on = sym mmu_on,
        set_stack = sym set_stack,
        start_secondary = sym start_secondary,
        main = sym guest::main,
    )
}

/// Entry of every other CPU. x0 is its index.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn start_secondary() {
    naked_asm!(
        "mov x19, x0",
        "bl {to_el1}",
        "bl {mmu_on}",
        "mov x0, x19",
        "bl {set_stack}",
        "mov x0, x19",
        "b {main}",
        to_el1 = sym to_el1,
        mmu_on = sym mmu_on,
        set_stack = sym set_stack,
        main = sym guest::main_secondary,
    )
}

/// Masks interrupts, turns the MMU off and returns at EL1. A CPU that was entered at EL2 drops to EL1, without traps to
/// EL2.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn to_el1() {
    naked_asm!(
        "msr daifset, #0xf",
        "ldr x1, ={sctlr}",
        "mrs x0, CurrentEL",
        "cmp x0, #(2 << 2)",
        "b.ne 1f",
        "mov x0, #(1 << 31)",           // HCR_EL2.RW: EL1 is AArch64; all other bits are 0, E2H too
        "msr hcr_el2, x0",
        "isb",
        "mov x0, #3",                   // CNTHCTL_EL2: EL1 may access the counters and timers
        "msr cnthctl_el2, x0",
        "msr cntvoff_el2, xzr",
        "mov x0, #0x33ff",              // CPTR_EL2: RES1, no traps
        "msr cptr_el2, x0",
        "msr hstr_el2, xzr",
        "msr vttbr_el2, xzr",
        "mrs x0, midr_el1",
        "msr vpidr_el2, x0",
        "mrs x0, mpidr_el1",
        "msr vmpidr_el2, x0",
        "msr sctlr_el1, x1",
        "mov x0, #0x3c5",               // SPSR_EL2: EL1h, DAIF masked
        "msr spsr_el2, x0",
        "msr elr_el2, x30",
        "eret",
        "1: msr sctlr_el1, x1",
        "isb",
        "ret",
        sctlr = const sctlr::RES1,
    )
}

/// Fills the boot tables for the physical address of the image. Returns that address in x27.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn fill_tables() {
    naked_asm!(
        "mov x20, x30",
        "bl {inval_tables}",
        "adrp x0, boot_tables_start",
        "adrp x1, boot_tables_end",
        "1: stp xzr, xzr, [x0], #16",
        "cmp x0, x1",
        "b.lo 1b",
        "adrp x0, boot_tables_start",
        "adrp x27, image_start",
        // TTBR1: level 1 entry 0 → level 2 entry 0 → level 3.
        "add x1, x0, #0x1000",
        "orr x2, x1, #{table}",
        "str x2, [x0]",
        "add x3, x0, #0x2000",
        "orr x2, x3, #{table}",
        "str x2, [x1]",
        // Write a page descriptor for each page of the image, according to its section.
        "adrp x4, text_end",
        "adrp x5, rodata_end",
        "adrp x6, image_end",
        "mov x7, x27",
        "ldr x8, ={code}",
        "ldr x9, ={read_only}",
        "ldr x10, ={data}",
        "2: cmp x7, x5",
        "csel x11, x9, x10, lo",
        "cmp x7, x4",
        "csel x11, x8, x11, lo",
        "orr x11, x11, x7",
        "str x11, [x3], #8",
        "add x7, x7, #0x1000",
        "cmp x7, x6",
        "b.lo 2b",
        // TTBR0: map the 2 MiB block of the image one to one.
        "add x1, x0, #0x3000",
        "add x2, x0, #0x4000",
        "add x3, x0, #0x5000",
        "ubfx x4, x27, #39, #9",
        "orr x5, x2, #{table}",
        "str x5, [x1, x4, lsl #3]",
        "ubfx x4, x27, #30, #9",
        "orr x5, x3, #{table}",
        "str x5, [x2, x4, lsl #3]",
        "ubfx x4, x27, #21, #9",
        "ldr x5, ={code_block}",
        "orr x5, x5, x27",
        "str x5, [x3, x4, lsl #3]",
        "bl {inval_tables}",
        "ret x20",
        inval_tables = sym inval_tables,
        table = const descriptor::TABLE,
        code = const descriptor::CODE,
        read_only = const descriptor::READ_ONLY_DATA,
        data = const descriptor::DATA,
        code_block = const descriptor::CODE_BLOCK,
    )
}

/// Invalidates the D-cache lines of the boot tables, so that no old line hides or overwrites a store that bypassed the
/// cache.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn inval_tables() {
    naked_asm!(
        "dmb sy",
        "mrs x2, ctr_el0",
        "ubfx x2, x2, #16, #4",
        "mov x3, #4",
        "lsl x2, x3, x2",
        "adrp x0, boot_tables_start",
        "adrp x1, boot_tables_end",
        "1: dc ivac, x0",
        "add x0, x0, x2",
        "cmp x0, x1",
        "b.lo 1b",
        "dsb sy",
        "ret",
    )
}

/// Turns the MMU and the caches on with the boot tables, and returns to the linked address of its caller.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn mmu_on() {
    naked_asm!(
        "adrp x27, image_start",
        "ldr x0, ={mair}",
        "msr mair_el1, x0",
        "ldr x0, ={tcr}",
        "mrs x1, id_aa64mmfr0_el1",
        "and x1, x1, #0xf",
        "mov x2, #{ips_max}",
        "cmp x1, x2",
        "csel x1, x1, x2, lo",
        "orr x0, x0, x1, lsl #{ips_shift}",
        "msr tcr_el1, x0",
        "adrp x0, boot_tables_start",
        "msr ttbr1_el1, x0",
        "add x0, x0, #0x3000",
        "msr ttbr0_el1, x0",
        "mov x0, #(3 << 20)",           // CPACR_EL1.FPEN: no traps, because fetched code may use FP
        "msr cpacr_el1, x0",
        "isb",
        "tlbi vmalle1",
        "dsb nsh",
        "ic iallu",
        "dsb nsh",
        "isb",
        "ldr x0, ={sctlr}",
        "msr sctlr_el1, x0",
        "isb",
        // Both addresses of this code are now mapped. Continue at the linked address.
        "ldr x0, =image_start",
        "sub x1, x30, x27",
        "add x30, x0, x1",
        "adr x1, {vectors}",
        "sub x1, x1, x27",
        "add x1, x0, x1",
        "msr vbar_el1, x1",
        "isb",
        "ret",
        mair = const mair::VALUE,
        tcr = const tcr::BASE,
        ips_max = const tcr::IPS_MAX,
        ips_shift = const tcr::IPS_SHIFT,
        sctlr = const sctlr::MMU_ON,
        vectors = sym vectors,
    )
}

/// Sets SP to the top of the stack of the CPU with index x0.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn set_stack() {
    naked_asm!(
        "adrp x1, {stacks}",
        "add x1, x1, :lo12:{stacks}",
        "mov x2, #{bytes}",
        "madd x1, x0, x2, x1",
        "add x1, x1, x2",
        "msr spsel, #1",
        "mov sp, x1",
        "mov x29, xzr",
        "ret",
        stacks = sym STACKS,
        bytes = const STACK_BYTES,
    )
}
