//! Runs `random`: legal programs from a seed, one after another in one guest, until a look returns something forbidden.
//! Also runs the programs in program files.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use guest::event::Event;
use guest::region::region;
use guest::spec::GuestSpec;
use hostfacts::memory::MemoryKinds;
use programs::file::ProgramFile;
use programs::generate::{Space, random_program};
use programs::legal::Limits;
use programs::oracle::CacheFeatures;
use programs::program::{Action, Program, ProgramOp, Span};
use programs::shrink::shrink;
use record::budget::Budget;
use record::case::{CaseResult, Memory};
use record::journal::Entry;
use record::maintenance::{Access, FaultCount, HostSide, Maintenance};
use record::memory::MemoryKind;
use record::status::{Status, Verdict};
use record::store;

use crate::looks::{LookCounts, describe};
use crate::memory::block_bytes;
use crate::options::Common;
use crate::random::args::{Args, REPLAY};
use crate::random::findings::Findings;
use crate::runner::cases::{CaseRunner, PreparedMemory, racers_id, surroundings};
use crate::runner::program_runner::{self, NoOutcome, ProgramRun, ProgramSource, Reset, Setup, Target};
use crate::runner::session::{Build, Error, Finished, Session};

/// Default duration of a run in seconds.
const DEFAULT_SECONDS: u64 = 10;
/// Number of random programs that are traced. Tracing makes programs slower, and more traces show nothing new.
const TRACED: u64 = 100;
/// Time limit of one program. Programs are short.
const LIMIT: Duration = Duration::from_secs(30);
/// Name of the file with the smallest program that failed.
const FAILURE: &str = "failure.toml";
/// Maximum number of ops of a program.
const MAX_OPS: usize = 20;
/// Number of times that a smaller program runs without a failure before it counts as correct.
const TRIES: usize = 3;
/// Minimum size of the region in bytes. It is enough for slots on different pages and in different places of a block.
const REGION_BYTES: u64 = 512 << 10;

/// Run of programs on one kind of memory: a random run, or the run of a program file.
struct Request<'a> {
    /// Name of the scenario in the result.
    name: &'static str,
    common: &'a Common,
    kind: MemoryKind,
    /// Minimum size of the region in bytes.
    min_region_bytes: u64,
    vcpus: u64,
    /// True if KVM is to split blocks when dirty logging starts.
    eager_split: bool,
}

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
        until: args.seconds.or(args.programs.is_none().then_some(DEFAULT_SECONDS)).map(Duration::from_secs),
        ..Programs::default()
    };
    let request = Request {
        name: "random",
        common: &args.common,
        kind: args.block,
        min_region_bytes: REGION_BYTES,
        vcpus: args.vcpus,
        eager_split: false,
    };
    request.run(build, source)
}

/// Runs the program of a program file.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn replay(file: &ProgramFile, common: &Common, build: &Build) -> Result<Finished, Error> {
    let kind = file.backing.as_deref().unwrap_or("page");
    let kind = kind.parse().map_err(|_| Error::Usage(format!("backing = \"{kind}\" is no kind of memory")))?;
    let ends = file.program.ops.iter().filter_map(|op| op.action.span()).map(|span| span.start + span.bytes());
    let min_region_bytes = ends.max().unwrap_or(0).max(REGION_BYTES);
    let source = Programs::once(&file.program);
    let vcpus = file.program.vcpus as u64;
    let eager_split = file.eager_split;
    Request { name: REPLAY, common, kind, min_region_bytes, vcpus, eager_split }.run(build, source)
}

impl Request<'_> {
    fn run(&self, build: &Build, source: Programs) -> Result<Finished, Error> {
        let mut runner = CaseRunner::new(self.name, self.common, build, self.vcpus)?;
        let mut session = Session::begin(self.name, self.common, build)?;
        let id = racers_id(self.kind, self.vcpus, "shared");
        let mut case = CaseResult { id, ..CaseResult::on(self.kind, self.vcpus) };
        let outcome = self.run_case(&mut runner, &mut session, source, &mut case);
        let outcome = outcome.and_then(|()| runner.done(&mut session, &mut case));
        session.end(outcome, runner.vcpus, vec![case])
    }

    fn region_bytes(&self, host: &MemoryKinds) -> u64 {
        self.min_region_bytes.next_multiple_of(block_bytes(self.kind, host).unwrap_or(host.page_bytes))
    }

    /// Runs the programs of a source and fills in the case.
    fn run_case(
        &self,
        runner: &mut CaseRunner<'_>,
        session: &mut Session,
        mut source: Programs,
        case: &mut CaseResult,
    ) -> Result<(), Error> {
        session.journal(&Entry::Case { name: case.name.clone(), before: Box::new(case.clone()) })?;
        let memory = match runner.prepare(session, self.kind, |host| self.region_bytes(host))? {
            Ok(memory) => memory,
            Err(missing) => {
                case.verdict = Verdict::new(Status::Skip, missing.to_string());
                return Ok(());
            }
        };
        let PreparedMemory { block_bytes, region_bytes, .. } = memory;
        case.memory = Some(Memory { kind: self.kind, block_bytes, region_bytes });
        let eager_split = self.eager_split.then_some(block_bytes);
        let setup = Setup {
            guest: &GuestSpec {
                eager_split,
                ..program_runner::guest(region(region_bytes, memory.backing), case.vcpus as usize)
            },
            label: &format!("{} {}", runner.name, self.kind),
            reset: Reset::SamePages,
            traced: if runner.common.no_trace { 0 } else { TRACED + source.probes.len() as u64 },
            limit: LIMIT,
            fwb: vmm::limits()?.fwb.unwrap_or(false),
            surroundings: &surroundings(&memory, &GuestSpec { eager_split, ..GuestSpec::default() }),
        };
        let seed = source.seed;
        case.complaints = program_runner::run(runner, session, &mut source, setup)?.complaints;
        case.verdict = source.verdict();
        case.budget = source.budget.clone();
        case.mismatches = source.findings.seen.forbidden;
        case.host = (setup.traced > 0).then(|| source.host.clone());
        if let Some(failed) = source.failed.take() {
            let smallest = smallest(runner, session, &memory, &failed, setup);
            let backing = Some(self.kind.to_string());
            let file = ProgramFile {
                failed: failed.why,
                seed: source.last_seed,
                backing,
                eager_split: self.eager_split,
                program: smallest,
            };
            let text = file.to_toml();
            let path = session.dir.path().join(FAILURE);
            store::replace(&path, text.as_bytes()).map_err(|error| store::Error::Write(path, error))?;
            source.findings.failure = Some(text);
        }
        case.findings = record::findings::StoredFindings::of(&Findings { seed, ..source.findings });
        Ok(())
    }
}

/// Returns the smallest program that still fails. Each candidate runs in a guest of its own.
fn smallest(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    memory: &PreparedMemory,
    failed: &FailedProgram,
    setup: Setup<'_>,
) -> Program {
    let FailedProgram { program, is_beyond_budget, .. } = failed;
    // A trace makes every attempt slower.
    let traced = u64::from(*is_beyond_budget);
    // The slots of a smaller program are slots of the larger program, so they need no check against the machine's
    // lines.
    let limits = Limits { region_bytes: memory.region_bytes, line_bytes: abi::slot::BYTES };
    shrink(program, limits, |candidate| {
        (0..TRIES).any(|_| {
            let mut once = Programs::once(candidate);
            let guest = GuestSpec {
                eager_split: setup.guest.eager_split,
                ..program_runner::guest(region(memory.region_bytes, memory.backing), candidate.vcpus)
            };
            let setup = Setup { guest: &guest, label: "shrinking", traced, ..setup };
            let evidence = program_runner::run(runner, session, &mut once, setup);
            evidence.is_ok() && once.failed.is_some()
        })
    })
}

/// Source of programs. First come the probes, one program for each event that this machine may not be able to do. Then
/// come random programs, or one given program.
#[derive(Default)]
struct Programs {
    /// Events that are still to be probed.
    probes: VecDeque<Event>,
    /// Event that the running program probes.
    probing: Option<Event>,
    /// Events that this machine can do.
    available: Vec<Event>,
    /// Program to run in place of random programs.
    given: Option<Program>,
    /// Seed of the next random program.
    seed: u64,
    /// Seed of the last random program.
    last_seed: Option<u64>,
    /// Maximum number of programs.
    programs: u64,
    /// Maximum duration.
    until: Option<Duration>,
    began: Option<Instant>,
    findings: Findings,
    /// Faults and maintenance of all traced programs.
    host: HostSide,
    /// True if any program was traced.
    traced: bool,
    /// Comparison of the traced programs with their budgets; `None` if none was traced.
    budget: Option<Budget>,
    features: Option<CacheFeatures>,
    failed: Option<FailedProgram>,
    /// Verdict that ends the run, other than a failure.
    trouble: Option<Verdict>,
}

/// Program that failed.
struct FailedProgram {
    program: Program,
    /// Description of the failure.
    why: String,
    /// True if its looks were right, and it took more faults or maintenance than needed.
    is_beyond_budget: bool,
}

impl Programs {
    /// Returns the source of one given program.
    fn once(program: &Program) -> Self {
        Self { given: Some(program.clone()), programs: 1, ..Self::default() }
    }

    /// Returns whether no further program is to run.
    fn over(&mut self) -> bool {
        let began = *self.began.get_or_insert_with(Instant::now);
        let late = self.until.is_some_and(|until| began.elapsed() >= until);
        self.findings.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        late || self.findings.programs >= self.programs || self.failed.is_some() || self.trouble.is_some()
    }

    /// Returns the verdict on all programs.
    fn verdict(&self) -> Verdict {
        if let Some(failed) = &self.failed {
            return Verdict::new(Status::Fail, failed.why.clone());
        }
        if let Some(verdict) = &self.trouble {
            return verdict.clone();
        }
        let Findings { programs, seen, .. } = &self.findings;
        let faults = |access| self.host.faults.iter().filter(|f| f.access == access).map(|f| f.count).sum::<u64>();
        if *programs == 0 || seen.required == 0 {
            return Verdict::new(
                Status::Skip,
                format!("{programs} programs ran, and the oracle required nothing of their looks"),
            );
        }
        if !self.traced || faults(Access::Fetch) + faults(Access::Data) == 0 {
            return Verdict::new(Status::Skip, "no trace shows that the guest faulted");
        }
        let fetched = faults(Access::Fetch) > 0 && self.features.is_some_and(|features| !features.dic);
        if let Some(why) = self.host.unprobed.as_ref().filter(|_| fetched && self.host.icache.is_none()) {
            return Verdict::new(Status::Skip, format!("not shown that the I-cache was invalidated: {why}"));
        }
        if fetched && self.host.icache.is_some_and(|calls| calls.calls == 0) {
            let faults = faults(Access::Fetch);
            return Verdict::new(
                Status::Fail,
                format!("no maintenance: {faults} fetch faults, and the I-cache was not invalidated once"),
            );
        }
        let (required, free) = (seen.required, seen.free());
        Verdict::new(
            Status::Pass,
            format!(
                "{programs} programs: {required} looks saw what they had to, {free} were free; {} fetch and {} data faults in those traced",
                faults(Access::Fetch),
                faults(Access::Data)
            ),
        )
    }

    /// Adds the outcomes of a program.
    fn judged(&mut self, program: Program, run: &ProgramRun) {
        let Ok(outcomes) = &run.outcomes else { return };
        let seen = LookCounts::of(outcomes);
        self.findings.seen = self.findings.seen.and(&seen);
        self.findings.programs += 1;
        self.findings.ops += program.ops.len() as u64;
        for event in &run.events {
            *self.findings.events.entry(*event).or_default() += 1;
        }
        if outcomes.failed() {
            let why =
                outcomes.forbidden().next().map_or_else(|| "a look returned something forbidden".into(), describe);
            self.failed = Some(FailedProgram { program, why, is_beyond_budget: false });
        } else if let Some(why) = run.budget.as_ref().and_then(Budget::failure) {
            self.failed = Some(FailedProgram { program, why, is_beyond_budget: true });
        } else if seen.unjudged > 0 {
            self.trouble = Some(Verdict::new(Status::Error, format!("{} looks could not be judged", seen.unjudged)));
        }
    }
}

impl ProgramSource for Programs {
    fn next(&mut self, target: &Target) -> Option<Program> {
        self.features = Some(target.features);
        if let Some(event) = self.probes.pop_front() {
            self.probing = Some(event);
            let span = Span { start: 0, stride: target.limits.min_stride(), count: 1 };
            let op = ProgramOp::new(0, Action::Event { event, span, generation: 1 });
            return Some(Program { vcpus: target.vcpus, ops: vec![op] });
        }
        if self.over() {
            return None;
        }
        if let Some(program) = &self.given {
            return Some(program.clone());
        }
        let space = Space { vcpus: target.vcpus, limits: target.limits, ops: MAX_OPS, events: &self.available };
        let next = random_program(self.seed, &space);
        self.last_seed = Some(self.seed);
        self.seed += 1;
        Some(next)
    }

    fn done(&mut self, program: Program, run: ProgramRun) {
        if let Some(host) = &run.host {
            self.traced = true;
            add(&mut self.host, host);
        }
        if let Some(budget) = &run.budget {
            self.budget.get_or_insert_default().add(budget);
        }
        if let Some(event) = self.probing.take() {
            match run.outcomes {
                Ok(_) => self.available.push(event),
                Err(why @ NoOutcome::Died(_)) => self.trouble = Some(Verdict::new(Status::Error, why.to_string())),
                Err(why) => drop(self.findings.refused.insert(event, why.to_string())),
            }
            return;
        }
        match &run.outcomes {
            Ok(_) => self.judged(program, &run),
            Err(NoOutcome::Refused(event, why)) if self.given.is_none() => {
                // The probe of the event succeeded, but now the host cannot do it. Such a program proves nothing, and
                // later programs leave the event out.
                self.available.retain(|known| known != event);
                self.findings.refused.insert(*event, why.to_string());
            }
            Err(why @ NoOutcome::Refused(..)) => self.trouble = Some(Verdict::new(Status::Skip, why.to_string())),
            Err(why) => self.trouble = Some(Verdict::new(Status::Error, why.to_string())),
        }
    }
}

/// Adds the faults and the maintenance of another program.
fn add(all: &mut HostSide, more: &HostSide) {
    for fault in &more.faults {
        let same = |f: &&mut FaultCount| (f.access, f.kind, f.level) == (fault.access, fault.kind, fault.level);
        match all.faults.iter_mut().find(same) {
            Some(known) => known.count += fault.count,
            None => all.faults.push(fault.clone()),
        }
    }
    if all.unprobed.is_none() {
        all.unprobed.clone_from(&more.unprobed);
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
