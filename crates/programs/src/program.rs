//! Program that is run and judged: one list of ops, each of which one vCPU runs.
//!
//! Two ops of different vCPUs are ordered only if a meeting stands between them. A program is legal if no vCPU touches
//! a slot that another vCPU, or a host event for another vCPU, changes between the same two meetings. Anything else is
//! concurrent modification, and the architecture leaves its result unpredictable for the instructions of a slot (Arm
//! ARM "Concurrent modification and execution of instructions"). The module `legal` checks this.

use abi::op::Barrier;
use serde::{Deserialize, Serialize};

use guest::event::{Contents, Event};

/// Maximum number of ops of a program.
pub const MAX_OPS: usize = 120;

/// Code slots at equal distances, at most one in each cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Offset of the first slot in the region, in bytes.
    pub start: u64,
    /// Distance between two slots in bytes; at least one cache line.
    pub stride: u64,
    /// Number of slots.
    pub count: u64,
}

impl Span {
    /// Returns the offsets of the slots.
    pub fn offsets(self) -> impl Iterator<Item = u64> {
        (0..self.count).map(move |n| self.start + n * self.stride)
    }

    /// Returns the number of bytes from the first slot to one stride after the last slot.
    pub fn bytes(self) -> u64 {
        self.stride * self.count
    }
}

/// Instruction that cleans a D-cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clean {
    /// `DC CVAU`, which cleans to the PoU.
    Pou,
    /// `DC CVAC`, which cleans to the PoC.
    Poc,
    /// `DC CIVAC`, which cleans to the PoC and invalidates.
    PocInvalidate,
}

/// Kind of a load.
///
/// With FWB, stage 2 makes every load cacheable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadMode {
    /// Load through the data caches.
    Cacheable,
    /// Load through a Non-cacheable mapping, which returns the contents of the PoC.
    NonCacheable,
    /// Load with SCTLR_EL1.C cleared, which returns the contents of the PoC.
    CachesOff,
}

/// Names of [`Barrier`] in program files.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Barrier", rename_all = "kebab-case")]
enum BarrierName {
    DmbIsh,
    DsbIsh,
    Isb,
    DmbIshst,
    DmbIshld,
}

/// Action of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Action {
    /// Write slots with cacheable stores.
    Write {
        /// Slots to write.
        #[serde(flatten)]
        span: Span,
        /// Generation to write.
        generation: u16,
    },
    /// Clean the D-cache by line.
    CleanD {
        /// Slots whose lines are cleaned.
        #[serde(flatten)]
        span: Span,
        /// Instruction to use.
        to: Clean,
    },
    /// Invalidate the I-cache by line.
    InvalI {
        /// Slots whose lines are invalidated.
        #[serde(flatten)]
        span: Span,
    },
    /// Invalidate the whole I-cache.
    InvalIAll,
    /// Execute a barrier.
    Barrier {
        /// Barrier to execute.
        #[serde(with = "BarrierName")]
        barrier: Barrier,
    },
    /// Call slots.
    ///
    /// The guest measures the time of each call and therefore executes `DSB ISH; ISB` before and after it. The same is
    /// true of each slot of [`Action::Write`] and [`Action::Load`].
    Fetch {
        /// Slots to call.
        #[serde(flatten)]
        span: Span,
    },
    /// Load the first doubleword of slots.
    Load {
        /// Slots to load.
        #[serde(flatten)]
        span: Span,
        /// Kind of the load.
        #[serde(rename = "look")]
        mode: LoadMode,
    },
    /// Ask the host for an event, and wait until the host has done it.
    Event {
        /// Event to ask for.
        event: Event,
        /// Slots that the event writes, if it writes any.
        #[serde(flatten)]
        span: Span,
        /// Generation that the event writes, if it writes any.
        generation: u16,
    },
    /// Wait until all vCPUs have reached this op: a rendezvous.
    Meet,
}

/// One op of a program. One vCPU runs it, or all vCPUs if it is [`Action::Meet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramOp {
    /// vCPU that runs the op; 0 for [`Action::Meet`].
    #[serde(default)]
    pub vcpu: usize,
    /// Action of the op.
    #[serde(flatten)]
    pub action: Action,
}

/// Program. Before its first op, every slot holds generation 0, in memory and in every cache that holds the slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Ops. Each vCPU runs its own ops in this order.
    #[serde(rename = "op", default)]
    pub ops: Vec<ProgramOp>,
}

impl ProgramOp {
    /// Meeting of all vCPUs.
    pub const MEET: Self = Self { vcpu: 0, action: Action::Meet };

    /// Returns an op of a vCPU.
    pub const fn new(vcpu: usize, action: Action) -> Self {
        Self { vcpu, action }
    }
}

impl Action {
    /// Returns the slots that the action reads, writes or maintains by line, if there are any.
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

    /// Returns the slots that the action writes and their new generation, if it writes any.
    pub fn writes(&self) -> Option<(Span, u16)> {
        match *self {
            Self::Write { span, generation } => Some((span, generation)),
            Self::Event { event, span, generation } if event.contents() == Contents::Written => {
                Some((span, generation))
            }
            _ => None,
        }
    }

    /// Returns whether the action looks at its slots: fetches or loads them.
    pub(crate) const fn is_look(&self) -> bool {
        matches!(self, Self::Fetch { .. } | Self::Load { .. })
    }
}
