//! The stage-2 events that tests are run across, as host events and the places in an iteration where they are asked for.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::event::Event;

/// What happens at stage 2 between the writer and who fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Across {
    /// Nothing.
    Plain,
    /// The code is mapped by data accesses, so that the fetch takes a permission fault.
    Relax,
    /// The code is unmapped behind the write, so that the fetch takes a translation fault.
    Unmap,
    /// Dirty logging begins: the write takes a permission fault and splits the block.
    Split,
    /// Dirty logging ends: write or fetch take a permission fault, and the first makes a block of pages.
    Collapse,
    /// Behind the write, every vCPU goes on on another CPU.
    Move,
}

impl Across {
    /// Every one, the plain race first.
    pub const ALL: [Self; 6] = [Self::Plain, Self::Relax, Self::Unmap, Self::Split, Self::Collapse, Self::Move];

    /// Returns the name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Relax => "relax",
            Self::Unmap => "unmap",
            Self::Split => "split",
            Self::Collapse => "collapse",
            Self::Move => "move",
        }
    }

    /// Returns the host events before everything is made as it was.
    pub fn before(self) -> &'static [Event] {
        match self {
            Self::Plain | Self::Unmap | Self::Move => &[],
            Self::Relax => &[Event::Unmap],
            // The block comes back whole when it is touched.
            Self::Split => &[Event::DirtyLogOff, Event::Unmap],
            Self::Collapse => &[Event::DirtyLogOn],
        }
    }

    /// Returns the host events after that, before the race.
    pub fn after(self) -> &'static [Event] {
        match self {
            Self::Plain | Self::Relax | Self::Unmap | Self::Move => &[],
            Self::Split => &[Event::DirtyLogOn],
            // Switching it on anew write-protects the pages, so that the next write faults.
            Self::Collapse => &[Event::DirtyLogOff, Event::DirtyLogOn, Event::DirtyLogOff],
        }
    }

    /// Returns the host event in the race, behind the first write of code.
    pub fn during(self) -> Option<Event> {
        match self {
            Self::Plain | Self::Relax | Self::Split | Self::Collapse => None,
            Self::Unmap => Some(Event::Unmap),
            Self::Move => Some(Event::MoveVcpu),
        }
    }

    /// Returns how many host events one iteration takes.
    pub fn events(self) -> u64 {
        (self.before().len() + self.after().len() + usize::from(self.during().is_some())) as u64
    }

    /// Says whether the code has to stand in a block that KVM can split.
    pub fn needs_blocks(self) -> bool {
        matches!(self, Self::Split | Self::Collapse)
    }

    /// Returns the stage-2 fault that the event is there for, in words; `None` where it causes none of its own.
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
