//! Host events: what a host does to a guest's memory and vCPUs while the guest waits for it.
//!
//! Here is what each does to contents and mappings, which is all that the oracle needs to know. How it is done is the
//! business of `vmm`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One host event. It acts on the whole region under test; those that write put a new generation into the slots of a
/// span, and every other slot of the program keeps its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u64)]
pub enum Event {
    /// The host writes code behind the guest's back; stage 2 stays as it is.
    Rewrite = 16,
    /// mprotect to nothing and back: the MMU notifier unmaps stage 2.
    Unmap = 17,
    /// mprotect to read-only and back.
    ProtectReadOnly = 18,
    /// MADV_DONTNEED; the host writes the contents anew before the guest faults.
    Discard = 19,
    /// mremap(MREMAP_FIXED) of a prepared region onto the slot's host VA.
    Remap = 20,
    /// move_pages to another NUMA node.
    Migrate = 21,
    /// The memslot is deleted and added again.
    SlotDelete = 22,
    /// The memslot is moved to another IPA and back.
    SlotMove = 23,
    /// Dirty logging is switched on: KVM write-protects, and splits blocks on write faults.
    DirtyLogOn = 24,
    /// Dirty logging is switched off: the next faults collapse pages into blocks.
    DirtyLogOff = 25,
    /// fork, then the host writes each page: copy-on-write is broken by the host.
    CopyOnWrite = 26,
    /// fork; the child lives on, so that the guest's own next write breaks copy-on-write.
    Fork = 27,
    /// MADV_PAGEOUT: swapped out, and in again at the next fault.
    Swap = 28,
    /// The vCPU that asks goes on on another CPU.
    MoveVcpu = 29,
    /// A second VM on the same frames writes code, with its own maintenance.
    SecondVm = 30,
    /// The contents are dropped, and served page by page through userfaultfd as the guest faults.
    Userfault = 31,
}

/// What an event does to the slots of its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing.
    Kept,
    /// The host writes a new generation.
    Written,
}

/// What an event does to the frames and the stage-2 mappings of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mappings {
    /// Nothing: what the guest could reach it still reaches without a fault.
    Kept,
    /// Unmapped, same frames.
    Unmapped,
    /// Unmapped, and every slot's contents copied into other frames, or the same ones, by the host.
    Copied,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 16] = [
        Self::Rewrite,
        Self::Unmap,
        Self::ProtectReadOnly,
        Self::Discard,
        Self::Remap,
        Self::Migrate,
        Self::SlotDelete,
        Self::SlotMove,
        Self::DirtyLogOn,
        Self::DirtyLogOff,
        Self::CopyOnWrite,
        Self::Fork,
        Self::Swap,
        Self::MoveVcpu,
        Self::SecondVm,
        Self::Userfault,
    ];

    /// Returns the event a number stands for, if any.
    pub fn from_raw(raw: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|event| *event as u64 == raw)
    }

    /// Returns the name used in plans and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rewrite => "rewrite",
            Self::Unmap => "unmap",
            Self::ProtectReadOnly => "protect-read-only",
            Self::Discard => "discard",
            Self::Remap => "remap",
            Self::Migrate => "migrate",
            Self::SlotDelete => "slot-delete",
            Self::SlotMove => "slot-move",
            Self::DirtyLogOn => "dirty-log-on",
            Self::DirtyLogOff => "dirty-log-off",
            Self::CopyOnWrite => "copy-on-write",
            Self::Fork => "fork",
            Self::Swap => "swap",
            Self::MoveVcpu => "move-vcpu",
            Self::SecondVm => "second-vm",
            Self::Userfault => "userfault",
        }
    }

    /// Returns what happens to the contents of the event's span.
    pub const fn contents(self) -> Contents {
        match self {
            Self::Rewrite | Self::Discard | Self::Remap | Self::CopyOnWrite | Self::SecondVm | Self::Userfault => {
                Contents::Written
            }
            _ => Contents::Kept,
        }
    }

    /// Returns what happens to the region's mappings.
    pub const fn mappings(self) -> Mappings {
        match self {
            Self::Rewrite | Self::DirtyLogOn | Self::DirtyLogOff | Self::MoveVcpu | Self::SecondVm => Mappings::Kept,
            Self::Unmap | Self::ProtectReadOnly | Self::SlotDelete | Self::SlotMove | Self::Fork => Mappings::Unmapped,
            Self::Discard | Self::Remap | Self::Migrate | Self::CopyOnWrite | Self::Swap | Self::Userfault => {
                Mappings::Copied
            }
        }
    }

    /// Says whether other vCPUs may fetch and load while it happens: it neither changes contents, even for a moment, nor
    /// takes the memslot away.
    pub const fn can_be_raced(self) -> bool {
        matches!(
            self,
            Self::Unmap
                | Self::ProtectReadOnly
                | Self::Migrate
                | Self::DirtyLogOn
                | Self::DirtyLogOff
                | Self::Swap
                | Self::MoveVcpu
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for event in Event::ALL {
            assert_eq!(Event::from_raw(event as u64), Some(event));
        }
        assert_eq!(Event::from_raw(0), None);
    }

    #[test]
    fn what_is_raced_keeps_its_contents() {
        assert!(Event::ALL.into_iter().filter(|event| event.can_be_raced()).all(|e| e.contents() == Contents::Kept));
    }
}
