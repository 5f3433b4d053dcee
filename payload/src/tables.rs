//! Stage-1 tables of the EL1&0 regime, lower VA range: IPAs mapped one to one, with the largest blocks that fit.
//!
//! aarch64-paging writes the descriptors, and refuses a change that violates break-before-make. The tables come from a
//! heap inside the image, so that they use no memory under test.

use core::alloc::Layout;
use core::ptr::NonNull;

use aarch64_paging::descriptor::{El1Attributes, PagingAttributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PAGE_SIZE, PageTable, Translation, VaRange};
use aarch64_paging::{MapError, Mapping};
use abi::op::Attr;
use buddy_system_allocator::Heap;
use spin::mutex::SpinMutex;

use crate::{asm, layout, mair};

/// Size of the memory for tables, in bytes. 1 TiB in 1 GiB blocks takes 3 tables, 1 GiB in 4 KiB pages 513.
const ARENA_BYTES: usize = 448 << 10;
const ROOT_LEVEL: usize = 0;

/// VA minus IPA of the Non-cacheable window: the upper half of the lower VA range, which maps the IPAs of the lower
/// half again.
pub(crate) const NON_CACHEABLE_WINDOW: u64 = 1 << 47;

#[repr(C, align(4096))]
struct Arena([u8; ARENA_BYTES]);
/// Memory for tables. Boot code does not zero it, because each table is zeroed when it is allocated.
#[unsafe(link_section = ".noinit")]
static mut ARENA: Arena = Arena([0; ARENA_BYTES]);

type Tables = Mapping<ArenaTables, El1And0>;

/// Stage-1 tables in use.
struct Stage1 {
    mapping: Tables,
    /// Number of leaf descriptors written so far.
    descriptor_writes: u64,
}

static STAGE1: SpinMutex<Option<Stage1>> = SpinMutex::new(None);

/// Memory type and permissions of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Device-nGnRE, read-write.
    Device,
    /// Cacheable, read-only.
    ReadOnly,
    /// Cacheable, read-write.
    Data,
    /// Code under test: cacheable, read-write-execute.
    Code,
    /// Code under test: Non-cacheable, read-write-execute.
    CodeNonCacheable,
    /// No mapping.
    Invalid,
}

impl Memory {
    fn attributes(self) -> El1Attributes {
        const BASE: El1Attributes = El1Attributes::VALID.union(El1Attributes::ACCESSED).union(El1Attributes::UXN);
        const NORMAL: El1Attributes =
            BASE.union(El1Attributes::ATTRIBUTE_INDEX_1).union(El1Attributes::INNER_SHAREABLE);
        const _: () = assert!(mair::DEVICE == 0 && mair::NORMAL == 1 && mair::NON_CACHEABLE == 2);
        match self {
            Self::Device => BASE | El1Attributes::ATTRIBUTE_INDEX_0 | El1Attributes::PXN,
            Self::ReadOnly => NORMAL | El1Attributes::READ_ONLY | El1Attributes::PXN,
            Self::Data => NORMAL | El1Attributes::PXN,
            Self::Code => NORMAL,
            Self::CodeNonCacheable => BASE | El1Attributes::ATTRIBUTE_INDEX_2 | El1Attributes::INNER_SHAREABLE,
            Self::Invalid => El1Attributes::empty(),
        }
    }
}

impl From<Attr> for Memory {
    fn from(attr: Attr) -> Self {
        match attr {
            Attr::Cacheable => Self::Code,
            Attr::NonCacheable => Self::CodeNonCacheable,
            Attr::Invalid => Self::Invalid,
        }
    }
}

struct ArenaTables {
    heap: Heap<32>,
    /// VA minus PA of the image.
    offset: usize,
}

impl<A: PagingAttributes> Translation<A> for ArenaTables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<A>>, PhysicalAddress) {
        let layout = Layout::new::<PageTable<A>>();
        let Ok(table) = self.heap.alloc(layout) else { panic!("no room for another stage-1 table") };
        // SAFETY: the heap has just allocated this memory, and nothing else refers to it.
        unsafe { table.write_bytes(0, layout.size()) };
        (table.cast(), PhysicalAddress(table.as_ptr() as usize - self.offset))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<A>>) {
        // SAFETY: the caller passes a table from `allocate_table`, and does not use it any more.
        unsafe { self.heap.dealloc(table.cast(), Layout::new::<PageTable<A>>()) };
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<A>> {
        match NonNull::new((pa.0 + self.offset) as *mut PageTable<A>) {
            Some(table) => table,
            None => unreachable!("tables lie inside the image"),
        }
    }
}

/// Replaces the identity map of the boot tables by empty tables. `image_pa` is the physical address of the image.
pub(crate) fn init(image_pa: usize) {
    let mut heap = Heap::empty();
    // SAFETY: nothing else uses the arena, and `init` runs once, on the boot CPU.
    unsafe { heap.init(&raw mut ARENA as usize, ARENA_BYTES) };
    let tables = ArenaTables { heap, offset: layout::image_start() - image_pa };
    let mapping = Mapping::with_asid_and_va_range(tables, 0, ROOT_LEVEL, El1And0, VaRange::Lower);
    // SAFETY: the image runs in the upper VA range, so the change unmaps nothing in use.
    unsafe { mapping.activate() };
    inval_tlb_all();
    *STAGE1.lock() = Some(Stage1 { mapping, descriptor_writes: 0 });
}

/// Makes this secondary CPU use the tables.
pub(crate) fn activate_secondary() {
    if let Some(stage1) = STAGE1.lock().as_ref() {
        // SAFETY: the image runs in the upper VA range, so the change unmaps nothing in use.
        unsafe { stage1.mapping.activate() };
    }
    inval_tlb_all();
}

/// Invalidates all TLB entries of this CPU, and so the identity map of the boot tables.
fn inval_tlb_all() {
    // SAFETY: the instructions only drop cached translations. The tables still map every address in use.
    unsafe { core::arch::asm!("dsb ishst", "tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Maps `bytes` at `ipa` one to one, rounded outwards to pages.
///
/// # Errors
///
/// The [`MapError`] of aarch64-paging, if the range exceeds 48 bits or is mapped with other attributes.
pub(crate) fn map(ipa: u64, bytes: u64, memory: Memory) -> Result<(), MapError> {
    let mut guard = STAGE1.lock();
    let Some(stage1) = guard.as_mut() else { return Ok(()) };
    stage1.map(ipa, bytes, memory, Constraints::NO_CONTIGUOUS_HINT)
}

/// Maps a range anew with break-before-make. It uses pages alone if `max_block_bytes` is the size of a page.
///
/// # Errors
///
/// Those of [`map`].
pub(crate) fn remap(ipa: u64, bytes: u64, memory: Memory, max_block_bytes: u64) -> Result<(), MapError> {
    let mut guard = STAGE1.lock();
    let Some(stage1) = guard.as_mut() else { return Ok(()) };
    let constraints = if max_block_bytes == PAGE_SIZE as u64 {
        Constraints::NO_CONTIGUOUS_HINT | Constraints::NO_BLOCK_MAPPINGS
    } else {
        Constraints::NO_CONTIGUOUS_HINT
    };
    stage1.map(ipa, bytes, Memory::Invalid, Constraints::NO_CONTIGUOUS_HINT)?;
    stage1.map(ipa, bytes, memory, constraints)
}

/// Maps a range a second time, Non-cacheable, at [`NON_CACHEABLE_WINDOW`] above its IPA. Existing mappings there stay.
///
/// # Errors
///
/// Those of [`map`].
pub(crate) fn map_non_cacheable(ipa: u64, bytes: u64) -> Result<(), MapError> {
    let mut guard = STAGE1.lock();
    let Some(stage1) = guard.as_mut() else { return Ok(()) };
    let va = (ipa + NON_CACHEABLE_WINDOW) as usize;
    let region = MemoryRegion::new(va, va + bytes as usize);
    let pa = PhysicalAddress(region.start().0 - NON_CACHEABLE_WINDOW as usize);
    let attributes = Memory::CodeNonCacheable.attributes() | El1Attributes::PXN;
    stage1.mapping.map_range(&region, pa, attributes, Constraints::NO_CONTIGUOUS_HINT)?;
    asm::dsb_ish();
    asm::isb();
    Ok(())
}

/// Cleans the tables to the PoC, from which table walks read them while SCTLR_EL1.C is clear.
pub(crate) fn clean_to_poc(dmin_line_bytes: u64) {
    let start = &raw const ARENA as u64;
    for va in (start..start + ARENA_BYTES as u64).step_by(dmin_line_bytes as usize) {
        // SAFETY: the address is in the arena, a part of the image, which stays mapped.
        unsafe { asm::dc_cvac(va) };
    }
    asm::dsb_ish();
}

/// Returns the number of leaf descriptors written so far.
pub(crate) fn descriptor_writes() -> u64 {
    STAGE1.lock().as_ref().map_or(0, |stage1| stage1.descriptor_writes)
}

impl Stage1 {
    fn map(&mut self, ipa: u64, bytes: u64, memory: Memory, constraints: Constraints) -> Result<(), MapError> {
        let region = MemoryRegion::new(ipa as usize, (ipa + bytes) as usize);
        self.mapping.map_range(&region, PhysicalAddress(region.start().0), memory.attributes(), constraints)?;
        self.mapping.walk_range(&region, &mut |_, _, _| {
            self.descriptor_writes += 1;
            Ok(())
        })
    }
}
