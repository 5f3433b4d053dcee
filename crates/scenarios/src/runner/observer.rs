//! Watches one guest: kernel log, trace, and the time that host events took.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use abi::Op;
use guest::event::{Event, RoundEvent};
use guest::region::{GENERATION, REGION_IPA};
use hostfacts::phase::begin_phase;
use hostfacts::process;
use hostfacts::trace::{GuestFault, Trace, TraceLog};
use indicatif::ProgressBar;
use klog::message::Parser;
use record::case::Complaint;
use record::maintenance::{FaultCount, HostSide, Maintenance};

use crate::runner::ending::progress;
use crate::runner::session::{Error, Session};

/// Watches nothing but signals.
pub struct Signals<'a>(pub &'a Session);

impl vmm::Watch for Signals<'_> {
    fn event(&mut self, _: usize, _: &Op, _: &vmm::Host<'_>) {}
    fn tick(&mut self) {}
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

/// Where the counting plugin books everything else.
const NO_PHASE: u8 = 0;

/// What the host does besides watching.
#[derive(Default)]
pub struct Setup {
    /// What the progress line says.
    pub label: String,
    /// The round to trace, if any.
    pub traced: Option<u64>,
    /// Phase in which the emulated lab's counting plugin books the traced round.
    pub phase: Option<u8>,
    /// IPAs at which the host writes code before the first round.
    pub code: Vec<u64>,
    /// End the run at the first round that begins later than this.
    pub until: Option<Duration>,
}

/// A host event that was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// The event.
    pub event: RoundEvent,
    /// How long the system call took, in ns.
    pub ns: u64,
    /// Whether it was in the traced round.
    pub traced: bool,
}

/// Watches one guest.
pub struct Observer<'a> {
    session: &'a mut Session,
    setup: Setup,
    began: Instant,
    parser: Parser,
    trace: Option<Trace>,
    seen: Observation,
    failure: Option<Error>,
    bar: ProgressBar,
}

/// What was collected.
#[derive(Default)]
pub struct Observation {
    /// The kernel's complaints.
    pub complaints: Vec<Complaint>,
    /// The trace of the traced round.
    pub log: TraceLog,
    /// vCPU of each thread, from the traced round.
    pub threads: HashMap<u32, u64>,
    /// Whether there is a trace at all.
    pub traced: bool,
    /// Whether the I-side maintenance function could be probed.
    pub icache_probed: bool,
    /// Whether the D-side maintenance function could be probed.
    pub dcache_probed: bool,
    /// Rounds begun.
    pub rounds: u64,
    /// Timed host events.
    pub timed: Vec<Timed>,
    /// Host events of [`coherence`](programs) that were carried out.
    pub events: u64,
    /// Whether [`Setup::until`] ended the run.
    pub time_over: bool,
    /// What was missing.
    pub absent: Vec<String>,
}

impl vmm::Watch for Observer<'_> {
    fn event(&mut self, vcpu: usize, op: &Op, host: &vmm::Host<'_>) {
        match RoundEvent::from_raw(op.args[0]) {
            Some(RoundEvent::Begin) => self.begin_round(host),
            Some(event @ RoundEvent::Unmap) => self.timed(event, || host.unmap_stage2(0)),
            Some(event @ RoundEvent::Discard) => self.timed(event, || host.discard(0)),
            None => self.host_event(op.args[0], vcpu, host),
        }
    }

    fn tick(&mut self) {
        self.bar.tick();
        if let Err(error) = self.session.read_kmsg(&mut self.parser) {
            self.failure.get_or_insert(error);
        }
        self.read_trace();
    }

    fn interrupted(&self) -> bool {
        self.session.interrupted() || self.failure.is_some() || self.seen.time_over
    }
}

impl<'a> Observer<'a> {
    /// Returns an observer of a guest about to start.
    pub fn new(session: &'a mut Session, setup: Setup) -> Self {
        let bar = progress(&setup.label);
        let (parser, seen) = (Parser::new(), Observation::default());
        Self { session, setup, began: Instant::now(), parser, trace: None, seen, failure: None, bar }
    }

    fn begin_round(&mut self, host: &vmm::Host<'_>) {
        let round = self.seen.rounds;
        if round == 0 {
            self.write_code(host);
        } else if let Err(error) = host.unmap_stage2(0) {
            self.seen.absent.push(format!("round {round}: stage 2 could not be unmapped: {error}"));
        }
        if round > 0 && self.setup.until.is_some_and(|until| self.began.elapsed() >= until) {
            self.seen.time_over = true;
        }
        if self.setup.traced == Some(round) {
            self.open_trace();
            if let Some(number) = self.setup.phase {
                begin_phase(number);
            }
        } else if self.setup.traced.is_some_and(|traced| traced < round) && self.trace.is_some() {
            // Rounds after the traced one are timed again.
            self.close_trace();
            begin_phase(NO_PHASE);
        }
        self.seen.rounds += 1;
    }

    fn write_code(&mut self, host: &vmm::Host<'_>) {
        for ipa in &self.setup.code {
            if let Err(error) = host.write_code(0, *ipa, GENERATION as u16) {
                self.seen.absent.push(format!("code at {ipa:#x} could not be written: {error}"));
                return;
            }
        }
    }

    fn open_trace(&mut self) {
        match Trace::open() {
            Ok(trace) => {
                let probed = Probed::of(&trace);
                (self.seen.icache_probed, self.seen.dcache_probed) = (probed.icache, probed.dcache);
                let absent = trace.absent().iter().map(|part| format!("trace of {}: {}", part.part, part.why));
                self.seen.absent.extend(absent);
                self.seen.threads = vcpu_threads();
                self.seen.traced = true;
                self.trace = Some(trace);
            }
            Err(error) => self.seen.absent.push(error.to_string()),
        }
    }

    fn timed(&mut self, event: RoundEvent, act: impl FnOnce() -> std::io::Result<()>) {
        let began = Instant::now();
        let outcome = act();
        let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match outcome {
            Ok(()) => self.seen.timed.push(Timed { event, ns, traced: self.trace.is_some() }),
            Err(error) => self.seen.absent.push(format!("host event {}: {error}", event.name())),
        }
    }

    fn host_event(&mut self, number: u64, vcpu: usize, host: &vmm::Host<'_>) {
        let Some(event) = Event::from_raw(number) else { return };
        // A move has every vCPU go on, so that each still has a CPU for itself.
        let vcpus = if event == Event::MoveVcpu { 0..host.vcpus() } else { vcpu..vcpu + 1 };
        let outcome =
            vcpus.into_iter().try_for_each(|vcpu| host.perform(&vmm::EventRequest::without_slots(event, vcpu)));
        match outcome {
            Ok(()) => self.seen.events += 1,
            Err(why) => {
                let what = format!("host event {}: {why}", event.name());
                if !self.seen.absent.contains(&what) {
                    self.seen.absent.push(what);
                }
            }
        }
    }

    fn read_trace(&mut self) {
        let Some(trace) = &mut self.trace else { return };
        match trace.drain() {
            Ok(log) => self.seen.log.append(log),
            Err(error) => self.seen.absent.push(format!("trace: {error}")),
        }
    }

    fn close_trace(&mut self) {
        match self.trace.take().map(Trace::finish) {
            Some(Ok(rest)) => self.seen.log.append(rest),
            Some(Err(error)) => self.seen.absent.push(format!("trace: {error}")),
            None => (),
        }
    }

    /// Ends watching and returns what was collected.
    ///
    /// # Errors
    ///
    /// What made watching impossible.
    pub fn finish(mut self) -> Result<(&'a mut Session, Observation), Error> {
        begin_phase(NO_PHASE);
        vmm::Watch::tick(&mut self);
        self.bar.finish_and_clear();
        self.close_trace();
        if let Some(error) = self.failure {
            return Err(error);
        }
        let mut seen = self.seen;
        let events = self.parser.finish().into_iter();
        seen.complaints = events.map(Complaint::from).collect();
        Ok((self.session, seen))
    }
}

impl Observation {
    /// Returns how many events the trace lost, those that could not be read included.
    pub fn lost(&self) -> u64 {
        self.log.lost + self.log.malformed
    }

    /// Returns why there is no trace, if there is none.
    pub fn untraced(&self) -> Option<String> {
        (!self.traced).then(|| self.absent.first().cloned().unwrap_or_else(|| "--no-trace".into()))
    }

    /// Returns what the kernel did in the region, from the trace.
    pub fn host_side(&self, region_bytes: u64) -> Option<HostSide> {
        let probed = Probed { icache: self.icache_probed, dcache: self.dcache_probed };
        self.traced.then(|| host_side(&self.log, probed, region_bytes))
    }
}

/// Which maintenance functions could be probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// The I side's.
    pub icache: bool,
    /// The D side's.
    pub dcache: bool,
}

impl Probed {
    /// Returns what a trace has.
    pub fn of(trace: &Trace) -> Self {
        let probed = |part: &str| !trace.absent().iter().any(|absent| absent.part == part);
        Self { icache: probed("icache"), dcache: probed("dcache") }
    }
}

/// Returns what the kernel did in the region, from a trace.
pub fn host_side(log: &TraceLog, probed: Probed, region_bytes: u64) -> HostSide {
    let region = REGION_IPA..REGION_IPA + region_bytes;
    let mut faults: Vec<FaultCount> = Vec::new();
    for fault in log.faults.iter().filter(|fault| region.contains(&fault.ipa)) {
        let named = fault_count(fault);
        let same = |f: &&mut FaultCount| (f.access, f.kind, f.level) == (named.access, named.kind, named.level);
        match faults.iter_mut().find(same) {
            Some(known) => known.count += 1,
            None => faults.push(named),
        }
    }
    let icache = probed.icache.then(|| maintenance(&log.icache));
    let dcache = probed.dcache.then(|| maintenance(&log.dcache));
    HostSide { faults, icache, dcache }
}

/// Returns this process's threads that run vCPUs: `vcpu-3` is vCPU 3.
pub fn vcpu_threads() -> HashMap<u32, u64> {
    let vcpu = |(id, name): (u32, String)| Some((id, name.strip_prefix("vcpu-")?.parse().ok()?));
    process::threads().into_iter().filter_map(vcpu).collect()
}

fn fault_count(fault: &GuestFault) -> FaultCount {
    FaultCount { access: fault.access, kind: fault.kind, level: fault.level, count: 1 }
}

fn maintenance(calls: &[hostfacts::trace::Maintenance]) -> Maintenance {
    Maintenance {
        calls: calls.len() as u64,
        max_bytes: calls.iter().map(|c| c.size).max().unwrap_or(0),
        max_ns: calls.iter().map(|c| c.duration_ns).max().unwrap_or(0),
        total_ns: calls.iter().map(|c| c.duration_ns).sum(),
    }
}
