//! Runs programs one after another in one guest, and judges each.

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
use programs::judge::{self, Outcomes, judge};
use programs::legal::{Illegal, Limits, legal};
use programs::oracle::{Expectations, Geometry, expect};
use programs::program::{Act as ProgramAct, Program, Step};
use programs::slots::Slots;
use record::case::AttributedComplaint;
use record::maintenance::HostSide;
use vmm::{EventError, EventRequest, Host};

use crate::runner::cases::CaseRunner;
use crate::runner::ending::progress;
use crate::runner::observer::{Probed, host_side};
use crate::runner::session::{Error, Session};

/// Ops that a program may have for each vCPU.
const OPS: u64 = 4096;
/// Records that a program may leave for each vCPU.
const RECORDS: u64 = 32 << 10;

/// What a program is made for.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// What the oracle has to know of it.
    pub geometry: Geometry,
    /// What programs have to fit into.
    pub limits: Limits,
    /// vCPUs; programs with fewer have the others meet.
    pub vcpus: usize,
}

/// Where programs come from, and what came of them goes.
pub trait ProgramSource {
    /// Returns the next program; none ends the guest.
    fn next(&mut self, machine: &Machine) -> Option<Program>;
    /// Takes what came of it.
    fn done(&mut self, program: Program, ran: ProgramRun);
}

/// Why a program has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum NoOutcome {
    /// The host could not do an event.
    #[error("{name}: {1}", name = .0.name())]
    Refused(Event, EventError),
    /// Its records say nothing.
    #[error("{0}")]
    Records(#[from] judge::Error),
    /// It cannot be judged.
    #[error("{0}")]
    Illegal(#[from] Illegal),
    /// It does not fit.
    #[error("{0} ops for one vCPU, there is room for {OPS}")]
    Long(usize),
    /// The guest did not come to its end.
    #[error("{0}")]
    Died(String),
}

/// What came of a program.
#[derive(Debug)]
pub struct ProgramRun {
    /// What its looks saw.
    pub outcomes: Result<Outcomes, NoOutcome>,
    /// What the kernel did after the program's last event but moves of vCPUs, where that was traced.
    pub host: Option<HostSide>,
    /// Trace records lost meanwhile.
    pub lost: u64,
    /// Events that were done.
    pub events: Vec<Event>,
}

impl ProgramRun {
    fn not(why: NoOutcome) -> Self {
        Self { outcomes: Err(why), host: None, lost: 0, events: Vec::new() }
    }
}

/// How slots come to hold generation 0 before a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// In new pages, so that each program finds the same kind of memory.
    NewPages,
    /// In the pages that are there, which is quicker.
    SamePages,
}

/// What a stage is set up with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How programs begin.
    pub reset: Reset,
    /// How many programs are traced, from the first.
    pub traced: u64,
    /// How long one program may take.
    pub limit: Duration,
    /// Whether stage 2 forces Write-Back.
    pub fwb: bool,
}

/// The program under way.
struct Running {
    program: Program,
    compiled: Compiled,
    expectations: Expectations,
    /// IPAs of all its slots.
    slots: Vec<u64>,
    refused: Option<(Event, EventError)>,
    log: TraceLog,
    events: Vec<Event>,
    began: Instant,
}

/// Watches a guest that runs one program after another.
pub struct ProgramRunner<'a, S> {
    session: &'a mut Session,
    source: &'a mut S,
    setup: Setup,
    region: RegionSpec,
    machine: Option<Machine>,
    running: Option<Running>,
    meetings: u64,
    programs: u64,
    parser: Parser,
    trace: Option<Trace>,
    probed: Probed,
    seen: Seen,
    failure: Option<Error>,
    stuck: bool,
    bar: ProgressBar,
}

/// What was seen around the programs.
#[derive(Default)]
pub struct Seen {
    /// The kernel's complaints.
    pub complaints: Vec<AttributedComplaint>,
    /// What was missing.
    pub absent: Vec<String>,
    /// Trace records lost.
    pub lost: u64,
}

/// A guest that runs as long as there are programs; each has a limit of its own.
const GUEST_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs programs in one guest on this memory until there are no more, or the guest is at its end.
///
/// # Errors
///
/// What kept the guest from starting, or the kernel log from being read.
pub fn run<S: ProgramSource>(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    spec: &GuestSpec,
    source: &mut S,
    setup: Setup,
    label: &str,
) -> Result<(GuestRun, Seen), Error> {
    let region = *spec.regions.first().ok_or_else(|| Error::Usage("a stage needs a region".into()))?;
    let spec = GuestSpec { ops: OPS, records: RECORDS, ctr: runner.common.guest_ctr, ..spec.clone() };
    let mut stage = ProgramRunner::new(session, source, setup, region, label);
    let run = vmm::run(&spec, runner.image(), GUEST_LIMIT, &mut stage)?;
    let seen = stage.finish(&run)?;
    runner.learn(&run);
    for reason in seen.absent.iter().chain(&run.notes) {
        if !session.evidence.absent.contains(reason) {
            session.evidence.absent.push(reason.clone());
        }
    }
    session.evidence.trace_lost += seen.lost;
    Ok((run, seen))
}

/// Returns the guest that programs run in: all vCPUs ask for their first one.
pub fn guest(region: RegionSpec, vcpus: usize) -> GuestSpec {
    GuestSpec { regions: vec![region], programs: vec![vec![Op::next()]; vcpus], ..GuestSpec::default() }
}

impl<'a, S: ProgramSource> ProgramRunner<'a, S> {
    /// Returns the watcher of a guest about to start.
    fn new(session: &'a mut Session, source: &'a mut S, setup: Setup, region: RegionSpec, label: &str) -> Self {
        let mut stage = Self {
            session,
            source,
            setup,
            region,
            machine: None,
            running: None,
            meetings: 0,
            programs: 0,
            parser: Parser::new(),
            trace: None,
            probed: Probed::default(),
            seen: Seen::default(),
            failure: None,
            stuck: false,
            bar: progress(label),
        };
        if setup.traced > 0 {
            stage.open_trace();
        }
        stage
    }

    fn open_trace(&mut self) {
        match Trace::open() {
            Ok(trace) => {
                self.probed = Probed::of(&trace);
                let absent = trace.absent().iter().map(|part| format!("trace of {}: {}", part.part, part.why));
                self.seen.absent.extend(absent);
                self.trace = Some(trace);
            }
            Err(error) => self.seen.absent.push(error.to_string()),
        }
    }

    fn drain(&mut self) -> TraceLog {
        let log = match self.trace.as_mut().map(Trace::drain) {
            Some(Ok(log)) => log,
            Some(Err(error)) => {
                self.seen.absent.push(format!("trace: {error}"));
                TraceLog::default()
            }
            None => TraceLog::default(),
        };
        self.seen.lost += log.lost + log.malformed;
        log
    }

    /// Says what this machine is, from what the guest read of it.
    fn learn(&mut self, reports: &[VcpuReport]) -> Option<Machine> {
        let first = reports.first()?;
        let ctr = Ctr(first.ctr_el0);
        let machine = Machine {
            geometry: Geometry::new(ctr, first.clidr_el1, self.setup.fwb),
            limits: Limits {
                region_bytes: self.region.bytes,
                line_bytes: ctr.imin_line_bytes().max(ctr.dmin_line_bytes()),
            },
            vcpus: reports.len(),
        };
        self.machine = Some(machine);
        self.machine
    }

    /// Hands over what came of the program that has ended.
    fn close(&mut self, reports: &[VcpuReport]) {
        let log = self.drain();
        let Some(mut running) = self.running.take() else { return };
        running.log.append(log);
        let records: Vec<_> = reports.iter().map(|report| report.records.clone()).collect();
        let outcomes = match running.refused {
            Some((event, why)) => Err(NoOutcome::Refused(event, why)),
            None => {
                judge(&running.program, &running.expectations, &running.compiled, &records).map_err(NoOutcome::from)
            }
        };
        let host = self.trace.is_some().then(|| host_side(&running.log, self.probed, self.region.bytes));
        let lost = running.log.lost + running.log.malformed;
        self.source.done(running.program, ProgramRun { outcomes, host, lost, events: running.events });
        self.bar.tick();
    }

    /// Gets programs until one can be run, and has the memory ready for it.
    fn begin(&mut self, machine: &Machine, host: &Host<'_>) -> Option<Vec<Vec<Op>>> {
        loop {
            let program = Program { vcpus: machine.vcpus, ..self.source.next(machine)? };
            match self.prepare(program.clone(), machine, host) {
                Ok(ops) => return Some(ops),
                Err(untold) => self.source.done(program, ProgramRun::not(untold)),
            }
        }
    }

    fn prepare(&mut self, program: Program, machine: &Machine, host: &Host<'_>) -> Result<Vec<Vec<Op>>, NoOutcome> {
        legal(&program, machine.limits)?;
        let moves = |step: &Step| matches!(step.act, ProgramAct::Event { event: Event::MoveVcpu, .. });
        let crowded = host.vcpus() > host.cpus() || program.steps.iter().any(moves);
        let options = Options {
            waiting: if crowded { Waiting::Host } else { Waiting::Guest },
            meetings_before: self.meetings,
            last: Op::next(),
            ..Options::new(REGION_IPA)
        };
        let compiled = compile(&program, &options);
        let longest = compiled.ops.iter().map(Vec::len).max().unwrap_or(0);
        if longest as u64 > OPS {
            return Err(NoOutcome::Long(longest));
        }
        self.meetings += program.steps.iter().filter(|step| step.act == ProgramAct::Meet).count() as u64;
        let slots: Vec<_> = Slots::of(&program).offsets().map(|offset| REGION_IPA + offset).collect();
        self.reset(&slots, host)?;
        self.programs += 1;
        if self.programs > self.setup.traced {
            self.trace = None;
        }
        self.drain();
        let ops = compiled.ops.clone();
        self.running = Some(Running {
            expectations: expect(&program, &machine.geometry),
            program,
            compiled,
            slots,
            refused: None,
            log: TraceLog::default(),
            events: Vec::new(),
            began: Instant::now(),
        });
        Ok(ops)
    }

    /// Makes every slot hold generation 0 on all sides: written by the host, then unmapped.
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

    /// Ends watching: what was still under way has not come to its end.
    fn finish(mut self, run: &GuestRun) -> Result<Seen, Error> {
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
            self.source.done(running.program, ProgramRun::not(NoOutcome::Died(why)));
        }
        let events = self.parser.finish().into_iter();
        self.seen.complaints = events.map(AttributedComplaint::from).collect();
        Ok(self.seen)
    }
}

impl<S: ProgramSource> vmm::Watch for ProgramRunner<'_, S> {
    fn event(&mut self, vcpu: usize, op: &Op, host: &Host<'_>) {
        let Some(event) = Event::from_raw(op.args[0]) else { return };
        // What came before, and what the event itself takes, is not what it leads to; a move of a vCPU leads to nothing
        // of its own.
        let before = self.drain();
        let Some(running) = &mut self.running else { return };
        running.log.append(before);
        debug_assert_eq!(op.code, OpCode::Event as u16);
        let written: Vec<_> = (0..elements(op)).map(|n| op.start + n * op.stride).collect();
        let request =
            EventRequest { event, vcpu, written: &written, generation: op.args[1] as u16, slots: &running.slots };
        match host.perform(&request) {
            Ok(()) => running.events.push(event),
            Err(why) => {
                running.refused.get_or_insert((event, why));
            }
        }
        let during = self.drain();
        let Some(running) = &mut self.running else { return };
        if event == Event::MoveVcpu {
            running.log.append(during);
        } else {
            running.log = TraceLog::default();
        }
    }

    fn next(&mut self, reports: &[VcpuReport], host: &Host<'_>) -> Option<Vec<Vec<Op>>> {
        self.close(reports);
        if self.session.interrupted() {
            return None;
        }
        let machine = self.machine.or_else(|| self.learn(reports))?;
        self.begin(&machine, host)
    }

    fn tick(&mut self) {
        self.bar.tick();
        if let Err(error) = self.session.read_kmsg(&mut self.parser) {
            self.failure.get_or_insert(error);
        }
        let log = self.drain();
        if let Some(running) = &mut self.running {
            running.log.append(log);
            self.stuck |= running.began.elapsed() > self.setup.limit;
        }
    }

    fn interrupted(&self) -> bool {
        self.session.interrupted() || self.failure.is_some() || self.stuck
    }
}
