//! Runner of programs: runs programs one after another in one guest, and judges each.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use abi::{Ctr, Op, OpCode};
use guest::event::Event;
use guest::region::REGION_IPA;
use guest::report::{GuestRun, VcpuReport, trouble};
use guest::spec::{GuestSpec, RegionSpec};
use hostfacts::trace::{Trace, TraceLog};
use indicatif::ProgressBar;
use klog::parser::Parser;
use programs::compile::{Compiled, Options, Waiting, compile, elements};
use programs::judge::{self, judge};
use programs::legal::{self, Illegal, Limits};
use programs::oracle::{CacheFeatures, Expectations, expect};
use programs::outcomes::Outcomes;
use programs::program::{Action, Program, ProgramOp};
use programs::slots::Slots;
use record::budget::Budget;
use record::case::AttributedComplaint;
use record::maintenance::HostSide;
use vmm::{EventError, EventRequest, Host};

use crate::budget::marks::{HostMark, Marked};
use crate::budget::monitor::{Monitor, Surroundings};
use crate::runner::cases::CaseRunner;
use crate::runner::ending::progress;
use crate::runner::observer::{Probed, host_side, vcpu_threads};
use crate::runner::session::{Error, Session};

/// Maximum number of guest ops of a program for each vCPU.
const MAX_GUEST_OPS: u64 = 4096;
/// Maximum number of records of a program for each vCPU.
const MAX_RECORDS: u64 = 32 << 10;

/// Machine and guest that a program has to fit.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Features of the machine, for the oracle.
    pub features: CacheFeatures,
    /// Limits for legal programs.
    pub limits: Limits,
    /// Number of vCPUs. If a program has fewer, the others only take part in its meetings.
    pub vcpus: usize,
}

/// Source of the programs of a guest, which also takes their results.
pub trait ProgramSource {
    /// Returns the next program. `None` ends the guest.
    fn next(&mut self, target: &Target) -> Option<Program>;
    /// Takes the result of a program.
    fn done(&mut self, program: Program, run: ProgramRun);
}

/// Reason why a program has no outcomes.
#[derive(Debug, thiserror::Error)]
pub enum NoOutcome {
    /// The host could not do an event.
    #[error("{name}: {1}", name = .0.name())]
    Refused(Event, EventError),
    /// The records cannot be judged.
    #[error("{0}")]
    Records(#[from] judge::Error),
    /// The program cannot be judged.
    #[error("{0}")]
    Illegal(#[from] Illegal),
    /// The program is too long.
    #[error("{0} ops for one vCPU, there is room for {MAX_GUEST_OPS}")]
    Long(usize),
    /// The guest ended before the program did.
    #[error("{0}")]
    Died(String),
}

/// Result of a program.
#[derive(Debug)]
pub struct ProgramRun {
    /// Outcomes of its looks.
    pub outcomes: Result<Outcomes, NoOutcome>,
    /// Faults and maintenance in the kernel after the last event that does not only move a vCPU; `None` without a
    /// trace.
    pub host: Option<HostSide>,
    /// Comparison of all faults and maintenance of the program with its budget; `None` if it was not to be traced.
    pub budget: Option<Budget>,
    /// Number of trace records that were lost during the program.
    pub lost: u64,
    /// Events that the host did.
    pub events: Vec<Event>,
}

impl ProgramRun {
    /// Returns the result of a program without outcomes.
    fn without_outcome(why: NoOutcome) -> Self {
        Self { outcomes: Err(why), host: None, budget: None, lost: 0, events: Vec::new() }
    }
}

/// Memory in which every slot gets generation 0 before a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// New pages, so that each program runs on the kind of memory that was asked for.
    NewPages,
    /// The same pages, which is faster.
    SamePages,
}

/// Setup of a guest that runs programs.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Guest to run, from [`guest()`].
    pub guest: &'a GuestSpec,
    /// Text of the progress line.
    pub label: &'a str,
    /// Memory of a new program.
    pub reset: Reset,
    /// Number of programs to trace, counted from the first.
    pub traced: u64,
    /// Time limit of one program.
    pub limit: Duration,
    /// True if the machine has FWB.
    pub fwb: bool,
    /// Facts that the budget depends on, without those of the running guest.
    pub surroundings: &'a Surroundings,
}

/// Program that the guest runs now.
struct Running {
    program: Program,
    compiled: Compiled,
    expectations: Expectations,
    /// IPAs of all its slots.
    slots: Vec<u64>,
    refused: Option<(Event, EventError)>,
    /// Trace since the last event.
    log: TraceLog,
    /// Budget of the whole program.
    monitor: Monitor,
    /// Number of trace records that were lost during the whole program.
    lost: u64,
    events: Vec<Event>,
    began: Instant,
}

impl Running {
    /// Takes the next part of the trace.
    fn take(&mut self, log: TraceLog) {
        self.monitor.push(&log.steps);
        self.lost += log.lost + log.malformed;
        self.log.append(log);
    }
}

/// Writes a mark into the trace, if there is one.
fn mark(trace: &mut Option<Trace>, mark: HostMark) {
    if let Some(trace) = trace {
        trace.mark(&mark.text());
    }
}

/// Watcher of a guest that runs one program after another.
struct ProgramRunner<'a, S> {
    session: &'a mut Session,
    source: &'a mut S,
    setup: Setup<'a>,
    region: RegionSpec,
    target: Option<Target>,
    running: Option<Running>,
    /// Number of meetings so far.
    meetings: u64,
    /// Number of programs so far.
    programs: u64,
    parser: Parser,
    trace: Option<Trace>,
    probed: Probed,
    /// Number of the vCPU that each thread runs, by thread id.
    threads: HashMap<u32, u64>,
    evidence: GuestEvidence,
    failure: Option<Error>,
    /// True if a program exceeded its time limit.
    stuck: bool,
    bar: ProgressBar,
}

/// Evidence from the kernel during the programs of one guest.
#[derive(Default)]
pub struct GuestEvidence {
    /// Complaints of the kernel.
    pub complaints: Vec<AttributedComplaint>,
    /// Parts of the evidence that are missing, with the reasons.
    absent: Vec<String>,
    /// Number of lost trace records.
    lost: u64,
}

/// Time limit of a guest. A guest runs as long as there are programs, and each program has a limit of its own.
const GUEST_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs programs in one guest until the source has no more, or until the guest ends.
///
/// # Errors
///
/// The obstacle that kept the guest from starting, or the kernel log from being read.
pub fn run<S: ProgramSource>(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    source: &mut S,
    setup: Setup<'_>,
) -> Result<GuestEvidence, Error> {
    let region = *setup.guest.regions.first().ok_or_else(|| Error::Usage("programs need a region".into()))?;
    let common = runner.common;
    let spec = GuestSpec { ops: MAX_GUEST_OPS, records: MAX_RECORDS, ctr: common.guest_ctr, ..setup.guest.clone() };
    let mut watcher = ProgramRunner::new(session, source, setup, region);
    let run = vmm::run(&spec, runner.image(), GUEST_LIMIT, &mut watcher)?;
    let evidence = watcher.finish(&run)?;
    runner.learn(&run);
    for reason in evidence.absent.iter().chain(&run.notes) {
        if !session.evidence.absent.contains(reason) {
            session.evidence.absent.push(reason.clone());
        }
    }
    session.evidence.trace_lost += evidence.lost;
    Ok(evidence)
}

/// Returns the guest for programs. Its vCPUs begin by asking for the first program.
pub fn guest(region: RegionSpec, vcpus: usize) -> GuestSpec {
    GuestSpec { regions: vec![region], programs: vec![vec![Op::next()]; vcpus], ..GuestSpec::default() }
}

impl<'a, S: ProgramSource> ProgramRunner<'a, S> {
    /// Returns the watcher of a guest that is about to start.
    fn new(session: &'a mut Session, source: &'a mut S, setup: Setup<'a>, region: RegionSpec) -> Self {
        let mut watcher = Self {
            session,
            source,
            setup,
            region,
            target: None,
            running: None,
            meetings: 0,
            programs: 0,
            parser: Parser::new(),
            trace: None,
            probed: Probed::default(),
            threads: HashMap::new(),
            evidence: GuestEvidence::default(),
            failure: None,
            stuck: false,
            bar: progress(setup.label),
        };
        if setup.traced > 0 {
            watcher.open_trace();
        }
        watcher
    }

    fn open_trace(&mut self) {
        match Trace::open() {
            Ok(trace) => {
                self.probed = Probed::of(&trace, &self.session.machine);
                let absent = trace.absent().iter().map(|part| format!("trace of {}: {}", part.part, part.why));
                self.evidence.absent.extend(absent);
                self.trace = Some(trace);
            }
            Err(error) => self.evidence.absent.push(error.to_string()),
        }
    }

    /// Returns the trace since the last call.
    fn drain(&mut self) -> TraceLog {
        let log = match self.trace.as_mut().map(Trace::drain) {
            Some(Ok(log)) => log,
            Some(Err(error)) => {
                self.evidence.absent.push(format!("trace: {error}"));
                TraceLog::default()
            }
            None => TraceLog::default(),
        };
        self.evidence.lost += log.lost + log.malformed;
        log
    }

    /// Returns the target of programs, from the registers that the guest read.
    fn learn(&mut self, reports: &[VcpuReport]) -> Option<Target> {
        let first = reports.first()?;
        let ctr = Ctr(first.ctr_el0);
        let target = Target {
            features: CacheFeatures::new(ctr, first.clidr_el1, self.setup.fwb),
            limits: Limits {
                region_bytes: self.region.bytes,
                line_bytes: ctr.imin_line_bytes().max(ctr.dmin_line_bytes()),
            },
            vcpus: reports.len(),
        };
        self.target = Some(target);
        self.target
    }

    /// Gives the source the result of the program that has ended.
    fn close(&mut self, reports: &[VcpuReport]) {
        let log = self.drain();
        let Some(mut running) = self.running.take() else { return };
        running.take(log);
        let records: Vec<_> = reports.iter().map(|report| report.records.clone()).collect();
        let outcomes = match running.refused {
            Some((event, why)) => Err(NoOutcome::Refused(event, why)),
            None => {
                judge(&running.program, &running.expectations, &running.compiled, &records).map_err(NoOutcome::from)
            }
        };
        let host = self.trace.is_some().then(|| host_side(&running.log, &self.probed, self.region.bytes));
        let lost = running.log.lost + running.log.malformed;
        let gap = self.trace.as_ref().map_or(Some("no trace"), Trace::no_notifiers);
        let budget = (self.programs <= self.setup.traced).then(|| running.monitor.finish(running.lost, gap));
        self.source.done(running.program, ProgramRun { outcomes, host, budget, lost, events: running.events });
        self.bar.tick();
    }

    /// Gets programs until one of them can run. Prepares the memory for it and returns its guest ops.
    fn begin(&mut self, target: &Target, host: &Host<'_>) -> Option<Vec<Vec<Op>>> {
        loop {
            let program = Program { vcpus: target.vcpus, ..self.source.next(target)? };
            match self.prepare(program.clone(), target, host) {
                Ok(ops) => return Some(ops),
                Err(why) => self.source.done(program, ProgramRun::without_outcome(why)),
            }
        }
    }

    /// Prepares the memory for a program. Returns its guest ops.
    fn prepare(&mut self, program: Program, target: &Target, host: &Host<'_>) -> Result<Vec<Vec<Op>>, NoOutcome> {
        legal::check(&program, target.limits)?;
        let moves = |op: &ProgramOp| matches!(op.action, Action::Event { event: Event::MoveVcpu, .. });
        // If vCPUs may share a CPU, they wait in the host, so that a vCPU that waits leaves the CPU to the others.
        let crowded = host.vcpus() > host.cpus() || program.ops.iter().any(moves);
        let options = Options {
            waiting: if crowded { Waiting::Host } else { Waiting::Guest },
            meetings_before: self.meetings,
            last: Op::next(),
            ..Options::new(REGION_IPA)
        };
        let compiled = compile(&program, &options);
        let longest = compiled.ops.iter().map(Vec::len).max().unwrap_or(0);
        if longest as u64 > MAX_GUEST_OPS {
            return Err(NoOutcome::Long(longest));
        }
        self.meetings += program.ops.iter().filter(|op| op.action == Action::Meet).count() as u64;
        let slots: Vec<_> = Slots::of(&program).offsets().map(|offset| REGION_IPA + offset).collect();
        self.reset(&slots, host)?;
        self.programs += 1;
        if self.programs > self.setup.traced {
            self.trace = None;
        }
        self.drain();
        if self.threads.is_empty() {
            self.threads = vcpu_threads();
        }
        let monitor = Monitor::new(Surroundings {
            threads: self.threads.clone(),
            host_va: host.host_va(0),
            dic: target.features.dic,
            ..self.setup.surroundings.clone()
        });
        let ops = compiled.ops.clone();
        self.running = Some(Running {
            expectations: expect(&program, &target.features),
            program,
            compiled,
            slots,
            refused: None,
            log: TraceLog::default(),
            monitor,
            lost: 0,
            events: Vec::new(),
            began: Instant::now(),
        });
        Ok(ops)
    }

    /// Gives every slot generation 0. The host writes it and unmaps the memory, so that no cache holds anything older.
    fn reset(&self, slots: &[u64], host: &Host<'_>) -> Result<(), NoOutcome> {
        let request = |event| EventRequest { event, vcpu: 0, written: slots, generation: 0, slots };
        let perform = |event| host.perform(&request(event)).map_err(|why| NoOutcome::Refused(event, why));
        perform(Event::DirtyLogOff)?;
        if self.setup.reset == Reset::NewPages && perform(Event::Discard).is_ok() {
            return Ok(());
        }
        perform(Event::Rewrite)?;
        perform(Event::Unmap)
    }

    /// Returns the evidence after the guest has ended. A program that is still running has no outcomes.
    fn finish(mut self, run: &GuestRun) -> Result<GuestEvidence, Error> {
        vmm::Watch::tick(&mut self);
        self.bar.finish_and_clear();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if let Some(running) = self.running.take() {
            let why = match trouble(run) {
                _ if self.session.interrupted() => "interrupted".into(),
                _ if self.stuck => format!("the program was still running after {} s", self.setup.limit.as_secs()),
                Some(trouble) => trouble,
                None => format!("the guest ended before the program did: {:?}", run.end),
            };
            self.source.done(running.program, ProgramRun::without_outcome(NoOutcome::Died(why)));
        }
        let events = self.parser.finish().into_iter();
        self.evidence.complaints = events.map(AttributedComplaint::from).collect();
        Ok(self.evidence)
    }
}

impl<S: ProgramSource> vmm::Watch for ProgramRunner<'_, S> {
    fn event(&mut self, vcpu: usize, op: &Op, host: &Host<'_>) {
        let Some(event) = Event::from_raw(op.args[0]) else { return };
        // The result of a program holds the faults after its last event, without those before and during the event. A
        // move of a vCPU causes no faults and does not count as the last event.
        let before = self.drain();
        let Some(running) = &mut self.running else { return };
        running.take(before);
        debug_assert_eq!(op.code, OpCode::Event as u16);
        let [begin, end] = HostMark::around(Marked::Event(event), vcpu);
        mark(&mut self.trace, begin);
        let written: Vec<_> = (0..elements(op)).map(|n| op.start + n * op.stride).collect();
        let request =
            EventRequest { event, vcpu, written: &written, generation: op.args[1] as u16, slots: &running.slots };
        match host.perform(&request) {
            Ok(()) => running.events.push(event),
            Err(why) => {
                running.refused.get_or_insert((event, why));
            }
        }
        mark(&mut self.trace, end);
        let during = self.drain();
        let Some(running) = &mut self.running else { return };
        running.take(during);
        if event != Event::MoveVcpu {
            running.log = TraceLog::default();
        }
    }

    fn next(&mut self, reports: &[VcpuReport], host: &Host<'_>) -> Option<Vec<Vec<Op>>> {
        self.close(reports);
        if self.session.interrupted() {
            return None;
        }
        let target = self.target.or_else(|| self.learn(reports))?;
        self.begin(&target, host)
    }

    fn tick(&mut self) {
        self.bar.tick();
        if let Err(error) = self.session.read_kmsg(&mut self.parser) {
            self.failure.get_or_insert(error);
        }
        let log = self.drain();
        if let Some(running) = &mut self.running {
            running.take(log);
            self.stuck |= running.began.elapsed() > self.setup.limit;
        }
    }

    fn interrupted(&self) -> bool {
        self.session.interrupted() || self.failure.is_some() || self.stuck
    }
}
