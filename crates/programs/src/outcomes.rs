//! Outcomes of the looks of a program, as the judge counts them.

use abi::Outcome;

use crate::oracle::Rule;

/// Value that a look returned in place of the newest generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Another generation of the same slot.
    Generation(u16),
    /// Token or doubleword that belongs to no generation of this slot.
    Other(u64),
    /// Exception.
    Exception {
        /// Kind of the exception.
        outcome: Outcome,
        /// ESR_EL1.
        esr: u64,
        /// FAR_EL1.
        far: u64,
    },
}

/// Rule that explains a forbidden outcome: without the rule, the oracle would allow the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuspectRule {
    /// The rule.
    pub rule: Rule,
    /// Op at which the rule made the observed value impossible.
    pub op: Option<usize>,
}

/// Forbidden outcome of one look at one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// Op that looked, numbered from 0.
    pub op: usize,
    /// vCPU of the op.
    pub vcpu: usize,
    /// Offset of the slot in the region.
    pub offset: u64,
    /// Newest generation of the slot.
    pub newest: u16,
    /// Token of the newest generation, or, for a load, its doubleword.
    pub expected: u64,
    /// Token or doubleword that was returned; 0 for an exception.
    pub value: u64,
    /// Meaning of that value.
    pub observed: Observed,
    /// Rules of which each explains the outcome alone, the likeliest first. If there are none, no rule explains it.
    pub suspects: Vec<SuspectRule>,
}

impl Forbidden {
    /// Returns the likeliest broken rule.
    pub fn rule(&self) -> Option<Rule> {
        self.suspects.first().map(|suspect| suspect.rule)
    }
}

/// Outcomes of the looks of one op. Each number counts slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpOutcomes {
    /// Number of the op, from 0.
    pub op: usize,
    /// All slots.
    pub slots: u64,
    /// Looks that had to return the newest generation, and did.
    pub required: u64,
    /// Looks that returned the newest generation where older ones were allowed.
    pub newest: u64,
    /// Looks that returned an older generation, which was allowed. The first number is for the second newest
    /// generation, and so on.
    pub weak: Vec<u64>,
    /// Fetches that returned neither the newest nor an allowed older generation, where older ones were allowed. The
    /// architecture calls this unpredictable.
    pub unpredictable: u64,
    /// Loads that cannot be judged: the op recorded fewer mismatches than occurred, and some of these may be forbidden.
    pub unjudged: u64,
    /// Fetches beyond the mismatches that the op recorded. Older generations were allowed, so none of them is
    /// forbidden.
    pub unlisted: u64,
    /// Looks that prove nothing on this machine.
    pub skipped: u64,
    /// Forbidden outcomes.
    pub forbidden: Vec<Forbidden>,
    /// Forbidden outcomes beyond the mismatches that the op recorded. Their slots are not known.
    pub forbidden_unlisted: u64,
}

/// Outcomes of the looks of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Outcomes of each op that looks.
    pub ops: Vec<OpOutcomes>,
}

impl Outcomes {
    /// Returns all forbidden outcomes whose slots are known.
    pub fn forbidden(&self) -> impl Iterator<Item = &Forbidden> {
        self.ops.iter().flat_map(|op| &op.forbidden)
    }

    /// Returns whether any outcome is forbidden.
    pub fn failed(&self) -> bool {
        self.ops.iter().any(|op| !op.forbidden.is_empty() || op.forbidden_unlisted > 0)
    }

    /// Returns the sum of `count` over all ops.
    pub fn total(&self, count: impl Fn(&OpOutcomes) -> u64) -> u64 {
        self.ops.iter().map(count).sum()
    }

    /// Returns the number of looks that returned an older generation, which was allowed.
    pub fn weak(&self) -> u64 {
        self.total(|op| op.weak.iter().sum())
    }
}
