//! The observer of one guest: collects kernel log and trace, carries out host events, and measures their time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use abi::Op;
use guest::event::{Event, RoundEvent};
use guest::region::{GENERATION, REGION_IPA};
use hostfacts::phase::begin_phase;
use hostfacts::process;
use hostfacts::trace::{GuestFault, Trace, TraceLog};
use indicatif::ProgressBar;
use klog::parser::Parser;
use record::budget::Budget;
use record::case::AttributedComplaint;
use record::machine::Machine;
use record::maintenance::{FaultCount, HostSide, Maintenance};

use crate::budget::marks::{HostMark, Marked};
use crate::budget::monitor::{Monitor, Surroundings};
use crate::runner::ending::progress;
use crate::runner::session::{Error, Session};

/// A watcher that ends the guest on a signal and ignores everything else.
pub struct SignalWatch<'a>(pub &'a Session);

impl vmm::Watch for SignalWatch<'_> {
    fn event(&mut self, _: usize, _: &Op, _: &vmm::Host<'_>) {}
    fn tick(&mut self) {}
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

/// Phase of the lab's counting plugin for everything outside of traced rounds.
const NO_PHASE: u8 = 0;

/// Options of an observer.
#[derive(Default)]
pub struct Setup {
    /// Text of the progress line.
    pub label: String,
    /// Number of the round to trace, if one is traced.
    pub traced: Option<u64>,
    /// Phase under which the lab's plugin counts the operations of the traced round.
    pub phase: Option<u8>,
    /// IPAs at which the host writes code before the first round.
    pub code: Vec<u64>,
    /// Time limit. The first round that begins after it ends the guest.
    pub until: Option<Duration>,
}

/// A host event with the time that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedEvent {
    /// The event.
    pub event: RoundEvent,
    /// Time of the system call, in ns.
    pub ns: u64,
    /// True if it was in the traced round.
    pub traced: bool,
}

/// Observer of one guest.
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

/// Evidence about one guest.
#[derive(Default)]
pub struct Observation {
    /// Complaints of the kernel.
    pub complaints: Vec<AttributedComplaint>,
    /// Trace of the traced round.
    pub log: TraceLog,
    /// Number of the vCPU that each thread runs, by thread id; from the traced round.
    pub threads: HashMap<u32, u64>,
    /// Host virtual address of the region; from the traced round.
    pub host_va: Option<u64>,
    /// Reason why the trace cannot be compared with a budget, if it cannot.
    pub gap: Option<String>,
    /// True if the guest was traced.
    pub traced: bool,
    /// Probes of the trace.
    pub probed: Probed,
    /// Number of rounds that began.
    pub rounds: u64,
    /// Host events that were timed.
    pub timed: Vec<TimedEvent>,
    /// Number of host events of [`guest::event`] that were carried out.
    pub events: u64,
    /// True if [`Setup::until`] ended the guest.
    pub time_over: bool,
    /// Missing parts of the evidence, with the reasons.
    pub absent: Vec<String>,
}

impl vmm::Watch for Observer<'_> {
    fn event(&mut self, vcpu: usize, op: &Op, host: &vmm::Host<'_>) {
        match RoundEvent::from_raw(op.args[0]) {
            Some(RoundEvent::Begin) => self.begin_round(host),
            Some(event @ RoundEvent::Unmap) => self.time_event(event, vcpu, || host.unmap_stage2(0)),
            Some(event @ RoundEvent::Discard) => self.time_event(event, vcpu, || host.discard(0)),
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
    /// Returns an observer for a guest that is about to start, and shows the progress line.
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
            self.seen.host_va = host.host_va(0);
            if let Some(number) = self.setup.phase {
                begin_phase(number);
            }
        } else if self.setup.traced.is_some_and(|traced| traced < round) && self.trace.is_some() {
            // Rounds after the traced one are timed again, so the trace ends here.
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
                self.seen.probed = Probed::of(&trace, &self.session.machine);
                let absent = trace.absent().iter().map(|part| format!("trace of {}: {}", part.part, part.why));
                self.seen.absent.extend(absent);
                self.seen.threads = vcpu_threads();
                self.seen.gap = trace.no_notifiers().map(str::to_owned);
                self.seen.traced = true;
                self.trace = Some(trace);
            }
            Err(error) => self.seen.absent.push(error.to_string()),
        }
    }

    fn mark(&mut self, mark: HostMark) {
        if let Some(trace) = &mut self.trace {
            trace.mark(&mark.text());
        }
    }

    fn time_event(&mut self, event: RoundEvent, vcpu: usize, act: impl FnOnce() -> std::io::Result<()>) {
        let [begin, end] = HostMark::around(Marked::Round(event), vcpu);
        self.mark(begin);
        let began = Instant::now();
        let done = act();
        let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.mark(end);
        match done {
            Ok(()) => self.seen.timed.push(TimedEvent { event, ns, traced: self.trace.is_some() }),
            Err(error) => self.seen.absent.push(format!("host event {}: {error}", event.name())),
        }
    }

    fn host_event(&mut self, number: u64, vcpu: usize, host: &vmm::Host<'_>) {
        let Some(event) = Event::from_raw(number) else { return };
        // All vCPUs move together, so that no two of them share a CPU afterwards.
        let vcpus = if event == Event::MoveVcpu { 0..host.vcpus() } else { vcpu..vcpu + 1 };
        let [begin, end] = HostMark::around(Marked::Event(event), vcpu);
        self.mark(begin);
        let done = vcpus.into_iter().try_for_each(|vcpu| host.perform(&vmm::EventRequest::without_slots(event, vcpu)));
        self.mark(end);
        match done {
            Ok(()) => self.seen.events += 1,
            Err(refused) => {
                let reason = format!("host event {}: {refused}", event.name());
                if !self.seen.absent.contains(&reason) {
                    self.seen.absent.push(reason);
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

    /// Ends the observation and returns the evidence.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel log could not be read or copied.
    pub fn finish(mut self) -> Result<(&'a mut Session, Observation), Error> {
        begin_phase(NO_PHASE);
        vmm::Watch::tick(&mut self);
        self.bar.finish_and_clear();
        self.close_trace();
        if let Some(error) = self.failure {
            return Err(error);
        }
        let mut seen = self.seen;
        let complaints = self.parser.finish().into_iter();
        seen.complaints = complaints.map(AttributedComplaint::from).collect();
        Ok((self.session, seen))
    }
}

impl Observation {
    /// Returns the number of trace records that were lost or could not be read.
    pub fn lost(&self) -> u64 {
        self.log.lost + self.log.malformed
    }

    /// Returns the reason for the lack of a trace; none if there is a trace.
    pub fn untraced(&self) -> Option<String> {
        (!self.traced).then(|| self.absent.first().cloned().unwrap_or_else(|| "--no-trace".into()))
    }

    /// Returns the comparison of the traced round with its budget, on the given machine and memory. A round without a
    /// trace is not judged.
    pub fn budget(&self, surroundings: Surroundings) -> Budget {
        let gap = self.untraced().or_else(|| self.gap.clone());
        let (threads, host_va) = (self.threads.clone(), self.host_va);
        let mut monitor = Monitor::new(Surroundings { threads, host_va, ..surroundings });
        monitor.push(&self.log.steps);
        monitor.finish(self.lost(), gap.as_deref())
    }

    /// Returns the faults and the maintenance that the kernel did in the region, from the trace.
    pub fn host_side(&self, region_bytes: u64) -> Option<HostSide> {
        self.traced.then(|| host_side(&self.log, &self.probed, region_bytes))
    }
}

/// Presence of a probe on each maintenance function of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// I-cache invalidation.
    pub icache: bool,
    /// D-cache cleaning.
    pub dcache: bool,
    /// Reason why a probe is missing, if one is and the sanitizer does not judge the maintenance.
    pub unprobed: Option<String>,
}

impl Probed {
    /// Returns the probes of a trace.
    pub fn of(trace: &Trace, machine: &Machine) -> Self {
        let probed = |part: &str| !trace.absent().iter().any(|absent| absent.part == part);
        let judged = machine.lab.as_ref().is_some_and(|lab| lab.sanitizing);
        let unprobed = trace.absent().first().filter(|_| !judged).map(|absent| absent.why.clone());
        Self { icache: probed("icache"), dcache: probed("dcache"), unprobed }
    }
}

/// Returns the faults and the maintenance that the kernel did in the region, from a trace.
pub fn host_side(log: &TraceLog, probed: &Probed, region_bytes: u64) -> HostSide {
    let region = REGION_IPA..REGION_IPA + region_bytes;
    let mut faults: Vec<FaultCount> = Vec::new();
    for fault in log.faults().filter(|fault| region.contains(&fault.ipa)) {
        let named = fault_count(fault);
        let same = |f: &&mut FaultCount| (f.access, f.kind, f.level) == (named.access, named.kind, named.level);
        match faults.iter_mut().find(same) {
            Some(known) => known.count += 1,
            None => faults.push(named),
        }
    }
    let icache = probed.icache.then(|| maintenance(log.icache()));
    let dcache = probed.dcache.then(|| maintenance(log.dcache()));
    HostSide { faults, icache, dcache, unprobed: probed.unprobed.clone() }
}

/// Returns the number of the vCPU that each thread of this process runs, by thread id. The thread `vcpu-3` runs vCPU 3.
pub fn vcpu_threads() -> HashMap<u32, u64> {
    let vcpu = |(id, name): (u32, String)| Some((id, name.strip_prefix("vcpu-")?.parse().ok()?));
    process::threads().into_iter().filter_map(vcpu).collect()
}

fn fault_count(fault: &GuestFault) -> FaultCount {
    FaultCount { access: fault.access, kind: fault.kind, level: fault.level, count: 1 }
}

fn maintenance<'a>(calls: impl Iterator<Item = &'a hostfacts::trace::Maintenance>) -> Maintenance {
    calls.fold(Maintenance::default(), |all, call| Maintenance {
        calls: all.calls + 1,
        max_bytes: all.max_bytes.max(call.size),
        max_ns: all.max_ns.max(call.duration_ns),
        total_ns: all.total_ns + call.duration_ns,
    })
}
