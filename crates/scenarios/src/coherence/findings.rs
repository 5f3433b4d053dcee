//! Findings of `coherence`.

use guest::event::Event;
use record::findings::Finding;
use record::maintenance::HostSide;
use record::status::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::coherence::program::{Combination, Looker, Looks, Writer};
use crate::looks::LookCounts;

/// One host event on one kind of memory, in one or several ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
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
    pub seen: LookCounts,
    /// What the kernel did between the event and the end of the program.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<HostSide>,
}

impl Findings {
    /// Returns the name of what happened in a case.
    pub fn event_name(&self) -> String {
        let eager = if self.eager_split { "-eager-split" } else { "" };
        format!("{}{eager}", self.event.name())
    }
}

impl Way {
    /// Returns the name used in reports.
    pub fn name(&self) -> String {
        Combination::way_name(self.writer, self.looks, self.looker)
    }
}

impl Finding for Findings {
    const SCENARIO: &'static str = "coherence";
}
