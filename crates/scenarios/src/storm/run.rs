//! Runs `storm`: for each kind of memory and number of racers a guest of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use abi::Record;
use abi::record::Summary;
use guest::run::GuestRun;
use hostfacts::memory::{HostBlocks, host_blocks};
use record::case::{CaseResult, FaultTimes};
use record::maintenance::{Access, FaultKind};
use record::memory::{MemoryKind, mapped_bytes};
use record::result::VcpuFacts;
use record::status::{Status, Verdict};
use units::stats::{self, Timing};

use crate::cost::CostModel;
use crate::memory::block_bytes;
use crate::projection::{Cost, Headroom};
use crate::runner::cases::{CaseRun, CaseRunner, PreparedMemory, append, blocks, racers_id, records};
use crate::runner::observer::{Observation, Setup};
use crate::runner::session::{Build, Error, Finished, Session};
use crate::storm::findings::{Conclusion, Findings, Racer, TracedRace};
use crate::storm::program::{Case, Order, tag};
use crate::storm::{Args, verdict};

/// The most rounds of a storm that goes on for a time.
const ROUNDS_MAX: u64 = 100_000;

/// Runs the scenario.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let most = args.racers.iter().copied().max().unwrap_or(1);
    let mut runner = CaseRunner::new("storm", &args.common, build, most)?;
    let mut session = Session::begin(&args.common, build)?;
    let mut cases: Vec<CaseResult> = Vec::new();
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases);
    session.conclusion.findings = headroom(&cases, &runner.vcpus)
        .map(|headroom| record::findings::Findings::of(&Conclusion { headroom }))
        .unwrap_or_default();
    session.end(outcome, runner.name, runner.vcpus, cases)
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    for block in chosen(args)? {
        let first = cases.len();
        // One racer first, whatever was typed: the others are compared with it.
        for racers in args.racers.iter().copied().collect::<BTreeSet<_>>() {
            let mut case = case(runner, session, args, block, racers, &cases[first..])?;
            runner.done(session, &mut case)?;
            cases.push(case);
            if session.interrupted() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Returns the kinds of memory asked for, or the one with the largest block.
fn chosen(args: &Args) -> Result<Vec<MemoryKind>, Error> {
    let most = args.racers.iter().copied().max().unwrap_or(1);
    let all = blocks(&args.blocks, args.region, |block, host| region_bytes(args, block, most, host))?;
    if !args.blocks.is_empty() {
        return Ok(all);
    }
    let host = host_blocks();
    let largest =
        all.into_iter().max_by_key(|b| block_bytes(*b, &host).map_or(0, |bytes| mapped_bytes(bytes, host.page_bytes)));
    Ok(largest.into_iter().collect())
}

fn region_bytes(args: &Args, block: MemoryKind, racers: u64, host: &HostBlocks) -> u64 {
    let Ok(bytes) = block_bytes(block, host) else { return 0 };
    args.region.map_or_else(|| Case::default_region_bytes(bytes, racers, args.mode), |r| r.0)
}

fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    block: MemoryKind,
    racers: u64,
    before: &[CaseResult],
) -> Result<CaseResult, Error> {
    let control = if args.order == Order::ExecFirst { ".exec-first" } else { "" };
    let id = racers_id(block, racers, args.mode.name()) + control;
    let mut result = CaseResult { id, rounds: args.rounds, ..CaseResult::on(block, racers) };
    let mut skip = |reason: String| result.verdict = Verdict::new(Status::Skip, reason);
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    if racers > cpus {
        skip(format!("{racers} racers need as many CPUs, this machine gives {cpus}: they would take turns"));
        return Ok(result);
    }
    let memory = match runner.prepare(session, block, |host| region_bytes(args, block, racers, host))? {
        Ok(memory) => memory,
        Err(missing) => {
            skip(missing.to_string());
            return Ok(result);
        }
    };
    let traced = runner.traced(args.rounds);
    let plan = plan(args, &memory, racers, traced.is_some());
    if plan.races() == 0 {
        let at_once = args.mode.blocks_at_once(racers);
        skip(format!(
            "a region of {} blocks is too small for races into {at_once}",
            memory.region_bytes / memory.block_bytes
        ));
        return Ok(result);
    }
    let setup = Setup {
        label: format!("storm {block}, {racers} racers"),
        traced,
        code: plan.host_code(),
        until: args.seconds.map(Duration::from_secs),
        ..Setup::default()
    };
    let Some(mut ran) = runner.run(session, &memory, &plan.guest(), setup, &mut result)? else { return Ok(result) };
    if args.seconds.is_some() && !ran.seen.time_over && ran.trouble.is_none() {
        session.evidence.notes.push(format!("storm {block}, {racers} racers: room for {} rounds only", plan.rounds));
    }
    write_races(session, block, &plan, &ran.run)?;
    let raced = Raced { ran: &ran, plan: &plan, traced };
    result.times = Some(FaultTimes {
        touch: ran.timing(tag::TOUCH, args.rounds),
        exec: raced.timing(tag::RACE),
        resident: raced.timing(tag::RESIDENT),
        tracing_cost: None,
    });
    let mut storm = raced.storm();
    result.rounds = storm.timed_rounds;
    let geometry = CostModel::new(&session.machine, runner.vcpus.first(), memory.host.page_bytes);
    let alone = |case: &&CaseResult| case.vcpus == 1;
    let one = before.iter().find(alone).and_then(|case| case.findings.get());
    if let Some(one) = one.or_else(|| (racers == 1).then(|| storm.clone())) {
        verdict::compare(&mut storm, racers, memory.block_bytes, &one, &geometry);
    }
    let judged = || verdict::case(&result, &storm, racers, &ran.context);
    result.verdict = ran.trouble.take().unwrap_or_else(judged);
    result.findings = record::findings::Findings::of(&storm);
    Ok(result)
}

fn plan(args: &Args, memory: &PreparedMemory, racers: u64, traced: bool) -> Case {
    let case = Case {
        block_bytes: memory.block_bytes,
        region_bytes: memory.region_bytes,
        backing: memory.backing,
        racers,
        mode: args.mode,
        order: args.order,
        rounds: args.rounds + u64::from(traced),
    };
    match args.seconds {
        Some(_) if case.races() > 0 => Case { rounds: case.rounds_within(ROUNDS_MAX), ..case },
        _ => case,
    }
}

/// Returns the headroom after the longest stall of all cases.
fn headroom(cases: &[CaseResult], vcpus: &[VcpuFacts]) -> Option<Headroom> {
    let threshold = hostfacts::detector::read(std::path::Path::new("/")).soft_threshold_s()?;
    let storms: Vec<Findings> = cases.iter().filter_map(|case| case.findings.get()).collect();
    let longest = storms.iter().map(|storm| storm.worst_ns).max()?;
    let ns_per_line = storms.iter().find_map(|storm| Some(storm.model.as_ref()?.ns_per_line));
    let line_bytes = vcpus.first()?.imin_line_bytes;
    let mut sizes: Vec<u64> = cases.iter().map(CaseResult::block_bytes).filter(|bytes| *bytes > 0).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let cost = ns_per_line.map(|ns_per_line| Cost { ns_per_line, line_bytes });
    Some(Headroom::new(u64::from(threshold) * 1_000_000_000, longest, cost, &sizes))
}

/// Records of one case, told apart by race and round.
struct Raced<'a> {
    ran: &'a CaseRun,
    plan: &'a Case,
    traced: Option<u64>,
}

impl Raced<'_> {
    fn timed(&self, record: &Record) -> bool {
        Some(u64::from(record.pass)) != self.traced
    }

    /// Returns summaries of timed fetches of this kind; each is of one element.
    fn fetches<'a>(
        &'a self,
        records: impl Iterator<Item = &'a Record>,
        kind: u32,
    ) -> impl Iterator<Item = (&'a Record, Summary)> {
        let fetches = records.filter(move |r| tag::split(r.tag).0 == kind && self.timed(r));
        fetches.filter_map(|r| Some((r, r.summary()?)))
    }

    fn timing(&self, kind: u32) -> Option<Timing> {
        let all = self.fetches(records(&self.ran.run), kind);
        stats::timing(all.map(|(_, fetch)| fetch.max_ticks).collect(), self.ran.hz())
    }

    fn storm(&self) -> Findings {
        let worst = self.timing(tag::RACE).map_or(0, |timing| timing.ns.max);
        let traced = u64::from(self.ran.seen.traced);
        let unfinished = u64::from(self.ran.seen.time_over);
        Findings {
            mode: self.plan.mode,
            order: self.plan.order,
            races: self.plan.races(),
            timed_rounds: self.ran.seen.rounds.saturating_sub(traced + unfinished),
            worst_ns: worst,
            wall: self.wall(),
            racers: self.racers(),
            traced: if self.ran.seen.traced { traced_races(self.plan, &self.ran.seen) } else { Vec::new() },
            growth: None,
            model: None,
        }
    }

    /// From the first begin to the last end of each race.
    fn wall(&self) -> Option<Timing> {
        let mut spans = std::collections::BTreeMap::new();
        for (r, fetch) in self.fetches(records(&self.ran.run), tag::RACE) {
            let (began, ended) = (fetch.began_ticks, fetch.began_ticks + fetch.max_ticks);
            let span = spans.entry((r.pass, r.tag)).or_insert((began, ended));
            *span = (span.0.min(began), span.1.max(ended));
        }
        stats::timing(spans.into_values().map(|(began, ended)| ended - began).collect(), self.ran.hz())
    }

    fn racers(&self) -> Vec<Racer> {
        let threshold = self.timing(tag::RESIDENT).map_or(u64::MAX, |resident| 4 * resident.ticks.max.max(1));
        let racer = |(n, vcpu): (usize, &guest::run::VcpuReport)| {
            let ticks: Vec<u64> =
                self.fetches(vcpu.records.iter(), tag::RACE).map(|(_, fetch)| fetch.max_ticks).collect();
            Racer {
                vcpu: n as u64,
                races: ticks.len() as u64,
                faulted: ticks.iter().filter(|t| **t > threshold).count() as u64,
                stall: stats::timing(ticks, self.ran.hz()),
            }
        };
        self.ran.run.vcpus.iter().enumerate().map(racer).collect()
    }
}

/// Joins the trace with the races: each block's faults by thread, and the invalidations inside them.
fn traced_races(plan: &Case, seen: &Observation) -> Vec<TracedRace> {
    let wanted = if plan.order == Order::DataFirst { FaultKind::Permission } else { FaultKind::Translation };
    let at_once = plan.mode.blocks_at_once(plan.racers);
    let mut races: Vec<TracedRace> = Vec::new();
    for race in 0..plan.races() {
        for block in 0..at_once {
            let vcpus = (0..plan.racers).map(|n| plan.block_ipa(race, n));
            let block_ipa = guest::region::REGION_IPA + (race * at_once + block) * plan.block_bytes;
            races.push(TracedRace {
                block_ipa,
                racers: vcpus.filter(|ipa| *ipa == block_ipa).count() as u64,
                faulted: Vec::new(),
                faults: 0,
                invalidations: seen.icache_probed.then_some(0),
                longest_ns: None,
            });
        }
    }
    let holds = |race: &&mut TracedRace, ipa: u64| (race.block_ipa..race.block_ipa + plan.block_bytes).contains(&ipa);
    let faults: Vec<_> = seen.log.faults.iter().filter(|f| f.access == Access::Fetch && f.kind == wanted).collect();
    for fault in &faults {
        let Some(race) = races.iter_mut().find(|race| holds(race, fault.ipa)) else { continue };
        race.faults += 1;
        let vcpu = seen.threads.get(&fault.pid).copied();
        race.faulted.extend(vcpu.filter(|n| !race.faulted.contains(n)));
    }
    for call in &seen.log.icache {
        // The fault that a call serves is its thread's last one before.
        let fault = faults.iter().filter(|f| f.pid == call.pid && f.ts_ns <= call.ts_ns).max_by_key(|f| f.ts_ns);
        let race = fault.and_then(|f| races.iter_mut().find(|race| holds(race, f.ipa)));
        if let Some(race) = race {
            race.invalidations = race.invalidations.map(|n| n + 1);
            race.longest_ns = race.longest_ns.max(Some(call.duration_ns));
        }
    }
    races.iter_mut().for_each(|race| race.faulted.sort_unstable());
    races
}

/// Appends every raced fetch to `storm.csv`.
fn write_races(session: &Session, block: MemoryKind, plan: &Case, run: &GuestRun) -> Result<(), Error> {
    let rows = run.vcpus.iter().enumerate().flat_map(|(n, vcpu)| {
        vcpu.records.iter().filter_map(|r| Some((r, r.summary()?))).filter_map(move |(r, fetch)| {
            let (kind, race) = tag::split(r.tag);
            let ipa = plan.block_ipa(u64::from(race), n as u64);
            let numbers =
                [plan.racers, n as u64, u64::from(r.pass), u64::from(race), fetch.max_ticks, fetch.began_ticks];
            let [racers, vcpu, round, race, ticks, began] = numbers.map(|number| number.to_string());
            let row = [block.to_string(), racers, vcpu, round, race, format!("{ipa:#x}"), ticks, began];
            (kind == tag::RACE).then_some(row)
        })
    });
    let columns = ["block", "racers", "vcpu", "round", "race", "ipa", "ticks", "began"];
    append(session, "storm.csv", columns, rows)
}
