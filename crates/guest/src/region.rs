//! The region under test: its place in the guest's IPA space, and the generation of its code.

use crate::spec::{Backing, RegionSpec};

/// First IPA of the region under test. It lies above everything else in the IPA map and is aligned to any block size.
pub const REGION_IPA: u64 = 4 << 30;

/// Generation of every slot in a scenario that writes its code only once.
pub const GENERATION: u64 = 1;

/// Returns the region under test with at least this many bytes.
///
/// The size is rounded up to 64 KiB, because KVM needs memslots of whole host pages. No guest touches the added bytes.
pub fn region(bytes: u64, backing: Backing) -> RegionSpec {
    RegionSpec { ipa: REGION_IPA, bytes: bytes.next_multiple_of(64 << 10), backing }
}
