//! MAIR_EL1: the memory attributes to which the stage-1 descriptors refer by index.

/// Index of Device-nGnRE memory.
pub(crate) const DEVICE: u64 = 0;
/// Index of Normal memory, Write-Back, with read and write allocation.
pub(crate) const NORMAL: u64 = 1;
/// Index of Normal memory, Non-cacheable.
pub(crate) const NON_CACHEABLE: u64 = 2;
/// Value of MAIR_EL1.
pub(crate) const VALUE: u64 = (0x04 << (8 * DEVICE)) | (0xff << (8 * NORMAL)) | (0x44 << (8 * NON_CACHEABLE));
