//! Scenarios as programs for the guest, and the events they ask of the host. Pure: nothing here touches a machine.

pub mod blocks;
pub mod chaos;
pub mod coherence;
pub mod ctr;
pub mod dside;
pub mod policy;
pub mod relax;
pub mod storm;
pub mod suite;

use crate::guest::{Backing, RegionSpec};

/// First IPA of the region under test: above everything else in the map, and aligned to any block.
pub const REGION_IPA: u64 = 4 << 30;

/// Host events, argument 0 of [`abi::OpCode::Event`].
pub mod event {
    /// A new round begins: the regions lose their stage-2 mappings, but not before the first round.
    pub const ROUND: u64 = 1;
    /// The regions lose their stage-2 mappings and keep their contents.
    pub const UNMAP: u64 = 2;
    /// The regions lose their memory, as when the runner ends while the VM lives. Nothing may touch them afterwards.
    pub const DISCARD: u64 = 3;
}

/// Returns the region under test. KVM wants slots in whole pages of any host; what the rounding adds is never touched.
pub fn region(bytes: u64, backing: Backing) -> RegionSpec {
    RegionSpec { ipa: REGION_IPA, bytes: bytes.next_multiple_of(64 << 10), backing }
}
