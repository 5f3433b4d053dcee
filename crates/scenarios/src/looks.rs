//! Looks at code, counted by what they saw, and the description of one that saw something forbidden.

use programs::judge::{Forbidden, Outcomes, Sight};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::text::thousands;

/// Counts of what looks saw, in slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LookCounts {
    /// The newest generation, where nothing else was allowed.
    pub required: u64,
    /// The newest generation, where older ones were allowed.
    pub newest: u64,
    /// An older one, where that was allowed: weak, but right.
    pub weak: u64,
    /// Neither old nor new, where the architecture leaves that open.
    pub unpredictable: u64,
    /// Not the newest, where nothing that a fetch sees is wrong, and more of them than an op records.
    #[serde(default)]
    pub unlisted: u64,
    /// Looks that prove nothing on this machine.
    pub skipped: u64,
    /// Looks of which too little was recorded to judge them.
    pub unjudged: u64,
    /// What may not be.
    pub forbidden: u64,
}

impl LookCounts {
    /// Adds those of a program.
    pub fn add(&mut self, outcomes: &Outcomes) {
        self.required += outcomes.total(|step| step.required);
        self.newest += outcomes.total(|step| step.newest);
        self.weak += outcomes.weak();
        self.unpredictable += outcomes.total(|step| step.unpredictable);
        self.unlisted += outcomes.total(|step| step.unlisted);
        self.skipped += outcomes.total(|step| step.skipped);
        self.unjudged += outcomes.total(|step| step.unjudged);
        self.forbidden += outcomes.total(|step| step.forbidden.len() as u64 + step.forbidden_unlisted);
    }

    /// Adds others.
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
            (self.forbidden, "were what they may not be"),
        ];
        let parts: Vec<_> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", thousands(*n))).collect();
        if parts.is_empty() { "no looks".into() } else { format!("of all looks {}", parts.join(", ")) }
    }
}

/// Describes a look that saw something forbidden, in one line.
pub fn describe(forbidden: &Forbidden) -> String {
    let Forbidden { step, vcpu, offset, newest, expected, value, sight, .. } = forbidden;
    let sight = match sight {
        Sight::Generation(generation) => format!("generation {generation} in place of {newest}"),
        Sight::Other(_) => format!("nothing that was ever there, in place of generation {newest}"),
        Sight::Exception { outcome, esr, .. } => {
            format!("{outcome:?} (ESR_EL1 {esr:#x}) in place of generation {newest}")
        }
    };
    let rule = match forbidden.suspects.first() {
        Some(suspect) => {
            let at = suspect.step.map_or_else(String::new, |step| format!(" at step {step}"));
            format!("rule {}{at}: {}", suspect.rule.id(), suspect.rule.text())
        }
        None => "no rule explains it".into(),
    };
    format!("step {step}, vcpu-{vcpu}, offset {offset:#x}: {sight} ({value:#x} for {expected:#x}); {rule}")
}
