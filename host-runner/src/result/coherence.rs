//! What programs about coherence found: events on kinds of memory, and random programs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HostSide, Verdict};
use crate::coherence::event::Event;
use crate::coherence::judge::Outcomes;
use crate::plan::coherence::{Combination, Looker, Looks, Writer};

/// One host event on one kind of memory, in one or several ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Coherence {
    /// What happened.
    pub event: Event,
    /// Whether KVM split blocks ahead of faults when dirty logging began.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub eager_split: bool,
    /// How it was done, and what came of it.
    pub ways: Vec<Way>,
}

/// One way to do an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Way {
    /// Who wrote the code.
    pub writer: Writer,
    /// How the guest looked.
    pub looks: Looks,
    /// Who looked.
    pub looker: Looker,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: Sights,
    /// What the kernel did between the event and the end of the program.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<HostSide>,
}

impl Way {
    /// Returns the name used in reports.
    pub fn name(&self) -> String {
        Combination::way_name(self.writer, self.looks, self.looker)
    }
}

/// What looks saw, in slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sights {
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

/// Random programs, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RandomPrograms {
    /// Seed of the first program; the others follow.
    pub seed: u64,
    /// Programs that ran to their end and were judged.
    pub programs: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// How long they took together, in ms of this machine's time.
    pub elapsed_ms: u64,
    /// How often each event was done.
    pub events: BTreeMap<Event, u64>,
    /// Events that could not be had here, with the reason; no program has them.
    pub refused: BTreeMap<Event, String>,
    /// What was seen.
    pub seen: Sights,
    /// The smallest program that still failed, as a file that `faultline run` replays.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<String>,
}

impl Sights {
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
}
