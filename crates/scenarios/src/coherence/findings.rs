//! Findings of `coherence`.

use guest::event::Event;
use record::budget::Budget;
use record::findings::Finding;
use record::maintenance::HostSide;
use record::status::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::coherence::program::{Combination, LookKind, Reader, Writer};
use crate::looks::LookCounts;

/// Findings about one host event on one kind of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Event that the host did.
    pub event: Event,
    /// True if KVM split blocks when dirty logging began, and not at the faults after that.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub eager_split: bool,
    /// Results of the combinations of writer, look and reader.
    pub combinations: Vec<CombinationResult>,
}

/// Result of one combination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CombinationResult {
    /// Writer of the code.
    pub writer: Writer,
    /// Kind of the look.
    pub look: LookKind,
    /// vCPU that looked.
    pub reader: Reader,
    /// Verdict on this combination.
    pub verdict: Verdict,
    /// Outcomes of the looks.
    pub seen: LookCounts,
    /// Faults and maintenance in the kernel between the event and the end of the program.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<HostSide>,
    /// Comparison of the faults and the maintenance of the whole program with its budget.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget: Option<Budget>,
}

impl Findings {
    /// Returns the name of the event in cases.
    pub fn event_name(&self) -> String {
        let eager = if self.eager_split { "-eager-split" } else { "" };
        format!("{}{eager}", self.event.name())
    }

    /// Returns the comparison of all combinations with their budgets, if there is one.
    pub fn budget(&self) -> Option<Budget> {
        let mut budgets = self.combinations.iter().filter_map(|result| result.budget.as_ref());
        let mut all = budgets.next()?.clone();
        budgets.for_each(|budget| all.add(budget));
        Some(all)
    }
}

impl CombinationResult {
    /// Returns a result without looks.
    pub fn new(combination: &Combination, verdict: Verdict) -> Self {
        let Combination { writer, look, reader, .. } = *combination;
        Self { writer, look, reader, verdict, seen: LookCounts::default(), host: None, budget: None }
    }

    /// Returns the name of the combination in reports.
    pub fn name(&self) -> String {
        format!("{}-writes.{}.{}", word(&self.writer), word(&self.look), word(&self.reader))
    }
}

/// Returns the word that stands for a choice in files.
fn word(choice: &impl Serialize) -> String {
    let value = serde_json::to_value(choice).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

impl Finding for Findings {
    const SCENARIO: &'static str = "coherence";
}
