//! One report while its lines are still coming.

use crate::message::detail::Detail;
use crate::message::header::Header;
use crate::message::{Event, Key, Kind, Place};
use crate::record::{Caller, Record};

/// Frames kept of one call trace; the deepest fault path of KVM has about 25.
const MAX_FRAMES: usize = 64;
/// Lines after the last one of a report at which it counts as over. A module list and registers are some fifty lines;
/// the dumps of other CPUs come in between.
const MAX_SILENT_LINES: u64 = 2000;
/// Other places kept of one event.
const MAX_PLACES: usize = 16;
/// Time after its first line at which a report counts as over: slow serial consoles need seconds for one.
const MAX_AGE_USEC: u64 = 10_000_000;

/// Which part of the body the next line belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    /// Registers and facts of this report's CPU.
    Body,
    /// Inside the call trace.
    Trace,
    /// Inside the part of an x86 call trace that belongs to the reporting interrupt.
    InterruptTrace,
    /// A dump of another CPU or task.
    Foreign,
}

/// A report whose first line was seen.
#[derive(Debug)]
pub(super) struct Report {
    /// Who prints it; lines of that caller belong here.
    pub caller: Option<Caller>,
    order: usize,
    place: String,
    event: Event,
    section: Section,
    body_seen: bool,
    unclosed: bool,
    last_line: u64,
    numbered: bool,
}

impl Report {
    /// Opens a report. `header.kind` is set for every header that [`crate::message::header::recognise`] returns.
    pub fn new(order: usize, line: u64, header: Header, record: &Record<'_>) -> Self {
        let event = Event {
            kind: header.kind.unwrap_or(Kind::Bug),
            cpu: header.cpu,
            comm: header.comm,
            pid: header.pid,
            seconds: header.seconds,
            jiffies: header.jiffies,
            repeats: 1,
            taint: None,
            pc: None,
            lr: None,
            call_trace: Vec::new(),
            timestamp_usec: record.timestamp_usec,
            last_timestamp_usec: record.timestamp_usec,
            elsewhere: Vec::new(),
            interleaved: false,
            first_line: record.text.to_owned(),
        };
        Self {
            caller: record.caller,
            order,
            place: header.place,
            event,
            section: Section::Body,
            body_seen: false,
            unclosed: header.unclosed,
            last_line: line,
            numbered: record.text.contains("[#"),
        }
    }

    /// Returns the CPU this report is about, once known.
    pub fn cpu(&self) -> Option<u32> {
        self.event.cpu
    }

    /// Says whether a call trace was seen.
    pub fn has_trace(&self) -> bool {
        !self.event.call_trace.is_empty()
    }

    /// Says whether the body began and its trace did not.
    pub fn is_mid_body(&self) -> bool {
        self.body_seen && !self.has_trace()
    }

    /// Marks that lines of several reports were mixed.
    pub fn interleaved(&mut self) {
        self.event.interleaved = true;
    }

    /// Says whether the first line still lacks its closing bracket.
    pub fn is_unclosed(&self) -> bool {
        self.unclosed
    }

    /// Stops waiting for the rest of the first line.
    pub fn give_up_joining(&mut self) {
        self.unclosed = false;
    }

    /// Returns the first line as printed.
    pub fn first_line(&self) -> &str {
        &self.event.first_line
    }

    /// Completes the first line with the rest of it.
    pub fn rejoin(&mut self, header: Header, rest: &str) {
        self.unclosed = false;
        self.event.comm = header.comm;
        self.event.pid = header.pid;
        self.event.first_line.push_str(rest);
    }

    /// Says whether `record` comes too late to belong to this report.
    pub fn is_over(&self, record: &Record<'_>, line: u64) -> bool {
        let late = match (record.timestamp_usec, self.event.timestamp_usec) {
            (Some(now), Some(start)) => now.saturating_sub(start) > MAX_AGE_USEC,
            _ => false,
        };
        late || line - self.last_line > MAX_SILENT_LINES
    }

    /// Says whether this header only continues the report: a death is announced first (`Unable to handle kernel …`,
    /// `kernel BUG at …`) and numbered afterwards (`Internal error: Oops: … [#1]`).
    pub fn absorbs(&mut self, header: &Header, text: &str) -> bool {
        let dying = matches!(self.event.kind, Kind::Oops | Kind::Bug) && !self.numbered && self.event.pc.is_none();
        let numbered = matches!(header.kind, Some(Kind::Oops | Kind::Bug)) && text.contains("[#");
        if dying && numbered {
            self.numbered = true;
        }
        dying && numbered
    }

    /// Takes a line that says nothing: it ends a call trace.
    pub fn leave_trace(&mut self) {
        if self.section == Section::Trace && self.has_trace() {
            self.section = Section::Body;
        }
    }

    /// Takes a line of the body.
    pub fn add(&mut self, detail: Detail<'_>, line: u64) {
        self.last_line = line;
        match detail {
            Detail::Cpu { cpu, pid, comm, taint } => self.add_cpu_line(cpu, pid, comm, taint),
            Detail::Backtrace { cpu } => self.enter(self.event.cpu.is_none_or(|own| own == cpu)),
            // A stall report may begin with RCU's own thread, which starves because of the stall.
            Detail::TaskDump(task) => self.enter(!self.has_trace() && !task.starts_with("rcu_")),
            Detail::StalledCpu(cpu) if self.event.kind == Kind::RcuStall => {
                self.event.cpu = self.event.cpu.or(Some(cpu));
            }
            Detail::Jiffies(jiffies) if self.event.kind == Kind::RcuStall => {
                self.event.jiffies = self.event.jiffies.max(Some(jiffies));
            }
            _ if self.section == Section::Foreign => {}
            Detail::Pc(pc) => self.add_pc(pc),
            Detail::Lr(lr) if self.event.lr.is_none() => self.event.lr = Some(lr.to_owned()),
            Detail::TraceStart => self.section = if self.has_trace() { Section::Foreign } else { Section::Trace },
            Detail::Frame(frame) => self.add_frame(frame),
            Detail::TraceNoise(noise) => self.add_noise(noise),
            _ => {}
        }
    }

    fn enter(&mut self, own: bool) {
        self.section = if own { Section::Body } else { Section::Foreign };
    }

    fn add_cpu_line(&mut self, cpu: u32, pid: Option<u32>, comm: Option<&str>, taint: Option<String>) {
        let own = match (self.event.cpu, self.event.pid) {
            (Some(own), _) => own == cpu,
            (None, Some(own)) => pid == Some(own),
            (None, None) => true,
        };
        self.enter(own);
        if !own || self.body_seen {
            return;
        }
        self.body_seen = true;
        self.event.cpu = Some(cpu);
        if self.event.pid.is_none() {
            self.event.pid = pid;
        }
        // A death's own line carries no name, and a WARN's only a pid.
        if self.event.comm.is_none() && self.event.pid == pid {
            self.event.comm = comm.map(str::to_owned);
        }
        self.event.taint = taint;
    }

    fn add_pc(&mut self, pc: &str) {
        if self.event.pc.is_none() {
            self.event.pc = Some(pc.to_owned());
        } else if self.section == Section::Body && !self.has_trace() {
            // Two pc lines before any trace: somebody else's registers are among ours.
            self.interleaved();
        }
    }

    fn add_frame(&mut self, frame: &str) {
        if self.section == Section::Trace && self.event.call_trace.len() < MAX_FRAMES {
            self.event.call_trace.push(frame.to_owned());
        }
    }

    fn add_noise(&mut self, noise: &str) {
        match (self.section, noise) {
            (Section::Trace, "<IRQ>" | "<NMI>") => self.section = Section::InterruptTrace,
            (Section::InterruptTrace, "</IRQ>" | "</NMI>") => self.section = Section::Trace,
            _ => {}
        }
    }

    /// Closes the report; the number is its place in the log.
    pub fn into_event(self) -> (usize, Key, Event) {
        let event = self.event;
        let by_place = !self.place.is_empty();
        let key = Key {
            kind: event.kind,
            // A warning is the same wherever it strikes; a lockup is not.
            cpu: event.cpu.filter(|_| !by_place || event.kind == Kind::RcuStall),
            comm: event.comm.clone().filter(|_| !by_place),
            pid: event.pid.filter(|_| !by_place),
            place: match event.kind {
                Kind::Oops => format!("{}:{}", self.order, self.place),
                _ => self.place,
            },
        };
        (self.order, key, event)
    }
}

/// Adds a repeat to an event; `earlier` says that the repeat was the first in the log.
pub(super) fn merge(known: &mut Event, repeat: Event, earlier: bool) {
    known.interleaved |= repeat.interleaved;
    let longer = (repeat.seconds, repeat.jiffies) > (known.seconds, known.jiffies);
    let mut place = Place::of(&repeat);
    if place.is_some() && (longer || Place::of(known).is_none()) {
        let others: u32 = known.elsewhere.iter().map(|place| place.repeats).sum();
        let old = Place::of(known).map(|old| Place { repeats: (known.repeats - others).max(1), ..old });
        (known.pc, known.lr, known.call_trace) = (repeat.pc, repeat.lr, repeat.call_trace);
        place = old;
        let own = Place::of(known);
        known.elsewhere.retain(|place| own.as_ref().is_none_or(|own| own.function() != place.function()));
    }
    if let Some(place) = place {
        add_place(known, place);
    }
    known.repeats += repeat.repeats;
    known.seconds = known.seconds.max(repeat.seconds);
    known.jiffies = known.jiffies.max(repeat.jiffies);
    known.timestamp_usec = known.timestamp_usec.min(repeat.timestamp_usec).or(known.timestamp_usec);
    known.last_timestamp_usec = known.last_timestamp_usec.max(repeat.last_timestamp_usec);
    known.comm = known.comm.take().or(repeat.comm);
    if earlier {
        known.first_line = repeat.first_line;
        known.taint = repeat.taint;
    }
}

/// Notes a place of a repeat, once for each function, and never the one the event names itself.
fn add_place(event: &mut Event, place: Place) {
    let own = Place::of(event).is_some_and(|own| own.function() == place.function());
    if own {
        return;
    }
    if let Some(known) = event.elsewhere.iter_mut().find(|known| known.function() == place.function()) {
        known.repeats += place.repeats;
    } else if event.elsewhere.len() < MAX_PLACES {
        event.elsewhere.push(place);
    }
}

impl Place {
    /// Returns where a report says that the CPU was, if it says.
    fn of(event: &Event) -> Option<Self> {
        if event.pc.is_none() && event.call_trace.is_empty() {
            return None;
        }
        Some(Self {
            seconds: event.seconds,
            repeats: 1,
            pc: event.pc.clone(),
            lr: event.lr.clone(),
            call_trace: event.call_trace.clone(),
        })
    }

    fn function(&self) -> &str {
        let frame = self.pc.as_ref().or(self.call_trace.first()).map_or("", String::as_str);
        frame.split('+').next().unwrap_or(frame)
    }
}
