//! Counts of the looks at code, and the description of a look that returned something forbidden.

use programs::outcomes::{Forbidden, Observed, OpOutcomes, Outcomes};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::text::thousands;

/// Numbers of looks, by outcome. Each look at a slot counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LookCounts {
    /// Looks that had to return the newest generation, and did.
    pub required: u64,
    /// Looks that returned the newest generation where older ones were allowed.
    pub newest: u64,
    /// Looks that returned an older generation, which was allowed.
    pub weak: u64,
    /// Fetches that returned neither the newest nor an allowed older generation, where the architecture leaves the
    /// outcome open.
    pub unpredictable: u64,
    /// Fetches that did not return the newest generation, beyond those that an op records. None of them is forbidden.
    #[serde(default)]
    pub unlisted: u64,
    /// Looks that prove nothing on this machine.
    pub skipped: u64,
    /// Loads that cannot be judged, because the op recorded too little.
    pub unjudged: u64,
    /// Looks that returned something forbidden.
    pub forbidden: u64,
}

impl LookCounts {
    /// Returns the counts of a program.
    pub fn of(outcomes: &Outcomes) -> Self {
        let total = |count: fn(&OpOutcomes) -> u64| outcomes.total(count);
        Self {
            required: total(|op| op.required),
            newest: total(|op| op.newest),
            weak: outcomes.weak(),
            unpredictable: total(|op| op.unpredictable),
            unlisted: total(|op| op.unlisted),
            skipped: total(|op| op.skipped),
            unjudged: total(|op| op.unjudged),
            forbidden: total(|op| op.forbidden.len() as u64 + op.forbidden_unlisted),
        }
    }

    /// Returns the sum of two counts.
    pub fn and(mut self, more: &Self) -> Self {
        self.required += more.required;
        self.newest += more.newest;
        self.weak += more.weak;
        self.unpredictable += more.unpredictable;
        self.unlisted += more.unlisted;
        self.skipped += more.skipped;
        self.unjudged += more.unjudged;
        self.forbidden += more.forbidden;
        self
    }

    /// Returns the number of looks that were free to return older generations, and were right.
    pub fn free(&self) -> u64 {
        self.newest + self.weak + self.unpredictable + self.unlisted
    }

    /// Returns the counts in words, for tables.
    pub fn text(&self) -> String {
        let counts = [
            (self.required, "had to be the newest and were"),
            (self.newest, "were the newest where older ones were allowed"),
            (self.weak, "were older where that is allowed"),
            (self.unpredictable, "were neither where that is left open"),
            (self.unlisted, "were older or else where that is left open"),
            (self.skipped, "prove nothing on this machine"),
            (self.unjudged, "could not be judged"),
            (self.forbidden, "were forbidden"),
        ];
        let parts: Vec<_> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", thousands(*n))).collect();
        if parts.is_empty() { "no looks".into() } else { format!("of all looks {}", parts.join(", ")) }
    }
}

/// Describes a look that returned something forbidden, in one line.
pub fn describe(forbidden: &Forbidden) -> String {
    let Forbidden { op, vcpu, offset, newest, expected, value, observed, .. } = forbidden;
    let observed = match observed {
        Observed::Generation(generation) => format!("generation {generation} in place of {newest}"),
        Observed::Other(_) => format!("nothing that was ever there, in place of generation {newest}"),
        Observed::Exception { outcome, esr, .. } => {
            format!("{outcome:?} (ESR_EL1 {esr:#x}) in place of generation {newest}")
        }
    };
    let rule = match forbidden.suspects.first() {
        Some(suspect) => {
            let at = suspect.op.map_or_else(String::new, |op| format!(" at op {op}"));
            format!("rule {}{at}: {}", suspect.rule.id(), suspect.rule.text())
        }
        None => "no rule explains it".into(),
    };
    format!("op {op}, vcpu-{vcpu}, offset {offset:#x}: {observed} ({value:#x} for {expected:#x}); {rule}")
}
