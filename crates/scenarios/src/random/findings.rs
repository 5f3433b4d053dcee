//! Findings of `random`, and of programs from a file.

use std::collections::BTreeMap;

use guest::event::Event;
use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::looks::LookCounts;

/// Random programs, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
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
    pub seen: LookCounts,
    /// The smallest program that still failed, as a file that `faultline run` replays.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<String>,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "random";
}
