//! The run of `storm`: one guest for each kind of memory and number of racers.

use std::collections::BTreeSet;
use std::time::Duration;

use abi::Record;
use abi::record::Summary;
use guest::report::GuestRun;
use hostfacts::memory::{MemoryKinds, memory_kinds};
use hostfacts::trace::GuestFault;
use record::case::{CaseResult, FaultTimes};
use record::maintenance::{Access, FaultKind};
use record::memory::{MemoryKind, mapped_bytes};
use record::result::VcpuFacts;
use record::status::{Status, Verdict};
use units::stats::{self, Timing};

use crate::cost::CostModel;
use crate::memory::{self, block_bytes};
use crate::projection::{Headroom, LineCost};
use crate::runner::cases::{CaseRun, CaseRunner, PreparedMemory, append, chosen_kinds, racers_id, records};
use crate::runner::observer::{Observation, Setup};
use crate::runner::session::{Build, Error, Finished, Session};
use crate::storm::args::Args;
use crate::storm::findings::{Conclusion, Findings, Racer, TracedRace};
use crate::storm::program::{CaseProgram, Order, tag};
use crate::storm::verdict;

/// Limit on the rounds of a case with `--seconds`.
const ROUNDS_MAX: u64 = 100_000;

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let most = args.racers.iter().copied().max().unwrap_or(1);
    let mut runner = CaseRunner::new("storm", &args.common, build, most)?;
    let mut session = Session::begin(runner.name, &args.common, build)?;
    let mut cases: Vec<CaseResult> = Vec::new();
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases);
    session.conclusion.findings = headroom(&cases, &runner.vcpus)
        .map(|headroom| record::findings::StoredFindings::of(&Conclusion { headroom }))
        .unwrap_or_default();
    session.end(outcome, runner.vcpus, cases)
}

/// A number of racers on a kind of memory, which one case is about.
#[derive(Clone, Copy)]
struct Race {
    kind: MemoryKind,
    racers: u64,
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    for kind in kinds(args)? {
        let first = cases.len();
        // The set sorts the numbers: the case of one racer has to come first, because the others are compared with it.
        for racers in args.racers.iter().copied().collect::<BTreeSet<_>>() {
            let mut case = case(runner, session, args, Race { kind, racers }, &cases[first..])?;
            runner.done(session, &mut case)?;
            cases.push(case);
            if session.interrupted() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Returns the kinds of memory on the command line, or else the one with the largest block that this host has enough of,
/// followed by those with larger blocks, whose cases say what is missing.
fn kinds(args: &Args) -> Result<Vec<MemoryKind>, Error> {
    let racers = args.racers.iter().copied().max().unwrap_or(1);
    let all = chosen_kinds(&args.kinds, args.region)?;
    if !args.kinds.is_empty() {
        return Ok(all);
    }
    let host = memory_kinds();
    let block = |kind: &MemoryKind| block_bytes(*kind, &host).map_or(0, |bytes| mapped_bytes(bytes, host.page_bytes));
    let fits = |kind: &&MemoryKind| {
        memory::check(**kind, region_bytes(args, Race { kind: **kind, racers }, &host), &host).is_ok()
    };
    let largest = all.iter().filter(fits).max_by_key(|kind| block(kind)).copied();
    let least = largest.map_or(0, |kind| block(&kind));
    Ok(largest.into_iter().chain(all.into_iter().filter(|kind| block(kind) > least)).collect())
}

fn region_bytes(args: &Args, race: Race, host: &MemoryKinds) -> u64 {
    let Ok(bytes) = block_bytes(race.kind, host) else { return 0 };
    args.region.map_or_else(|| CaseProgram::default_region_bytes(bytes, race.racers, args.mode), |r| r.0)
}

/// Runs one case. `before` holds the cases on the same kind of memory with fewer racers.
fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    race: Race,
    before: &[CaseResult],
) -> Result<CaseResult, Error> {
    let Race { kind, racers } = race;
    let control = if args.order == Order::ExecFirst { ".exec-first" } else { "" };
    let id = racers_id(kind, racers, args.mode.name()) + control;
    let mut result = CaseResult { id, rounds: args.rounds, ..CaseResult::on(kind, racers) };
    let skip = |result: CaseResult, reason| Ok(CaseResult { verdict: Verdict::new(Status::Skip, reason), ..result });
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    if racers > cpus {
        let reason = format!("{racers} racers need as many CPUs, this machine gives {cpus}: they would take turns");
        return skip(result, reason);
    }
    let Some(memory) = runner.prepare_for(session, kind, |host| region_bytes(args, race, host), &mut result)? else {
        return Ok(result);
    };
    let traced = runner.traced(args.rounds);
    let rounds = args.rounds + u64::from(traced.is_some());
    let program = program(args, &memory, racers, rounds);
    if program.races() == 0 {
        let (blocks, at_once) = (memory.region_bytes / memory.block_bytes, args.mode.blocks_at_once(racers));
        return skip(result, format!("a region of {blocks} blocks is too small for races into {at_once}"));
    }
    let setup = Setup {
        label: format!("storm {kind}, {racers} racers"),
        traced,
        code: program.host_code(),
        until: args.seconds.map(Duration::from_secs),
        ..Setup::default()
    };
    let Some(mut ran) = runner.run(session, &memory, &program.guest(), setup, &mut result)? else { return Ok(result) };
    if args.seconds.is_some() && !ran.observation.time_over && ran.bad_end.is_none() {
        session.evidence.notes.push(format!("storm {kind}, {racers} racers: room for {} rounds only", program.rounds));
    }
    write_races(session, kind, &program, &ran.run)?;
    let races = RaceRecords { ran: &ran, program: &program, traced };
    result.times = Some(FaultTimes {
        touch: ran.timing(tag::TOUCH, args.rounds),
        exec: races.timing(tag::RACE),
        resident: races.timing(tag::RESIDENT),
        tracing_cost: None,
    });
    let mut storm = races.findings();
    result.rounds = storm.timed_rounds;
    let one = before.iter().find(|case| case.vcpus == 1).and_then(|case| case.findings.get());
    if let Some(one) = one.or_else(|| (racers == 1).then(|| storm.clone())) {
        let cost = CostModel::new(&session.machine, runner.vcpus.first(), memory.host.page_bytes);
        verdict::compare_with_one(&mut storm, racers, memory.block_bytes, &one, &cost);
    }
    let judged = || verdict::judge(&result, &storm, racers, &ran.context);
    result.verdict = ran.bad_end.take().unwrap_or_else(judged);
    result.findings = record::findings::StoredFindings::of(&storm);
    Ok(result)
}

/// Returns the program of a case. With `--seconds`, it has as many rounds as fit in place of `rounds`.
fn program(args: &Args, memory: &PreparedMemory, racers: u64, rounds: u64) -> CaseProgram {
    let program = CaseProgram {
        block_bytes: memory.block_bytes,
        region_bytes: memory.region_bytes,
        backing: memory.backing,
        racers,
        mode: args.mode,
        order: args.order,
        rounds,
    };
    match args.seconds {
        Some(_) if program.races() > 0 => CaseProgram { rounds: program.rounds_within(ROUNDS_MAX), ..program },
        _ => program,
    }
}

/// Returns the headroom for the longest stall of all cases.
fn headroom(cases: &[CaseResult], vcpus: &[VcpuFacts]) -> Option<Headroom> {
    let threshold = hostfacts::detector::read().soft_threshold_s()?;
    let storms: Vec<Findings> = cases.iter().filter_map(|case| case.findings.get()).collect();
    let longest = storms.iter().map(|storm| storm.worst_ns).max()?;
    let ns_per_line = storms.iter().find_map(|storm| Some(storm.model.as_ref()?.ns_per_line));
    let line_bytes = vcpus.first()?.imin_line_bytes;
    let mut sizes: Vec<u64> = cases.iter().map(CaseResult::block_bytes).filter(|bytes| *bytes > 0).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let cost = ns_per_line.map(|ns_per_line| LineCost { ns_per_line, line_bytes });
    Some(Headroom::new(u64::from(threshold) * 1_000_000_000, longest, cost, &sizes))
}

/// The races of one case, as its records show them.
struct RaceRecords<'a> {
    ran: &'a CaseRun,
    program: &'a CaseProgram,
    traced: Option<u64>,
}

impl RaceRecords<'_> {
    /// Returns whether a record is from a timed round.
    fn timed(&self, record: &Record) -> bool {
        Some(u64::from(record.pass)) != self.traced
    }

    /// Returns the records of the timed fetches of this kind, with their summaries. Each summary is about one element.
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

    fn findings(&self) -> Findings {
        let worst = self.timing(tag::RACE).map_or(0, |timing| timing.ns.max);
        let observation = &self.ran.observation;
        let (traced, unfinished) = (u64::from(observation.traced), u64::from(observation.time_over));
        Findings {
            mode: self.program.mode,
            order: self.program.order,
            races: self.program.races(),
            timed_rounds: observation.rounds.saturating_sub(traced + unfinished),
            worst_ns: worst,
            wall: self.wall(),
            racers: self.racers(),
            traced: if observation.traced { traced_races(self.program, observation) } else { Vec::new() },
            growth: None,
            model: None,
        }
    }

    /// Returns the times from the first start to the last end of each race.
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
        let racer = |(n, vcpu): (usize, &guest::report::VcpuReport)| {
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

/// Assigns the faults and invalidations of the trace to the blocks of the traced round.
fn traced_races(program: &CaseProgram, observation: &Observation) -> Vec<TracedRace> {
    let wanted = if program.order == Order::DataFirst { FaultKind::Permission } else { FaultKind::Translation };
    let at_once = program.mode.blocks_at_once(program.racers);
    let mut races: Vec<TracedRace> = Vec::new();
    for race in 0..program.races() {
        for block in 0..at_once {
            let vcpus = (0..program.racers).map(|n| program.block_ipa(race, n));
            let block_ipa = guest::region::REGION_IPA + (race * at_once + block) * program.block_bytes;
            races.push(TracedRace {
                block_ipa,
                racers: vcpus.filter(|ipa| *ipa == block_ipa).count() as u64,
                faulted: Vec::new(),
                faults: 0,
                invalidations: observation.probed.icache.then_some(0),
                longest_ns: None,
            });
        }
    }
    let holds =
        |race: &&mut TracedRace, ipa: u64| (race.block_ipa..race.block_ipa + program.block_bytes).contains(&ipa);
    let fetch = |f: &&GuestFault| f.access == Access::Fetch && f.kind == wanted;
    let faults: Vec<_> = observation.log.faults().filter(fetch).collect();
    for fault in &faults {
        let Some(race) = races.iter_mut().find(|race| holds(race, fault.ipa)) else { continue };
        race.faults += 1;
        let vcpu = observation.threads.get(&fault.pid).copied();
        race.faulted.extend(vcpu.filter(|n| !race.faulted.contains(n)));
    }
    for call in observation.log.icache() {
        // A call belongs to the last fault of its thread before it.
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
fn write_races(session: &Session, memory: MemoryKind, program: &CaseProgram, run: &GuestRun) -> Result<(), Error> {
    let rows = run.vcpus.iter().enumerate().flat_map(|(n, vcpu)| {
        vcpu.records.iter().filter_map(|r| Some((r, r.summary()?))).filter_map(move |(r, fetch)| {
            let (kind, race) = tag::split(r.tag);
            let ipa = program.block_ipa(u64::from(race), n as u64);
            let numbers =
                [program.racers, n as u64, u64::from(r.pass), u64::from(race), fetch.max_ticks, fetch.began_ticks];
            let [racers, vcpu, round, race, ticks, began] = numbers.map(|number| number.to_string());
            let row = [memory.to_string(), racers, vcpu, round, race, format!("{ipa:#x}"), ticks, began];
            (kind == tag::RACE).then_some(row)
        })
    });
    let columns = ["block", "racers", "vcpu", "round", "race", "ipa", "ticks", "began"];
    append(session, "storm.csv", columns, rows)
}
