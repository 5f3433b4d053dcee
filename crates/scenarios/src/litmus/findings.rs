//! Findings of `litmus`.

use abi::Record;
use abi::race::OUTCOMES;
use abi::record::{RaceCount, Summary};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::report::GuestRun;
use programs::litmus::event::RaceEvent;
use programs::litmus::races::{Case, RACE};
use programs::litmus::test::{MachineClass, Published, Source};
use record::findings::Finding;

/// Findings about one litmus test across one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Findings {
    /// Published name of the test.
    pub test: String,
    /// Publication of the test.
    pub source: Source,
    /// Stage-2 event in each iteration.
    pub event: RaceEvent,
    /// Number of threads of the test.
    pub threads: u64,
    /// Number of copies of the test that raced at the same time.
    pub copies: u64,
    /// Outcome of interest. Each value has its thread and its location. A fetch observes the version of the
    /// instruction, and 0 is the old one.
    pub condition: String,
    /// Class of the machine; absent if no guest ran.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine_class: Option<MachineClass>,
    /// Published verdict on the outcome of interest for that class.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub published: Option<Published>,
    /// Number of iterations that each vCPU completed.
    pub iterations: Vec<u64>,
    /// Number of counted races, which are the iterations of all copies.
    pub races: u64,
    /// Number of races in a second, without those that were traced.
    pub per_second: u64,
    /// All outcomes that occurred.
    pub outcomes: Vec<Outcome>,
    /// Number of races with the outcome of interest.
    pub seen: u64,
    /// Number of races in which a thread took an exception.
    pub exceptions: u64,
    /// Number of host events that the iterations asked for.
    pub events_asked: u64,
    /// Number of host events that the host did.
    pub events_done: u64,
}

/// Outcome that occurred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Values, in the form of [`Findings::condition`].
    pub values: String,
    /// Number of races with this outcome.
    pub count: u64,
    /// True for the outcome of interest.
    pub of_interest: bool,
}

impl Findings {
    /// Returns the findings about a case before it runs.
    pub fn new(case: &Case<'_>) -> Self {
        Self {
            test: case.test.name.into(),
            source: case.test.source,
            event: case.event,
            threads: case.test.threads.len() as u64,
            copies: case.copies(),
            condition: case.test.condition(),
            machine_class: None,
            published: None,
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

    /// Adds the outcomes from the records of a guest.
    pub fn collect(&mut self, case: &Case<'_>, run: &GuestRun, class: MachineClass, events_done: u64) {
        let test = case.test;
        (self.machine_class, self.published) = (Some(class), Some(test.published_for(class)));
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
        self.events_asked = case.host_events(self.iterations.first().copied().unwrap_or(0));
        self.events_done = events_done;
    }

    /// Returns the name of the case: the test, and the event if there is one.
    pub fn name(&self) -> String {
        match self.event {
            RaceEvent::Plain => self.test.clone(),
            event => format!("{}.{}", self.test, event.name()),
        }
    }

    /// Returns the number of races whose outcome was counted.
    pub fn counted(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.count).sum::<u64>().saturating_add(self.exceptions)
    }
}

impl Finding for Findings {
    const SCENARIO: &'static str = "litmus";
}

/// Returns the summaries of races.
fn summaries(records: &[Record]) -> impl Iterator<Item = (&Record, Summary)> {
    // Only races have a tag.
    records.iter().filter(|record| record.tag != 0).filter_map(|record| Some((record, record.summary()?)))
}

/// Returns the number of races in a second of all copies together, from the times of each copy's first thread.
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
