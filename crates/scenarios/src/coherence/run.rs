//! Runs `coherence`: the chosen combinations of every event on every kind of memory. One guest runs all combinations on
//! one kind of memory.

use std::collections::VecDeque;
use std::time::Duration;

use guest::event::Event;
use guest::region::region;
use guest::spec::GuestSpec;
use hostfacts::memory::{MemoryKinds, memory_kinds};
use hostfacts::phase::begin_case;
use programs::oracle::CacheFeatures;
use programs::program::Program;
use record::case::{AttributedComplaint, CaseResult, Memory};
use record::journal::Entry;
use record::memory::{MemoryKind, stage2_level};
use record::status::{Status, Verdict};

use crate::coherence::args::Args;
use crate::coherence::findings::{CombinationResult, Findings};
use crate::coherence::program::{Combination, LineSelection, RegionLines, combinations, look_kinds};
use crate::coherence::verdict;
use crate::looks::LookCounts;
use crate::memory::block_bytes;
use crate::runner::cases::{CaseRunner, PreparedMemory, surroundings};
use crate::runner::program_runner::{self, NoOutcome, ProgramRun, ProgramSource, Reset, Setup, Target};
use crate::runner::session::{Build, Error, Finished, Session};

/// Number of vCPUs: one that asks for events, and another one.
const VCPUS: usize = 2;
/// Number of guests that may die on one kind of memory before the remaining combinations are given up.
const DEATHS: usize = 4;
/// Events that also run with eager splitting.
const LOGGING: [Event; 2] = [Event::DirtyLogOn, Event::DirtyLogOff];

/// Runs the scenario.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("coherence", &args.common, build, VCPUS as u64)?;
    let mut session = Session::begin(runner.name, &args.common, build)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases);
    session.end(outcome, runner.vcpus, cases)
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let fwb = vmm::limits()?.fwb.unwrap_or(false);
    let kinds = if args.blocks.is_empty() { all_kinds(&memory_kinds()) } else { args.blocks.clone() };
    let events = if args.events.is_empty() { Event::ALL.to_vec() } else { args.events.clone() };
    let chosen = combinations(args.coverage, &events, look_kinds(fwb), kinds.len());
    for (kind, combinations) in kinds.into_iter().zip(chosen) {
        let cases_on_kind = CasesOn { args, kind, fwb, combinations };
        for mut case in cases_on_kind.run(runner, session)? {
            runner.done(session, &mut case)?;
            cases.push(case);
        }
        if session.interrupted() {
            break;
        }
    }
    Ok(())
}

/// Returns every kind of memory. A kind that this host cannot give becomes a skipped case.
fn all_kinds(host: &MemoryKinds) -> Vec<MemoryKind> {
    let hugetlb = host.hugetlb.iter().map(|pool| MemoryKind::Hugetlb(units::size::Size(pool.page_bytes)));
    [MemoryKind::Page, MemoryKind::Thp, MemoryKind::Memfd, MemoryKind::File].into_iter().chain(hugetlb).collect()
}

/// Returns the size of the region for one kind of memory. If the blocks are small, the region has several.
fn region_bytes(kind: MemoryKind, host: &MemoryKinds) -> u64 {
    match block_bytes(kind, host).unwrap_or(host.page_bytes) {
        bytes if bytes <= 64 << 10 => 1 << 20,
        bytes if bytes <= 2 << 20 => 2 * bytes,
        bytes => bytes,
    }
}

/// Cases on one kind of memory, one for each event.
struct CasesOn<'a> {
    args: &'a Args,
    kind: MemoryKind,
    /// True if the machine has FWB.
    fwb: bool,
    combinations: Vec<Combination>,
}

impl CasesOn<'_> {
    /// Runs all combinations. The dirty logging events run a second time with eager splitting, if KVM has it.
    fn run(&self, runner: &mut CaseRunner<'_>, session: &mut Session) -> Result<Vec<CaseResult>, Error> {
        let kind = self.kind;
        let not_run = CaseResult::on(kind, VCPUS as u64);
        session.journal(&Entry::Case { name: kind.to_string(), before: Box::new(not_run.clone()) })?;
        if let (true, MemoryKind::Hugetlb(size)) = (self.args.common.hugepages, kind) {
            // Some events prepare a second region, which needs as many pages again.
            let region = region_bytes(kind, &memory_kinds());
            session.fill_pool(size.0, 2 * region.div_ceil(size.0))?;
        }
        let memory = match runner.prepare(session, kind, |host| region_bytes(kind, host))? {
            Ok(memory) => memory,
            Err(missing) => {
                let skip = Verdict::new(Status::Skip, missing.to_string());
                let results = self.combinations.iter().map(|choice| CombinationResult::new(choice, skip.clone()));
                return Ok(by_event(&not_run, self.combinations.iter().zip(results), Splitting::AtFaults));
            }
        };
        let known = Memory { kind, block_bytes: memory.block_bytes, region_bytes: memory.region_bytes };
        let case = CaseResult { memory: Some(known), ..not_run };
        let first_case = session.cases_done + 1;
        let mut guests = Guests { cases: self, memory: &memory, first_case, complaints: Vec::new() };
        let plain = program_runner::guest(region(memory.region_bytes, memory.backing), VCPUS);
        let results = guests.run(runner, session, &plain, &self.combinations)?;
        let mut cases = by_event(&case, self.combinations.iter().zip(results), Splitting::AtFaults);
        let logging: Vec<_> =
            self.combinations.iter().copied().filter(|choice| LOGGING.contains(&choice.event)).collect();
        if memory.block_bytes > memory.host.page_bytes && !logging.is_empty() && !session.interrupted() {
            let eager = GuestSpec { eager_split: Some(memory.block_bytes), ..plain };
            guests.first_case += cases.len() as u64;
            let results = guests.run(runner, session, &eager, &logging)?;
            cases.extend(by_event(&case, logging.iter().zip(results), Splitting::Eager));
        }
        if let Some(first) = cases.first_mut() {
            // One guest ran all events, so a complaint cannot be assigned to one of them.
            first.complaints = guests.complaints;
        }
        Ok(cases)
    }
}

/// Time at which KVM splits blocks for dirty logging.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Splitting {
    /// At the guest's write faults.
    AtFaults,
    /// At the start of dirty logging.
    Eager,
}

/// Returns a case for each event.
fn by_event<'a>(
    case: &CaseResult,
    results: impl Iterator<Item = (&'a Combination, CombinationResult)>,
    splitting: Splitting,
) -> Vec<CaseResult> {
    let eager_split = splitting == Splitting::Eager;
    let mut events: Vec<Findings> = Vec::new();
    for (Combination { event, .. }, result) in results {
        match events.iter_mut().find(|known| known.event == *event) {
            Some(known) => known.combinations.push(result),
            None => events.push(Findings { event: *event, eager_split, combinations: vec![result] }),
        }
    }
    let of = |findings: Findings| CaseResult {
        budget: findings.budget(),
        name: format!("{} {}", case.name, findings.event_name()),
        id: format!("{}.{}", case.id, findings.event_name()),
        verdict: verdict::event(&findings.combinations),
        mismatches: findings.combinations.iter().map(|result| result.seen.forbidden).sum(),
        findings: record::findings::StoredFindings::of(&findings),
        ..case.clone()
    };
    events.into_iter().map(of).collect()
}

/// Guests on one kind of memory.
struct Guests<'a> {
    cases: &'a CasesOn<'a>,
    memory: &'a PreparedMemory,
    /// Number of the case of the first event.
    first_case: u64,
    /// Complaints of the kernel while they ran.
    complaints: Vec<AttributedComplaint>,
}

impl Guests<'_> {
    /// Runs combinations in one guest. If the guest dies, another guest runs those that are left.
    fn run(
        &mut self,
        runner: &mut CaseRunner<'_>,
        session: &mut Session,
        guest: &GuestSpec,
        combinations: &[Combination],
    ) -> Result<Vec<CombinationResult>, Error> {
        let mut queue = Queue::new(self.cases.args, self.memory, self.first_case, combinations);
        let common = &self.cases.args.common;
        let setup = Setup {
            guest,
            label: &format!("coherence {}, {} combinations", self.cases.kind, combinations.len()),
            reset: Reset::NewPages,
            traced: if common.no_trace { 0 } else { u64::MAX },
            limit: Duration::from_secs(common.time_limit),
            fwb: self.cases.fwb,
            surroundings: &surroundings(self.memory, guest),
        };
        for _ in 0..=DEATHS {
            if queue.left.is_empty() || session.interrupted() {
                break;
            }
            match program_runner::run(runner, session, &mut queue, setup) {
                Ok(evidence) => self.complaints.extend(evidence.complaints),
                Err(Error::Vmm(error)) if error.is_lack() => queue.give_up(Status::Skip, &error.to_string()),
                Err(error) => return Err(error),
            }
        }
        let why = if session.interrupted() { "interrupted" } else { "not run: the guests before it died" };
        queue.give_up(Status::Error, why);
        Ok(queue.done)
    }
}

/// Combinations that are still to run, and the results of those that ran.
struct Queue {
    left: VecDeque<Combination>,
    running: Option<(Combination, CacheFeatures)>,
    /// Events in the order of their cases, and the number of the case of the first.
    events: Vec<Event>,
    first_case: u64,
    done: Vec<CombinationResult>,
    lines: RegionLines,
    /// Level at which stage 2 should map the memory.
    level: u8,
    /// Reason why nothing is traced, if the command line asks for that.
    untraced: Option<&'static str>,
}

impl Queue {
    fn new(args: &Args, memory: &PreparedMemory, first_case: u64, combinations: &[Combination]) -> Self {
        let selection = if args.every_line { LineSelection::All } else { LineSelection::Seeded(args.seed) };
        let PreparedMemory { region_bytes, block_bytes, .. } = *memory;
        let mut events: Vec<Event> = combinations.iter().map(|choice| choice.event).collect();
        events.dedup();
        Self {
            left: combinations.iter().copied().collect(),
            running: None,
            events,
            first_case,
            done: Vec::new(),
            lines: RegionLines { region_bytes, block_bytes, selection },
            level: stage2_level(block_bytes, memory.host.page_bytes),
            untraced: args.common.no_trace.then_some("--no-trace"),
        }
    }

    /// Gives every combination that is left this status.
    fn give_up(&mut self, status: Status, why: &str) {
        while let Some(combination) = self.left.pop_front() {
            self.done.push(CombinationResult::new(&combination, Verdict::new(status, why)));
        }
    }
}

impl ProgramSource for Queue {
    fn next(&mut self, target: &Target) -> Option<Program> {
        let combination = self.left.pop_front()?;
        let case = self.events.iter().position(|event| *event == combination.event).unwrap_or_default();
        // One guest runs all events, so the runner tells the sanitizer which case each program belongs to.
        begin_case(self.first_case + case as u64);
        self.running = Some((combination, target.features));
        Some(combination.program(&self.lines.spans(target.limits.line_bytes)))
    }

    fn done(&mut self, _: Program, run: ProgramRun) {
        let Some((combination, features)) = self.running.take() else { return };
        let mut result = CombinationResult::new(&combination, Verdict::new(Status::Error, ""));
        let untraced = self.untraced.or_else(|| run.host.is_none().then_some("no trace"));
        let context = verdict::Context { features, untraced, lost: run.lost, level: self.level };
        result.verdict = match &run.outcomes {
            Ok(outcomes) => {
                result.seen = LookCounts::of(outcomes);
                let verdict = verdict::combination(&combination, outcomes, run.host.as_ref(), &context);
                match &run.budget {
                    Some(budget) => budget.apply(verdict),
                    None => verdict,
                }
            }
            Err(why @ NoOutcome::Refused(..)) => Verdict::new(Status::Skip, why.to_string()),
            Err(why) => Verdict::new(Status::Error, why.to_string()),
        };
        result.host = run.host;
        result.budget = run.budget;
        self.done.push(result);
    }
}
