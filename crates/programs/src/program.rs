//! What is run and judged: one list of steps, each by one vCPU, in an order that meetings fix.
//!
//! Between two meetings the steps of different vCPUs are not ordered. A program is legal ([`crate::legal`]) if no slot
//! that one vCPU, or a host event that it asks for, changes between two meetings is touched by another one there:
//! everything else would be concurrent modification, which the architecture leaves unpredictable for these instructions
//! (Arm ARM "Concurrent modification and execution of instructions").

use abi::op::Barrier;
use serde::{Deserialize, Serialize};

use guest::event::{Contents, Event};

/// Code slots at even distances, one per cache line at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Offset of the first slot in the region, in bytes.
    pub start: u64,
    /// Distance of two slots in bytes; at least one cache line.
    pub stride: u64,
    /// Number of slots.
    pub count: u64,
}

impl Span {
    /// Returns the offsets of the slots.
    pub fn offsets(self) -> impl Iterator<Item = u64> {
        (0..self.count).map(move |n| self.start + n * self.stride)
    }

    /// Returns the bytes from the first slot to the end of the last one's stride.
    pub fn bytes(self) -> u64 {
        self.stride * self.count
    }
}

/// How far a D-cache clean goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clean {
    /// `DC CVAU`.
    Pou,
    /// `DC CVAC`.
    Poc,
    /// `DC CIVAC`.
    PocInvalidate,
}

/// How a load looks at memory.
///
/// Stage 2 with FWB turns all of them into cacheable ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// Through the data caches.
    Cacheable,
    /// Through a Non-cacheable mapping: what the PoC holds.
    NonCacheable,
    /// With SCTLR_EL1.C cleared: what the PoC holds.
    CachesOff,
}

/// Names of [`Barrier`] in files.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Barrier", rename_all = "kebab-case")]
enum BarrierName {
    DmbIsh,
    DsbIsh,
    Isb,
    DmbIshst,
    DmbIshld,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Act {
    /// Writes slots of a generation, by cacheable stores.
    Write {
        /// Where.
        #[serde(flatten)]
        span: Span,
        /// What the slots return besides their IPA.
        generation: u16,
    },
    /// Cleans the D-cache by line.
    CleanD {
        /// Where.
        #[serde(flatten)]
        span: Span,
        /// How far.
        to: Clean,
    },
    /// Invalidates the I-cache by line.
    InvalI {
        /// Where.
        #[serde(flatten)]
        span: Span,
    },
    /// Invalidates the whole I-cache.
    InvalIAll,
    /// A barrier.
    Barrier {
        /// Which.
        #[serde(with = "BarrierName")]
        barrier: Barrier,
    },
    /// Calls slots. As the guest times what it does, `DSB ISH; ISB` stand before and after each; so they do for
    /// each slot of [`Act::Write`] and [`Act::Load`].
    Fetch {
        /// Where.
        #[serde(flatten)]
        span: Span,
    },
    /// Loads the first doubleword of slots.
    Load {
        /// Where.
        #[serde(flatten)]
        span: Span,
        /// How.
        look: Look,
    },
    /// Has the host do something, and goes on when it is done.
    Event {
        /// What.
        event: Event,
        /// Where, for events that write.
        #[serde(flatten)]
        span: Span,
        /// What those write.
        generation: u16,
    },
    /// All vCPUs meet here.
    Meet,
}

/// One step of one vCPU; of all of them where they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which vCPU; 0 for [`Act::Meet`].
    #[serde(default)]
    pub vcpu: usize,
    /// What it does.
    #[serde(flatten)]
    pub act: Act,
}

/// A program. Before its first step every slot holds generation 0, coherent for all vCPUs on all sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Number of vCPUs.
    pub vcpus: usize,
    /// The steps.
    #[serde(rename = "op", default)]
    pub steps: Vec<Step>,
}

impl Act {
    /// Returns the slots that this reads, writes or maintains by line, if it names any.
    pub fn span(&self) -> Option<Span> {
        match *self {
            Self::Write { span, .. }
            | Self::CleanD { span, .. }
            | Self::InvalI { span }
            | Self::Fetch { span }
            | Self::Load { span, .. } => Some(span),
            Self::Event { event, span, .. } => (event.contents() == Contents::Written).then_some(span),
            Self::InvalIAll | Self::Barrier { .. } | Self::Meet => None,
        }
    }

    /// Returns the slots that get a new generation, and which.
    pub fn writes(&self) -> Option<(Span, u16)> {
        match *self {
            Self::Write { span, generation } => Some((span, generation)),
            Self::Event { event, span, generation } if event.contents() == Contents::Written => {
                Some((span, generation))
            }
            _ => None,
        }
    }

    /// Says whether the guest looks at what the slots of its span hold.
    pub const fn observes(&self) -> bool {
        matches!(self, Self::Fetch { .. } | Self::Load { .. })
    }
}
