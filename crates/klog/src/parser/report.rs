//! A report whose lines are still coming.

use crate::complaint::{Complaint, Kind};
use crate::line::{Caller, LogLine};
use crate::parser::detail::Detail;
use crate::parser::groups::{FinishedReport, Key};
use crate::parser::header::Header;

/// The number of frames kept of one call trace. The deepest fault path of KVM has about 25.
const MAX_FRAMES: usize = 64;
/// The number of lines without a line of its own after which a report is over. A module list and registers take about
/// fifty lines, and the dumps of other CPUs come in between.
const MAX_SILENT_LINES: u64 = 2000;
/// The time after its first line at which a report is over. A slow serial console needs seconds for one report.
const MAX_AGE_USEC: u64 = 10_000_000;

/// The part of the body that the next line belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    /// Registers and facts of the CPU of this report.
    Body,
    /// The call trace.
    Trace,
    /// The part of an x86 call trace that belongs to the reporting interrupt.
    InterruptTrace,
    /// A dump of another CPU or task.
    Foreign,
}

/// A report of which at least the first line was seen.
#[derive(Debug)]
pub struct Report {
    /// The context that prints the report. Lines of the same caller belong to it.
    pub caller: Option<Caller>,
    order: usize,
    place: String,
    contents: Complaint,
    section: Section,
    body_seen: bool,
    unclosed: bool,
    last_line: u64,
    numbered: bool,
}

impl Report {
    /// Opens the report number `order`, whose first line is the line number `at` of the log.
    pub fn new(order: usize, at: u64, header: Header, line: &LogLine<'_>) -> Self {
        let contents = Complaint {
            kind: header.kind,
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
            timestamp_usec: line.timestamp_usec,
            last_timestamp_usec: line.timestamp_usec,
            elsewhere: Vec::new(),
            interleaved: false,
            first_line: line.text.to_owned(),
        };
        Self {
            caller: line.caller,
            order,
            place: header.place,
            contents,
            section: Section::Body,
            body_seen: false,
            unclosed: header.unclosed,
            last_line: at,
            numbered: line.text.contains("[#"),
        }
    }

    /// Returns the CPU that the report is about, as soon as it is known.
    pub fn cpu(&self) -> Option<u32> {
        self.contents.cpu
    }

    /// Returns whether a call trace was seen.
    pub fn has_trace(&self) -> bool {
        !self.contents.call_trace.is_empty()
    }

    /// Returns whether the body began and its call trace did not.
    pub fn is_mid_body(&self) -> bool {
        self.body_seen && !self.has_trace()
    }

    /// Marks that lines of several reports were mixed.
    pub fn mark_interleaved(&mut self) {
        self.contents.interleaved = true;
    }

    /// Returns whether the first line still lacks its closing bracket.
    pub fn is_unclosed(&self) -> bool {
        self.unclosed
    }

    /// Stops the wait for the rest of the first line.
    pub fn give_up_joining(&mut self) {
        self.unclosed = false;
    }

    /// Returns the first line, as printed.
    pub fn first_line(&self) -> &str {
        &self.contents.first_line
    }

    /// Appends the rest of a wrapped first line. `header` is that of the whole line.
    pub fn rejoin(&mut self, header: Header, rest: &str) {
        self.unclosed = false;
        self.contents.comm = header.comm;
        self.contents.pid = header.pid;
        self.contents.first_line.push_str(rest);
    }

    /// Returns whether `line`, the line number `at` of the log, comes too late to belong to this report.
    pub fn is_over(&self, line: &LogLine<'_>, at: u64) -> bool {
        let late = match (line.timestamp_usec, self.contents.timestamp_usec) {
            (Some(now), Some(start)) => now.saturating_sub(start) > MAX_AGE_USEC,
            _ => false,
        };
        late || at - self.last_line > MAX_SILENT_LINES
    }

    /// Takes a header that only continues the report, and returns whether it was one. The kernel announces an oops
    /// first (`Unable to handle kernel …`, `kernel BUG at …`) and numbers it afterwards (`Internal error: Oops: …
    /// [#1]`).
    pub fn absorb(&mut self, header: &Header, text: &str) -> bool {
        let announced =
            matches!(self.contents.kind, Kind::Oops | Kind::Bug) && !self.numbered && self.contents.pc.is_none();
        let numbered = matches!(header.kind, Kind::Oops | Kind::Bug) && text.contains("[#");
        if announced && numbered {
            self.numbered = true;
        }
        announced && numbered
    }

    /// Takes a line that was not recognised. It ends a call trace.
    pub fn leave_trace(&mut self) {
        if self.section == Section::Trace && self.has_trace() {
            self.section = Section::Body;
        }
    }

    /// Takes a line of the body, the line number `at` of the log.
    pub fn add(&mut self, detail: Detail<'_>, at: u64) {
        self.last_line = at;
        match detail {
            Detail::Cpu { cpu, pid, comm, taint } => self.add_cpu_line(cpu, pid, comm, taint),
            Detail::Backtrace { cpu } => {
                let own = self.contents.cpu.is_none_or(|own| own == cpu);
                self.section = if own { Section::Body } else { Section::Foreign };
            }
            Detail::TaskDump(task) => {
                // The report of a stall may begin with RCU's own thread, which starves because of the stall.
                let own = !self.has_trace() && !task.starts_with("rcu_");
                self.section = if own { Section::Body } else { Section::Foreign };
            }
            Detail::StalledCpu(cpu) if self.contents.kind == Kind::RcuStall => {
                self.contents.cpu = self.contents.cpu.or(Some(cpu));
            }
            Detail::Jiffies(jiffies) if self.contents.kind == Kind::RcuStall => {
                self.contents.jiffies = self.contents.jiffies.max(Some(jiffies));
            }
            _ if self.section == Section::Foreign => {}
            Detail::Pc(pc) => self.add_pc(pc),
            Detail::Lr(lr) if self.contents.lr.is_none() => self.contents.lr = Some(lr.to_owned()),
            Detail::TraceStart => self.section = if self.has_trace() { Section::Foreign } else { Section::Trace },
            Detail::Frame(frame) => self.add_frame(frame),
            Detail::TraceNoise(noise) => self.add_noise(noise),
            _ => {}
        }
    }

    fn add_cpu_line(&mut self, cpu: u32, pid: Option<u32>, comm: Option<&str>, taint: Option<String>) {
        let own = match (self.contents.cpu, self.contents.pid) {
            (Some(own), _) => own == cpu,
            (None, Some(own)) => pid == Some(own),
            (None, None) => true,
        };
        self.section = if own { Section::Body } else { Section::Foreign };
        if !own || self.body_seen {
            return;
        }
        self.body_seen = true;
        self.contents.cpu = Some(cpu);
        if self.contents.pid.is_none() {
            self.contents.pid = pid;
        }
        // The first line of an oops has no task, and that of a WARN only a thread id.
        if self.contents.comm.is_none() && self.contents.pid == pid {
            self.contents.comm = comm.map(str::to_owned);
        }
        self.contents.taint = taint;
    }

    fn add_pc(&mut self, pc: &str) {
        if self.contents.pc.is_none() {
            self.contents.pc = Some(pc.to_owned());
        } else if self.section == Section::Body && !self.has_trace() {
            // Two pc lines before any trace mean that the registers of another report are among those of this one.
            self.mark_interleaved();
        }
    }

    fn add_frame(&mut self, frame: &str) {
        if self.section == Section::Trace && self.contents.call_trace.len() < MAX_FRAMES {
            self.contents.call_trace.push(frame.to_owned());
        }
    }

    fn add_noise(&mut self, noise: &str) {
        match (self.section, noise) {
            (Section::Trace, "<IRQ>" | "<NMI>") => self.section = Section::InterruptTrace,
            (Section::InterruptTrace, "</IRQ>" | "</NMI>") => self.section = Section::Trace,
            _ => {}
        }
    }

    /// Closes the report.
    pub fn finish(self) -> FinishedReport {
        let contents = self.contents;
        let by_place = !self.place.is_empty();
        let key = Key {
            kind: contents.kind,
            // A warning of one source line is the same complaint on every CPU. A lockup is not.
            cpu: contents.cpu.filter(|_| !by_place || contents.kind == Kind::RcuStall),
            comm: contents.comm.clone().filter(|_| !by_place),
            pid: contents.pid.filter(|_| !by_place),
            place: match contents.kind {
                Kind::Oops => format!("{}:{}", self.order, self.place),
                _ => self.place,
            },
        };
        FinishedReport { order: self.order, key, contents }
    }
}
