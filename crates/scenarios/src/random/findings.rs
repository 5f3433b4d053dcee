//! Findings of `random`, and of runs of program files.

use std::collections::BTreeMap;

use guest::event::Event;
use record::findings::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::looks::LookCounts;

/// Findings about all programs of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Seed of the first program. Each program has the next seed.
    pub seed: u64,
    /// Number of programs that ran to their end and were judged.
    pub programs: u64,
    /// Number of ops of all these programs.
    pub ops: u64,
    /// Duration of all programs together, in ms of this machine's time.
    pub elapsed_ms: u64,
    /// Number of times that the host did each event.
    pub events: BTreeMap<Event, u64>,
    /// Events that this machine cannot do, with the reasons. No program contains them.
    pub refused: BTreeMap<Event, String>,
    /// Outcomes of all looks.
    pub seen: LookCounts,
    /// Smallest program that still failed, as a program file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<String>,
}

impl Finding for Findings {
    const SCENARIO: &'static str = "random";
}
