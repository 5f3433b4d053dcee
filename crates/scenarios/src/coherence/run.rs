//! Runs `coherence`: every event on every kind of memory, in the ways that [`combinations`] picks. One guest does all ways
//! on one kind of memory.

use std::collections::VecDeque;
use std::time::Duration;

use guest::event::Event;
use guest::region::region;
use guest::spec::GuestSpec;
use hostfacts::memory::{MemoryKinds, memory_kinds};
use programs::oracle::Geometry;
use programs::program::Program;
use record::case::{AttributedComplaint, CaseResult, Memory};
use record::journal::Entry;
use record::memory::{MemoryKind, stage2_level};
use record::status::{Status, Verdict};

use crate::coherence::args::Args;
use crate::coherence::findings::{Findings, Way};
use crate::coherence::program::{Combination, combinations, looks, spans};
use crate::coherence::verdict;
use crate::looks::LookCounts;
use crate::memory::block_bytes;
use crate::runner::cases::{CaseRunner, PreparedMemory};
use crate::runner::program_runner::{self, Machine, NoOutcome, ProgramRun, ProgramSource, Reset, Seen, Setup};
use crate::runner::session::{Build, Error, Finished, Session};

/// vCPUs: one that asks for events, and another.
const VCPUS: usize = 2;
/// Guests that may die on one kind of memory before the rest is given up.
const DEATHS: usize = 4;
/// Events for which it matters that KVM splits blocks ahead of faults.
const LOGGING: [Event; 2] = [Event::DirtyLogOn, Event::DirtyLogOff];

/// Runs the scenario.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("coherence", &args.common, build, VCPUS as u64)?;
    let mut session = Session::begin(&args.common, build)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases);
    session.end(outcome, runner.name, runner.vcpus, cases)
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let fwb = vmm::limits()?.fwb.unwrap_or(false);
    let blocks = if args.blocks.is_empty() { all_blocks(&memory_kinds()) } else { args.blocks.clone() };
    let events = if args.events.is_empty() { Event::ALL.to_vec() } else { args.events.clone() };
    let chosen = combinations(args.coverage, &events, looks(fwb), blocks.len());
    for (block, ways) in blocks.into_iter().zip(chosen) {
        for mut case in on_block(runner, session, args, block, ways, fwb)? {
            runner.done(session, &mut case)?;
            cases.push(case);
        }
        if session.interrupted() {
            break;
        }
    }
    Ok(())
}

/// Returns every kind of memory, had or not: what is missing is said.
fn all_blocks(host: &MemoryKinds) -> Vec<MemoryKind> {
    let hugetlb = host.hugetlb.iter().map(|pool| MemoryKind::Hugetlb(units::size::Size(pool.page_bytes)));
    [MemoryKind::Page, MemoryKind::Thp, MemoryKind::Memfd, MemoryKind::File].into_iter().chain(hugetlb).collect()
}

/// Returns the size of the region for one kind of memory: enough for boundaries between blocks where they are small.
fn region_bytes(block: MemoryKind, host: &MemoryKinds) -> u64 {
    match block_bytes(block, host).unwrap_or(host.page_bytes) {
        bytes if bytes <= 64 << 10 => 1 << 20,
        bytes if bytes <= 2 << 20 => 2 * bytes,
        bytes => bytes,
    }
}

/// Runs all ways on one kind of memory; those of dirty logging a second time with eager splitting, where KVM has it.
fn on_block(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    block: MemoryKind,
    ways: Vec<Combination>,
    fwb: bool,
) -> Result<Vec<CaseResult>, Error> {
    let not_run = CaseResult::on(block, VCPUS as u64);
    session.journal(&Entry::Case { name: block.to_string(), before: Box::new(not_run.clone()) })?;
    if let (true, MemoryKind::Hugetlb(size)) = (args.common.hugepages, block) {
        // Twice as many pages as the region: some events prepare a second one.
        let region = region_bytes(block, &memory_kinds());
        session.fill_pool(size.0, 2 * region.div_ceil(size.0))?;
    }
    let memory = match runner.prepare(session, block, |host| region_bytes(block, host))? {
        Ok(memory) => memory,
        Err(missing) => {
            let skip = Verdict::new(Status::Skip, missing.to_string());
            return Ok(group(&not_run, ways.iter().map(|way| of(way, skip.clone())).collect(), &ways, false));
        }
    };
    let known = Memory { kind: block, block_bytes: memory.block_bytes, region_bytes: memory.region_bytes };
    let case = CaseResult { memory: Some(known), ..not_run };
    let mut on_block = OnBlock { args, block, memory: &memory, fwb, complaints: Vec::new() };
    let plain = program_runner::guest(region(memory.region_bytes, memory.backing), VCPUS);
    let logging: Vec<_> = ways.iter().copied().filter(|way| LOGGING.contains(&way.event)).collect();
    let mut cases = group(&case, on_block.run(runner, session, &plain, &ways)?, &ways, false);
    if memory.block_bytes > memory.host.page_bytes && !logging.is_empty() && !session.interrupted() {
        let eager = GuestSpec { eager_split: Some(memory.block_bytes), ..plain };
        cases.extend(group(&case, on_block.run(runner, session, &eager, &logging)?, &logging, true));
    }
    if let Some(first) = cases.first_mut() {
        // They cannot be told apart by event: one guest ran them all.
        first.complaints = on_block.complaints;
    }
    Ok(cases)
}

/// Makes a case of each event.
fn group(case: &CaseResult, ways: Vec<Way>, chosen: &[Combination], eager_split: bool) -> Vec<CaseResult> {
    let mut events: Vec<Findings> = Vec::new();
    for (way, chosen) in ways.into_iter().zip(chosen) {
        match events.iter_mut().find(|known| known.event == chosen.event) {
            Some(known) => known.ways.push(way),
            None => events.push(Findings { event: chosen.event, eager_split, ways: vec![way] }),
        }
    }
    let of = |findings: Findings| CaseResult {
        name: format!("{} {}", case.name, findings.event_name()),
        id: format!("{}.{}", case.id, findings.event_name()),
        verdict: verdict::event(&findings.ways),
        mismatches: findings.ways.iter().map(|way| way.seen.forbidden).sum(),
        findings: record::findings::StoredFindings::of(&findings),
        ..case.clone()
    };
    events.into_iter().map(of).collect()
}

fn of(way: &Combination, verdict: Verdict) -> Way {
    let Combination { writer, looks, looker, .. } = *way;
    Way { writer, looks, looker, verdict, seen: LookCounts::default(), host: None }
}

/// What is the same for all guests on one kind of memory.
struct OnBlock<'a> {
    args: &'a Args,
    block: MemoryKind,
    memory: &'a PreparedMemory,
    fwb: bool,
    complaints: Vec<AttributedComplaint>,
}

impl OnBlock<'_> {
    /// Runs ways in one guest; in another one what is left when it dies.
    fn run(
        &mut self,
        runner: &mut CaseRunner<'_>,
        session: &mut Session,
        spec: &GuestSpec,
        ways: &[Combination],
    ) -> Result<Vec<Way>, Error> {
        let mut source = Ways::new(self, ways);
        let common = &self.args.common;
        let limit = Duration::from_secs(common.time_limit);
        let traced = if common.no_trace { 0 } else { u64::MAX };
        let setup = Setup { reset: Reset::NewPages, traced, limit, fwb: self.fwb };
        let label = format!("coherence {}, {} ways", self.block, ways.len());
        for _ in 0..=DEATHS {
            if source.left.is_empty() || session.interrupted() {
                break;
            }
            match program_runner::run(runner, session, spec, &mut source, setup, &label) {
                Ok((_, Seen { complaints, .. })) => self.complaints.extend(complaints),
                Err(Error::Vmm(error)) if error.is_lack() => source.give_up(Status::Skip, &error.to_string()),
                Err(error) => return Err(error),
            }
        }
        let why = if session.interrupted() { "interrupted" } else { "not run: the guests before it died" };
        source.give_up(Status::Error, why);
        Ok(source.done)
    }
}

/// The ways to go, and what came of them.
struct Ways {
    left: VecDeque<Combination>,
    under_way: Option<(Combination, Geometry)>,
    done: Vec<Way>,
    region_bytes: u64,
    block_bytes: u64,
    level: u8,
    every_line: bool,
    seed: u64,
    untraced: Option<&'static str>,
}

impl Ways {
    fn new(on: &OnBlock<'_>, ways: &[Combination]) -> Self {
        Self {
            left: ways.iter().copied().collect(),
            under_way: None,
            done: Vec::new(),
            region_bytes: on.memory.region_bytes,
            block_bytes: on.memory.block_bytes,
            level: stage2_level(on.memory.block_bytes, on.memory.host.page_bytes),
            every_line: on.args.every_line,
            seed: on.args.seed,
            untraced: on.args.common.no_trace.then_some("--no-trace"),
        }
    }

    fn give_up(&mut self, status: Status, why: &str) {
        while let Some(way) = self.left.pop_front() {
            self.done.push(of(&way, Verdict::new(status, why)));
        }
    }
}

impl ProgramSource for Ways {
    fn next(&mut self, machine: &Machine) -> Option<Program> {
        let way = self.left.pop_front()?;
        self.under_way = Some((way, machine.geometry));
        let spans = spans(self.region_bytes, self.block_bytes, machine.limits.line_bytes, self.every_line, self.seed);
        Some(way.program(&spans))
    }

    fn done(&mut self, _: Program, ran: ProgramRun) {
        let Some((way, geometry)) = self.under_way.take() else { return };
        let mut result = of(&way, Verdict::new(Status::Error, ""));
        let untraced = self.untraced.or_else(|| ran.host.is_none().then_some("no trace"));
        let context = verdict::Context { geometry, untraced, lost: ran.lost, level: self.level };
        result.verdict = match &ran.outcomes {
            Ok(outcomes) => {
                result.seen.add(outcomes);
                verdict::way(&way, outcomes, ran.host.as_ref(), &context)
            }
            Err(why @ NoOutcome::Refused(..)) => Verdict::new(Status::Skip, why.to_string()),
            Err(why) => Verdict::new(Status::Error, why.to_string()),
        };
        result.host = ran.host;
        self.done.push(result);
    }
}
