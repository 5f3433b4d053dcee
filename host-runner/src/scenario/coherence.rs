//! Runs `coherence`: every event on every kind of memory, in the ways that the plan picks, all ways on one kind of memory
//! in one guest.

use std::collections::VecDeque;
use std::time::Duration;

use super::bench::{Bench, Ground};
use super::session::{self, Error, Session, Step};
use super::stage::{self, Machine, Ran, Reset, Seen, Setup, Source, Untold};
use crate::coherence::event::Event;
use crate::coherence::oracle::Geometry;
use crate::coherence::program::Program;
use crate::commands::run;
use crate::guest::GuestSpec;
use crate::plan::blocks::{Block, HostBlocks, stage2_level};
use crate::plan::coherence::{Combination, combinations, looks, spans};
use crate::plan::region;
use crate::plan::relax::Sharing;
use crate::result::{CaseResult, Coherence, Complaint, Sights, Status, Verdict, Way};
use crate::verdict::coherence as verdict;
use crate::vmm;

/// vCPUs: one that asks for events, and another.
const VCPUS: usize = 2;
/// Guests that may die on one kind of memory before the rest is given up.
const DEATHS: usize = 4;
/// Events for which it matters that KVM splits blocks ahead of faults.
const LOGGING: [Event; 2] = [Event::DirtyLogOn, Event::DirtyLogOff];

/// Runs the scenario and returns the exit code of its verdict.
///
/// # Errors
///
/// What kept it from a verdict.
pub fn run(args: &run::Coherence) -> Result<u8, Error> {
    let mut bench = Bench::new("coherence", &args.common, VCPUS as u64)?;
    let mut session = Session::begin(&args.common)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut bench, &mut session, args, &mut cases);
    session.end(outcome, bench.name, bench.vcpus, cases)
}

fn all_cases(
    bench: &mut Bench<'_>,
    session: &mut Session,
    args: &run::Coherence,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let fwb = vmm::limits()?.fwb.unwrap_or(false);
    let blocks = if args.blocks.is_empty() { all_blocks(&session::host_blocks()) } else { args.blocks.clone() };
    let events = if args.events.is_empty() { Event::ALL.to_vec() } else { args.events.clone() };
    let chosen = combinations(args.coverage, &events, looks(fwb), blocks.len());
    for (block, ways) in blocks.into_iter().zip(chosen) {
        for mut case in on_block(bench, session, args, block, ways, fwb)? {
            bench.done(session, &mut case)?;
            cases.push(case);
        }
        if session.interrupted() {
            break;
        }
    }
    Ok(())
}

/// Returns every kind of memory, had or not: what is missing is said.
fn all_blocks(host: &HostBlocks) -> Vec<Block> {
    let hugetlb = host.hugetlb.iter().map(|(bytes, _)| Block::Hugetlb(crate::size::Size(*bytes)));
    [Block::Page, Block::Thp, Block::Memfd, Block::File].into_iter().chain(hugetlb).collect()
}

/// Returns the size of the region for one kind of memory: enough for boundaries between blocks where they are small.
fn region_bytes(block: Block, host: &HostBlocks) -> u64 {
    match block.bytes(host).unwrap_or(host.page_bytes) {
        bytes if bytes <= 64 << 10 => 1 << 20,
        bytes if bytes <= 2 << 20 => 2 * bytes,
        bytes => bytes,
    }
}

/// Runs all ways on one kind of memory; those of dirty logging a second time with eager splitting, where KVM has it.
fn on_block(
    bench: &mut Bench<'_>,
    session: &mut Session,
    args: &run::Coherence,
    block: Block,
    ways: Vec<Combination>,
    fwb: bool,
) -> Result<Vec<CaseResult>, Error> {
    let not_run = CaseResult::not_run(block, VCPUS as u64, Sharing::Shared);
    session.journal(&Step::Case { block: block.to_string(), plan: Box::new(not_run.clone()) })?;
    if let (true, Block::Hugetlb(size)) = (args.common.hugepages, block) {
        // Twice as many pages as the region: some events prepare a second one.
        let region = region_bytes(block, &session::host_blocks());
        session.fill_pool(size.0, 2 * region.div_ceil(size.0))?;
    }
    let ground = match bench.ground(session, block, |host| region_bytes(block, host))? {
        Ok(ground) => ground,
        Err(missing) => {
            let skip = Verdict::new(Status::Skip, missing.to_string());
            return Ok(group(&not_run, ways.iter().map(|way| of(way, skip.clone())).collect(), &ways, false));
        }
    };
    let case = CaseResult { block_bytes: ground.block_bytes, region_bytes: ground.region_bytes, ..not_run };
    let mut runner = OnBlock { args, block, ground: &ground, fwb, complaints: Vec::new() };
    let plain = stage::guest(region(ground.region_bytes, ground.backing), VCPUS);
    let logging: Vec<_> = ways.iter().copied().filter(|way| LOGGING.contains(&way.event)).collect();
    let mut cases = group(&case, runner.run(bench, session, &plain, &ways)?, &ways, false);
    if ground.block_bytes > ground.host.page_bytes && !logging.is_empty() && !session.interrupted() {
        let eager = GuestSpec { eager_split: Some(ground.block_bytes), ..plain };
        cases.extend(group(&case, runner.run(bench, session, &eager, &logging)?, &logging, true));
    }
    if let Some(first) = cases.first_mut() {
        // They cannot be told apart by event: one guest ran them all.
        first.complaints = runner.complaints;
    }
    Ok(cases)
}

/// Makes a case of each event.
fn group(case: &CaseResult, ways: Vec<Way>, chosen: &[Combination], eager_split: bool) -> Vec<CaseResult> {
    let mut cases: Vec<CaseResult> = Vec::new();
    for (way, chosen) in ways.into_iter().zip(chosen) {
        let same = |case: &&mut CaseResult| case.coherence.as_ref().is_some_and(|c| c.event == chosen.event);
        match cases.iter_mut().find(same).and_then(|case| case.coherence.as_mut()) {
            Some(known) => known.ways.push(way),
            None => {
                let coherence = Some(Coherence { event: chosen.event, eager_split, ways: vec![way] });
                cases.push(CaseResult { coherence, ..case.clone() });
            }
        }
    }
    for case in &mut cases {
        if let Some(coherence) = &case.coherence {
            case.verdict = verdict::event(&coherence.ways);
            case.mismatches = coherence.ways.iter().map(|way| way.seen.forbidden).sum();
        }
    }
    cases
}

fn of(way: &Combination, verdict: Verdict) -> Way {
    let Combination { writer, looks, looker, .. } = *way;
    Way { writer, looks, looker, verdict, seen: Sights::default(), host: None }
}

/// What is the same for all guests on one kind of memory.
struct OnBlock<'a> {
    args: &'a run::Coherence,
    block: Block,
    ground: &'a Ground,
    fwb: bool,
    complaints: Vec<Complaint>,
}

impl OnBlock<'_> {
    /// Runs ways in one guest; in another one what is left when it dies.
    fn run(
        &mut self,
        bench: &mut Bench<'_>,
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
            match stage::run(bench, session, spec, &mut source, setup, &label) {
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
            region_bytes: on.ground.region_bytes,
            block_bytes: on.ground.block_bytes,
            level: stage2_level(on.ground.block_bytes, on.ground.host.page_bytes),
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

impl Source for Ways {
    fn next(&mut self, machine: &Machine) -> Option<Program> {
        let way = self.left.pop_front()?;
        self.under_way = Some((way, machine.geometry));
        let spans = spans(self.region_bytes, self.block_bytes, machine.limits.line_bytes, self.every_line, self.seed);
        Some(way.program(&spans))
    }

    fn done(&mut self, _: Program, ran: Ran) {
        let Some((way, geometry)) = self.under_way.take() else { return };
        let mut result = of(&way, Verdict::new(Status::Error, ""));
        let untraced = self.untraced.or_else(|| ran.host.is_none().then_some("no trace"));
        let context = verdict::Context { geometry, untraced, lost: ran.lost, level: self.level };
        result.verdict = match &ran.outcomes {
            Ok(outcomes) => {
                result.seen.add(outcomes);
                verdict::way(&way, outcomes, ran.host.as_ref(), &context)
            }
            Err(why @ Untold::Refused(..)) => Verdict::new(Status::Skip, why.to_string()),
            Err(why) => Verdict::new(Status::Error, why.to_string()),
        };
        result.host = ran.host;
        self.done.push(result);
    }
}
