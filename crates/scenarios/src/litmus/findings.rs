//! Findings of `litmus`.

use abi::Record;
use abi::race::OUTCOMES;
use abi::record::{RaceCount, Summary};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::report::GuestRun;
use programs::litmus::event::Across;
use programs::litmus::races::{Case, RACE};
use programs::litmus::test::{Ruling, Source, Variant};
use record::findings::Finding;

/// A litmus test, in `litmus`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Published name of the test.
    pub test: String,
    /// Where it is published.
    pub source: Source,
    /// What happened at stage 2 in each iteration.
    pub across: Across,
    /// Threads of the test.
    pub threads: u64,
    /// How many copies of it raced at the same time.
    pub copies: u64,
    /// The outcome of interest: thread and location of each value; a fetch observes the version of the instruction, 0 is
    /// the old one.
    pub condition: String,
    /// What the machine makes unnecessary; absent where no guest said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub variant: Option<Variant>,
    /// What is published about the outcome of interest on such machines.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ruling: Option<Ruling>,
    /// Iterations that each vCPU completed.
    pub iterations: Vec<u64>,
    /// Races that were counted: iterations of all copies.
    pub races: u64,
    /// Races a second, without those that were traced.
    pub per_second: u64,
    /// Every outcome that was seen.
    pub outcomes: Vec<Outcome>,
    /// How often the outcome of interest was.
    pub seen: u64,
    /// Races in which a thread took an exception.
    pub exceptions: u64,
    /// Host events that the iterations asked for.
    pub events_asked: u64,
    /// Those that the host carried out.
    pub events_done: u64,
}

/// One outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Its values, as in [`Findings::condition`].
    pub values: String,
    /// How often it was seen.
    pub count: u64,
    /// Whether it is the one of interest.
    pub of_interest: bool,
}

impl Findings {
    /// Returns what is known of a case before it runs.
    pub fn new(case: &Case<'_>) -> Self {
        Self {
            test: case.test.name.into(),
            source: case.test.source,
            across: case.across,
            threads: case.test.threads.len() as u64,
            copies: case.copies(),
            condition: case.test.condition(),
            variant: None,
            ruling: None,
            iterations: Vec::new(),
            races: 0,
            per_second: 0,
            outcomes: Vec::new(),
            seen: 0,
            exceptions: 0,
            events_asked: 0,
            events_done: 0,
        }
    }

    /// Takes in what a guest left behind.
    pub fn collect(&mut self, case: &Case<'_>, run: &GuestRun, variant: Variant, events_done: u64) {
        let test = case.test;
        (self.variant, self.ruling) = (Some(variant), Some(test.ruling(variant)));
        let done = |records: &[Record]| summaries(records).map(|(_, summary)| summary.elements).sum();
        self.iterations = run.vcpus.iter().map(|vcpu| done(&vcpu.records)).collect();
        self.races = self.iterations.iter().step_by(test.threads.len()).sum();
        self.per_second = per_second(run, test.threads.len());
        let mut counts = [0_u64; OUTCOMES as usize + 1];
        let records = run.vcpus.iter().flat_map(|vcpu| &vcpu.records);
        for RaceCount { outcome, iterations } in records.filter_map(Record::race_count) {
            let count_so_far = &mut counts[outcome.min(OUTCOMES) as usize];
            *count_so_far = count_so_far.saturating_add(iterations);
        }
        self.exceptions = counts[OUTCOMES as usize];
        for (outcome, count) in (0..OUTCOMES).zip(counts).filter(|(_, count)| *count > 0) {
            let of_interest = test.is_met(outcome);
            self.seen += if of_interest { count } else { 0 };
            self.outcomes.push(Outcome { values: test.describe(outcome), count, of_interest });
        }
        self.events_asked = case.events(self.iterations.first().copied().unwrap_or(0));
        self.events_done = events_done;
    }

    /// Returns the name of the case: the test, and the event where there is one.
    pub fn name(&self) -> String {
        match self.across {
            Across::Plain => self.test.clone(),
            across => format!("{}.{}", self.test, across.name()),
        }
    }

    /// Returns the races whose outcome was counted.
    pub fn counted(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.count).sum::<u64>().saturating_add(self.exceptions)
    }
}

impl Finding for Findings {
    const SCENARIO: &'static str = "litmus";
}

/// Returns the summaries of races.
fn summaries(records: &[Record]) -> impl Iterator<Item = (&Record, Summary)> {
    // Nothing else has a tag.
    records.iter().filter(|record| record.tag != 0).filter_map(|record| Some((record, record.summary()?)))
}

/// Returns the races a second of all copies together, by the time that the first thread of each took.
fn per_second(run: &GuestRun, threads: usize) -> u64 {
    let of_copy = |vcpu: &guest::report::VcpuReport| {
        let timed = summaries(&vcpu.records).filter(|(record, _)| record.tag == RACE);
        let (races, ticks) = timed.fold((0_u128, 0_u128), |(races, ticks), (_, summary)| {
            (races + u128::from(summary.elements), ticks + u128::from(summary.sum_ticks))
        });
        (races * u128::from(vcpu.cntfrq_el0) / ticks.max(1)) as u64
    };
    run.vcpus.iter().step_by(threads.max(1)).map(of_copy).sum()
}
