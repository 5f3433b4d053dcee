//! The region under test: its place in the guest's address space, and the events that scenarios ask for by number.

use crate::run::{Backing, RegionSpec};

/// First IPA of the region under test: above everything else in the map, and aligned to any block.
pub const REGION_IPA: u64 = 4 << 30;

/// Generation of every slot in scenarios that write code once; the token names it.
pub const GENERATION: u64 = 1;

/// Numbers of the host events that time a whole region, argument 0 of [`abi::OpCode::Event`].
pub mod event {
    /// Begins a new round: the regions lose their stage-2 mappings, except before the first round.
    pub const ROUND: u64 = 1;
    /// Takes the stage-2 mappings of the regions away and keeps their contents.
    pub const UNMAP: u64 = 2;
    /// Takes the memory of the regions away, as at the end of a runner whose VM still lives. Nothing may touch them
    /// afterwards.
    pub const DISCARD: u64 = 3;
}

/// Returns the region under test. KVM needs slots in whole pages of any host; no guest touches what the rounding adds.
pub fn region(bytes: u64, backing: Backing) -> RegionSpec {
    RegionSpec { ipa: REGION_IPA, bytes: bytes.next_multiple_of(64 << 10), backing }
}
