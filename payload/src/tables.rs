//! Stage 1, EL1&0, lower VA range: IPAs mapped one to one, with the largest blocks that fit.
//!
//! aarch64-paging writes the descriptors and refuses what would break break-before-make; tables come from a heap inside
//! the image, so that no byte of the memory under test is used for them.

use core::alloc::Layout;
use core::ptr::NonNull;

use aarch64_paging::descriptor::{El1Attributes, PagingAttributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PAGE_SIZE, PageTable, Translation, VaRange};
use aarch64_paging::{MapError, Mapping};
use abi::op::Attr;
use buddy_system_allocator::Heap;
use spin::mutex::SpinMutex;

use crate::boot::mair;
use crate::{asm, layout};

/// Room for tables: 1 TiB in 1 GiB blocks takes 3, a 1 GiB region in 4 KiB pages 513.
const ARENA_BYTES: usize = 448 << 10;
const ROOT_LEVEL: usize = 0;

/// VA minus IPA of the Non-cacheable window: the upper half of the lower VA range shows the lower half's IPAs again.
pub const NON_CACHEABLE_WINDOW: u64 = 1 << 47;

#[repr(C, align(4096))]
struct Arena([u8; ARENA_BYTES]);
/// Not zeroed at boot: each table is, when it is allocated.
#[unsafe(link_section = ".noinit")]
static mut ARENA: Arena = Arena([0; ARENA_BYTES]);

type Tables = Mapping<ArenaTables, El1And0>;

/// Stage-1 tables and what mapping cost.
pub struct Stage1 {
    mapping: Tables,
    /// Leaf descriptors written so far.
    pub descriptor_writes: u64,
}

static STAGE1: SpinMutex<Option<Stage1>> = SpinMutex::new(None);

/// What a range is mapped as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Device-nGnRE, read-write.
    Device,
    /// Cacheable, read-only.
    ReadOnly,
    /// Cacheable, read-write.
    Data,
    /// Code under test: cacheable, read-write-execute.
    Code,
    /// As `Code`, Non-cacheable.
    CodeNonCacheable,
    /// Nothing.
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
        // SAFETY: the heap just gave this table's worth of the arena to us alone.
        unsafe { table.write_bytes(0, layout.size()) };
        (table.cast(), PhysicalAddress(table.as_ptr() as usize - self.offset))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<A>>) {
        // SAFETY: the trait's caller hands back what `allocate_table` gave, once.
        unsafe { self.heap.dealloc(table.cast(), Layout::new::<PageTable<A>>()) };
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<A>> {
        match NonNull::new((pa.0 + self.offset) as *mut PageTable<A>) {
            Some(table) => table,
            None => unreachable!("tables lie inside the image"),
        }
    }
}

/// Replaces the boot CPU's identity map by an empty stage 1; `image_pa` is where the image was loaded.
pub fn init(image_pa: usize) {
    let mut heap = Heap::empty();
    // SAFETY: the arena is used for nothing else, and `init` runs once, on the boot CPU.
    unsafe { heap.init(&raw mut ARENA as usize, ARENA_BYTES) };
    let tables = ArenaTables { heap, offset: layout::image_start() - image_pa };
    let mapping = Mapping::with_asid_and_va_range(tables, 0, ROOT_LEVEL, El1And0, VaRange::Lower);
    // SAFETY: this code runs in the upper VA range, so nothing in use is unmapped.
    unsafe { mapping.activate() };
    inval_tlb_all();
    *STAGE1.lock() = Some(Stage1 { mapping, descriptor_writes: 0 });
}

/// Makes this secondary CPU use the tables.
pub fn activate_secondary() {
    if let Some(stage1) = STAGE1.lock().as_ref() {
        // SAFETY: as in `init`.
        unsafe { stage1.mapping.activate() };
    }
    inval_tlb_all();
}

/// Forgets the boot tables' identity map.
fn inval_tlb_all() {
    // SAFETY: only drops cached translations; every address in use stays mapped by the tables.
    unsafe { core::arch::asm!("dsb ishst", "tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Maps `bytes` at `ipa`, rounded outwards to pages, one to one.
///
/// # Errors
///
/// [`MapError`] of aarch64-paging: out of the 48-bit range, or live with other attributes.
pub fn map(ipa: u64, bytes: u64, memory: Memory) -> Result<(), MapError> {
    let mut guard = STAGE1.lock();
    let Some(stage1) = guard.as_mut() else { return Ok(()) };
    stage1.map(ipa, bytes, memory, Constraints::NO_CONTIGUOUS_HINT)
}

/// Maps a range anew with break-before-make, in pages if `max_block_bytes` asks for pages.
///
/// # Errors
///
/// As [`map`].
pub fn remap(ipa: u64, bytes: u64, memory: Memory, max_block_bytes: u64) -> Result<(), MapError> {
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

/// Maps a range a second time, Non-cacheable, at [`NON_CACHEABLE_WINDOW`] above its IPA; what is mapped there already
/// stays.
///
/// # Errors
///
/// As [`map`].
pub fn map_non_cacheable(ipa: u64, bytes: u64) -> Result<(), MapError> {
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

/// Cleans the tables to the PoC, where a table walk looks while SCTLR_EL1.C is clear.
pub fn clean_to_poc(dmin_line_bytes: u64) {
    let start = &raw const ARENA as u64;
    for va in (start..start + ARENA_BYTES as u64).step_by(dmin_line_bytes as usize) {
        // SAFETY: the arena is part of the image, which stays mapped.
        unsafe { asm::dc_cvac(va) };
    }
    asm::dsb_ish();
}

/// Returns how many leaf descriptors have been written so far.
pub fn descriptor_writes() -> u64 {
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
