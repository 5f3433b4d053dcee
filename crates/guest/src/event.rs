//! Host events: actions of the host on a guest's memory or vCPUs that a program asks for.
//!
//! An op [`OpCode::Event`] names an event by a number in `args[0]`, and the vCPU waits until the host has done it. Two
//! kinds of event share these numbers:
//!
//! - [`RoundEvent`], numbers below 16, divides a *measurement* into rounds. The scenario carries it out, measures its
//!   time, and starts and stops the trace with it. The oracle does not know it.
//! - [`Event`], numbers from 16 on, is the *subject* of a test: a way in which a host can change contents or mappings
//!   under a guest. The VMM carries it out, the oracle predicts its effects, and results name it.
//!
//! This module defines the effects of an event on contents and mappings, which is all that the oracle needs. The system
//! calls behind an event belong to `vmm`.

use abi::{Op, OpCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Host event that divides a measurement into rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum RoundEvent {
    /// Begins a round. Before the first round, the host writes the code that the scenario needs. Before each later
    /// round, it removes the stage-2 mappings of the region and keeps its contents.
    Begin = 1,
    /// Removes the stage-2 mappings of the region and keeps its contents.
    Unmap = 2,
    /// Removes the memory of the region for good while the VM lives, as the exit of a VMM does. No vCPU may touch the
    /// region afterwards.
    Discard = 3,
}

impl RoundEvent {
    /// All round events.
    pub const ALL: [Self; 3] = [Self::Begin, Self::Unmap, Self::Discard];

    /// Returns the round event with this number, if there is one.
    pub fn from_raw(raw: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|event| *event as u64 == raw)
    }

    /// Returns the name for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin-round",
            Self::Unmap => "unmap",
            Self::Discard => "discard",
        }
    }

    /// Returns the op that asks for the event.
    pub const fn op(self) -> Op {
        Op::plain(OpCode::Event, [self as u64, 0, 0, 0])
    }
}

/// Host event whose effects a test examines.
///
/// An event acts on the whole region under test. An event that writes puts a new generation into the slots of its span;
/// all other slots of the program keep their contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u64)]
pub enum Event {
    /// The host writes code through its own mapping. The stage-2 mappings stay.
    Rewrite = 16,
    /// mprotect to PROT_NONE and back: the MMU notifier removes the stage-2 mappings.
    Unmap = 17,
    /// mprotect to read-only and back.
    ProtectReadOnly = 18,
    /// MADV_DONTNEED. The host writes the contents again before the guest faults.
    Discard = 19,
    /// mremap(MREMAP_FIXED) of a prepared region onto the host VA of the memslot.
    Remap = 20,
    /// move_pages to another NUMA node.
    Migrate = 21,
    /// Deletes the memslot and adds it again.
    SlotDelete = 22,
    /// Moves the memslot to another IPA and back.
    SlotMove = 23,
    /// Enables dirty logging: KVM write-protects the region and splits blocks at write faults.
    DirtyLogOn = 24,
    /// Disables dirty logging: the next faults collapse pages into blocks.
    DirtyLogOff = 25,
    /// fork, then the host writes each page and so breaks copy-on-write.
    CopyOnWrite = 26,
    /// fork. The child lives on, so the guest's own next write breaks copy-on-write.
    Fork = 27,
    /// MADV_PAGEOUT: the kernel swaps the pages out, and swaps them in at the next fault.
    Swap = 28,
    /// Moves the vCPU that asks to another CPU.
    MoveVcpu = 29,
    /// A second VM on the same frames writes code and does its own maintenance.
    SecondVm = 30,
    /// The host drops the contents and serves them page by page through userfaultfd when the guest faults.
    Userfault = 31,
}

/// Effect of an event on the slots of its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The slots keep their contents.
    Kept,
    /// The host writes a new generation.
    Written,
}

/// Effect of an event on the frames and the stage-2 mappings of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mappings {
    /// The mappings stay: the guest reaches all that it reached before without a fault.
    Kept,
    /// The host removes the mappings and keeps the frames.
    Unmapped,
    /// The host removes the mappings and copies the contents of every slot, into other frames or into the same ones.
    Copied,
}

impl Event {
    /// All events.
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

    /// Returns the event with this number, if there is one.
    pub fn from_raw(raw: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|event| *event as u64 == raw)
    }

    /// Returns the name that plans and results use.
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

    /// Returns the effect on the contents of the event's span.
    pub const fn contents(self) -> Contents {
        match self {
            Self::Rewrite | Self::Discard | Self::Remap | Self::CopyOnWrite | Self::SecondVm | Self::Userfault => {
                Contents::Written
            }
            _ => Contents::Kept,
        }
    }

    /// Returns the effect on the frames and mappings of the region.
    pub const fn mappings(self) -> Mappings {
        match self {
            Self::Rewrite | Self::DirtyLogOn | Self::DirtyLogOff | Self::MoveVcpu | Self::SecondVm => Mappings::Kept,
            Self::Unmap | Self::ProtectReadOnly | Self::SlotDelete | Self::SlotMove | Self::Fork => Mappings::Unmapped,
            Self::Discard | Self::Remap | Self::Migrate | Self::CopyOnWrite | Self::Swap | Self::Userfault => {
                Mappings::Copied
            }
        }
    }

    /// Returns whether other vCPUs may fetch and load during the event. They may if the event changes no contents, even
    /// for a moment, and does not remove the memslot.
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
        for event in RoundEvent::ALL {
            assert_eq!(RoundEvent::from_raw(event as u64), Some(event));
        }
        assert_eq!((Event::from_raw(0), RoundEvent::from_raw(0)), (None, None));
    }

    #[test]
    fn no_number_means_two_events() {
        assert!(Event::ALL.into_iter().all(|event| RoundEvent::from_raw(event as u64).is_none()));
    }

    #[test]
    fn an_event_that_can_be_raced_keeps_contents() {
        assert!(Event::ALL.into_iter().filter(|event| event.can_be_raced()).all(|e| e.contents() == Contents::Kept));
    }
}
