//! Stage-2 events that happen in each iteration of a race, and the host events that cause them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::event::Event;

/// Stage-2 event in each iteration, between the writer and the thread that fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RaceEvent {
    /// None: a plain race.
    Plain,
    /// Data accesses map the code before the race, so that the fetch takes a permission fault.
    Relax,
    /// The code is unmapped after the write, so that the fetch takes a translation fault.
    Unmap,
    /// Dirty logging begins: the write takes a permission fault and splits the block.
    Split,
    /// Dirty logging ends: the write or the fetch takes a permission fault, and the first of them makes a block of
    /// pages.
    Collapse,
    /// Every vCPU moves to another CPU after the write.
    Move,
}

impl RaceEvent {
    /// All events, the plain race first.
    pub const ALL: [Self; 6] = [Self::Plain, Self::Relax, Self::Unmap, Self::Split, Self::Collapse, Self::Move];

    /// Returns the name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Relax => "relax",
            Self::Unmap => "unmap",
            Self::Split => "split",
            Self::Collapse => "collapse",
            Self::Move => "move",
        }
    }

    /// Returns the host events before the initial state is restored.
    pub(crate) fn before_init(self) -> &'static [Event] {
        match self {
            Self::Plain | Self::Unmap | Self::Move => &[],
            Self::Relax => &[Event::Unmap],
            // The next access maps the block as a whole again.
            Self::Split => &[Event::DirtyLogOff, Event::Unmap],
            Self::Collapse => &[Event::DirtyLogOn],
        }
    }

    /// Returns the host events after the initial state is restored and before the race.
    pub(crate) fn before_race(self) -> &'static [Event] {
        match self {
            Self::Plain | Self::Relax | Self::Unmap | Self::Move => &[],
            Self::Split => &[Event::DirtyLogOn],
            // Dirty logging that begins again write-protects the pages, so that the next write faults.
            Self::Collapse => &[Event::DirtyLogOff, Event::DirtyLogOn, Event::DirtyLogOff],
        }
    }

    /// Returns the host event in the race, after the first write of code.
    pub(crate) fn during_race(self) -> Option<Event> {
        match self {
            Self::Plain | Self::Relax | Self::Split | Self::Collapse => None,
            Self::Unmap => Some(Event::Unmap),
            Self::Move => Some(Event::MoveVcpu),
        }
    }

    /// Returns the number of host events in one iteration.
    pub fn host_events(self) -> u64 {
        (self.before_init().len() + self.before_race().len() + usize::from(self.during_race().is_some())) as u64
    }

    /// Returns whether the code has to be in a block that KVM can split.
    pub fn needs_blocks(self) -> bool {
        matches!(self, Self::Split | Self::Collapse)
    }

    /// Returns the stage-2 fault that the event is meant to cause, in words. `None` means that it is meant to cause
    /// none.
    pub fn fault(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Move => None,
            Self::Relax => Some("fetch permission"),
            Self::Unmap => Some("fetch translation"),
            Self::Split => Some("data permission on blocks"),
            Self::Collapse => Some("permission on pages"),
        }
    }
}
