//! Runs `random`: legal programs from a seed, one after another in one guest, until one shows something forbidden; and
//! programs from files.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use guest::event::Event;
use guest::region::region;
use hostfacts::memory::MemoryKinds;
use programs::generate::{Space, program};
use programs::legal::Limits;
use programs::oracle::Geometry;
use programs::program::{Act, Program, Span, Step as ProgramStep};
use programs::replay::Replay;
use programs::shrink::shrink;
use record::case::{CaseResult, Memory};
use record::journal::Entry;
use record::maintenance::{Access, FaultCount, HostSide, Maintenance};
use record::memory::MemoryKind;
use record::status::{Status, Verdict};
use record::store;

use crate::looks::{LookCounts, describe};
use crate::memory::block_bytes;
use crate::options::Common;
use crate::random::args::Args;
use crate::random::args::RANDOM_SECONDS;
use crate::random::args::REPLAY;
use crate::random::findings::Findings;
use crate::runner::cases::{CaseRunner, PreparedMemory, racers_id};
use crate::runner::program_runner::{self, Machine, NoOutcome, ProgramRun, ProgramSource, Reset, Setup};
use crate::runner::session::{Build, Error, Finished, Session};

/// Programs that are traced; more would only be slower.
const TRACED: u64 = 100;
/// Time that one program may take: they are small.
const LIMIT: Duration = Duration::from_secs(30);
/// File of the smallest program that failed.
const FAILURE: &str = "failure.toml";
/// Most steps of a program.
const STEPS: usize = 20;
/// Times that a smaller program is run before it is taken for one that holds.
const TRIES: usize = 3;

/// Runs the scenario.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let source = Programs {
        probes: Event::ALL.iter().copied().collect(),
        seed: args.seed,
        programs: args.programs.unwrap_or(u64::MAX),
        until: args.seconds.or(args.programs.is_none().then_some(RANDOM_SECONDS)).map(Duration::from_secs),
        ..Programs::default()
    };
    on_one_kind("random", &args.common, build, (args.block, REGION_BYTES), args.vcpus, source)
}

/// Runs a program from a file.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn replay(replay: &Replay, common: &Common, build: &Build) -> Result<Finished, Error> {
    let vcpus = replay.program.vcpus as u64;
    let block = replay.backing.as_deref().unwrap_or("page");
    let block = block.parse().map_err(|_| Error::Usage(format!("backing = \"{block}\" is no kind of memory")))?;
    let ends = replay.program.steps.iter().filter_map(|step| step.act.span()).map(|span| span.start + span.bytes());
    let least = ends.max().unwrap_or(0).max(REGION_BYTES);
    let source = Programs { given: Some(replay.program.clone()), programs: 1, ..Programs::default() };
    on_one_kind(REPLAY, common, build, (block, least), vcpus, source)
}

fn on_one_kind(
    name: &'static str,
    common: &Common,
    build: &Build,
    (block, least): (MemoryKind, u64),
    vcpus: u64,
    source: Programs,
) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new(name, common, build, vcpus)?;
    let mut session = Session::begin(common, build)?;
    let id = racers_id(block, vcpus, "shared");
    let mut case = CaseResult { id, ..CaseResult::on(block, vcpus) };
    let outcome = run_programs(&mut runner, &mut session, source, (block, least), &mut case);
    let outcome = outcome.and_then(|()| runner.done(&mut session, &mut case));
    session.end(outcome, name, runner.vcpus, vec![case])
}

/// Enough for slots in different pages and at different places of a block.
const REGION_BYTES: u64 = 512 << 10;

fn region_bytes(block: MemoryKind, least: u64, host: &MemoryKinds) -> u64 {
    least.next_multiple_of(block_bytes(block, host).unwrap_or(host.page_bytes))
}

fn run_programs(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    mut source: Programs,
    (block, least): (MemoryKind, u64),
    case: &mut CaseResult,
) -> Result<(), Error> {
    session.journal(&Entry::Case { name: case.name.clone(), before: Box::new(case.clone()) })?;
    let memory = match runner.prepare(session, block, |host| region_bytes(block, least, host))? {
        Ok(memory) => memory,
        Err(missing) => {
            case.verdict = Verdict::new(Status::Skip, missing.to_string());
            return Ok(());
        }
    };
    case.memory = Some(Memory { kind: block, block_bytes: memory.block_bytes, region_bytes: memory.region_bytes });
    let traced = if runner.common.no_trace { 0 } else { TRACED + source.probes.len() as u64 };
    let setup = Setup { reset: Reset::SamePages, traced, limit: LIMIT, fwb: vmm::limits()?.fwb.unwrap_or(false) };
    let spec = program_runner::guest(region(memory.region_bytes, memory.backing), case.vcpus as usize);
    let seed = source.seed;
    let (_, seen) =
        program_runner::run(runner, session, &spec, &mut source, setup, &format!("{} {block}", runner.name))?;
    case.complaints = seen.complaints;
    case.verdict = source.verdict();
    case.mismatches = source.found.seen.forbidden;
    case.host = (traced > 0).then(|| source.host.clone());
    if let Some((program, why)) = source.failed.take() {
        let smallest = smallest(runner, session, &memory, &program, setup);
        let backing = Some(block.to_string());
        let text = Replay { failed: why, seed: source.failed_seed, backing, program: smallest }.to_toml();
        let path = session.dir.path().join(FAILURE);
        store::replace(&path, text.as_bytes()).map_err(|error| store::Error::Write(path, error))?;
        source.found.failure = Some(text);
    }
    case.findings = record::findings::StoredFindings::of(&Findings { seed, ..source.found });
    Ok(())
}

/// Returns the smallest program that still fails: each candidate in a guest of its own.
fn smallest(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    memory: &PreparedMemory,
    program: &Program,
    setup: Setup,
) -> Program {
    let setup = Setup { traced: 0, ..setup };
    // Lines as small as any, since the smaller program's slots are where the larger one's were.
    let limits = Limits { region_bytes: memory.region_bytes, line_bytes: abi::slot::BYTES };
    shrink(program, limits, |candidate| {
        (0..TRIES).any(|_| {
            let mut once = Programs { given: Some(candidate.clone()), programs: 1, ..Programs::default() };
            let spec = program_runner::guest(region(memory.region_bytes, memory.backing), candidate.vcpus);
            let ran = program_runner::run(runner, session, &spec, &mut once, setup, "shrinking");
            ran.is_ok() && once.failed.is_some()
        })
    })
}

/// Programs to be run: first one for each event that may not be had here, then random ones, or one that is given.
#[derive(Default)]
struct Programs {
    probes: VecDeque<Event>,
    available: Vec<Event>,
    given: Option<Program>,
    seed: u64,
    programs: u64,
    until: Option<Duration>,
    began: Option<Instant>,
    probing: Option<Event>,
    found: Findings,
    host: HostSide,
    traced: bool,
    geometry: Option<Geometry>,
    /// The program that failed, and how.
    failed: Option<(Program, String)>,
    failed_seed: Option<u64>,
    trouble: Option<Verdict>,
}

impl Programs {
    fn over(&mut self) -> bool {
        let began = *self.began.get_or_insert_with(Instant::now);
        let late = self.until.is_some_and(|until| began.elapsed() >= until);
        self.found.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        late || self.found.programs >= self.programs || self.failed.is_some() || self.trouble.is_some()
    }

    fn verdict(&self) -> Verdict {
        if let Some((_, why)) = &self.failed {
            return Verdict::new(Status::Fail, why.clone());
        }
        if let Some(verdict) = &self.trouble {
            return verdict.clone();
        }
        let Findings { programs, seen, .. } = &self.found;
        let faults = |access| self.host.faults.iter().filter(|f| f.access == access).map(|f| f.count).sum::<u64>();
        if *programs == 0 || seen.required == 0 {
            return Verdict::new(Status::Skip, format!("{programs} programs ran, and none had to see anything"));
        }
        if !self.traced || faults(Access::Fetch) + faults(Access::Data) == 0 {
            return Verdict::new(Status::Skip, "not shown that the guest faulted: no trace of it");
        }
        let invalidated = self.host.icache.is_none_or(|calls| calls.calls > 0);
        if faults(Access::Fetch) > 0 && !invalidated && self.geometry.is_some_and(|geometry| !geometry.dic) {
            let faults = faults(Access::Fetch);
            return Verdict::new(
                Status::Fail,
                format!("no maintenance: {faults} fetch faults, and the I-cache was not invalidated once"),
            );
        }
        let (required, weak) = (seen.required, seen.newest + seen.weak + seen.unpredictable + seen.unlisted);
        Verdict::new(
            Status::Pass,
            format!(
                "{programs} programs: {required} looks saw what they had to, {weak} were free; {} fetch and {} data faults in those traced",
                faults(Access::Fetch),
                faults(Access::Data)
            ),
        )
    }

    fn judged(&mut self, program: Program, ran: &ProgramRun) {
        let Ok(outcomes) = &ran.outcomes else { return };
        let mut seen = LookCounts::default();
        seen.add(outcomes);
        self.found.seen = self.found.seen.and(&seen);
        self.found.programs += 1;
        self.found.steps += program.steps.len() as u64;
        for event in &ran.events {
            *self.found.events.entry(*event).or_default() += 1;
        }
        if outcomes.failed() {
            let why = outcomes.forbidden().next().map_or_else(|| "a look saw what it may not".into(), describe);
            self.failed = Some((program, why));
        } else if seen.unjudged > 0 {
            self.trouble = Some(Verdict::new(Status::Error, format!("{} looks could not be judged", seen.unjudged)));
        }
    }
}

impl ProgramSource for Programs {
    fn next(&mut self, machine: &Machine) -> Option<Program> {
        self.geometry = Some(machine.geometry);
        if let Some(event) = self.probes.pop_front() {
            self.probing = Some(event);
            let span = Span { start: 0, stride: machine.limits.min_stride(), count: 1 };
            let act = Act::Event { event, span, generation: 1 };
            return Some(Program { vcpus: machine.vcpus, steps: vec![ProgramStep { vcpu: 0, act }] });
        }
        if self.over() {
            return None;
        }
        if let Some(program) = &self.given {
            return Some(program.clone());
        }
        let space = Space { vcpus: machine.vcpus, limits: machine.limits, steps: STEPS, events: &self.available };
        let next = program(self.seed, &space);
        self.failed_seed = Some(self.seed);
        self.seed += 1;
        Some(next)
    }

    fn done(&mut self, program: Program, ran: ProgramRun) {
        if let Some(host) = &ran.host {
            self.traced = true;
            add(&mut self.host, host);
        }
        if let Some(event) = self.probing.take() {
            match ran.outcomes {
                Ok(_) => self.available.push(event),
                Err(why @ NoOutcome::Died(_)) => self.trouble = Some(Verdict::new(Status::Error, why.to_string())),
                Err(why) => drop(self.found.refused.insert(event, why.to_string())),
            }
            return;
        }
        match &ran.outcomes {
            Ok(_) => self.judged(program, &ran),
            Err(NoOutcome::Refused(event, why)) if self.given.is_none() => {
                // It was there a moment ago: such programs prove nothing, and the event is not asked for again.
                self.available.retain(|known| known != event);
                self.found.refused.insert(*event, why.to_string());
            }
            Err(why @ NoOutcome::Refused(..)) => self.trouble = Some(Verdict::new(Status::Skip, why.to_string())),
            Err(why) => self.trouble = Some(Verdict::new(Status::Error, why.to_string())),
        }
    }
}

/// Adds what the kernel did in another program.
fn add(all: &mut HostSide, more: &HostSide) {
    for fault in &more.faults {
        let same = |f: &&mut FaultCount| (f.access, f.kind, f.level) == (fault.access, fault.kind, fault.level);
        match all.faults.iter_mut().find(same) {
            Some(known) => known.count += fault.count,
            None => all.faults.push(fault.clone()),
        }
    }
    for (all, more) in [(&mut all.icache, more.icache), (&mut all.dcache, more.dcache)] {
        let (known, more) = (all.unwrap_or_default(), more);
        *all = more.map_or(*all, |more| {
            Some(Maintenance {
                calls: known.calls + more.calls,
                max_bytes: known.max_bytes.max(more.max_bytes),
                max_ns: known.max_ns.max(more.max_ns),
                total_ns: known.total_ns + more.total_ns,
            })
        });
    }
}
