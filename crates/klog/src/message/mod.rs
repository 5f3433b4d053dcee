//! Finds the kernel's complaints in a sequence of log records: lockups, stalls, hung tasks, warnings, deaths.
//!
//! Pure and streaming: memory grows with the number of complaints, not with the log. Reports of one CPU and task are
//! one [`Event`]. Interleaved reports are told apart by the caller id where the kernel prints one; otherwise by the
//! `CPU:` lines, and where even these do not decide, the event is marked [`Event::interleaved`].

mod detail;
mod header;
mod report;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::message::detail::Detail;
use crate::message::report::Report;
use crate::record::{Caller, Origin, Record};

/// The kinds of complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A CPU ran kernel code without scheduling for twice `watchdog_thresh`.
    SoftLockup,
    /// A CPU took no timer interrupt for `watchdog_thresh`.
    HardLockup,
    /// A grace period did not end: self-detected, detected, expedited, or of tasks.
    RcuStall,
    /// A task stayed in uninterruptible sleep.
    HungTask,
    /// `WARN_ON` and its like, lockdep included.
    Warn,
    /// `BUG_ON` and the `BUG:` messages that are no lockup.
    Bug,
    /// A bad access or trap in the kernel.
    Oops,
    /// The kernel gave up.
    Panic,
}

impl Kind {
    /// Returns the name used in results and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::SoftLockup => "soft_lockup",
            Self::HardLockup => "hard_lockup",
            Self::RcuStall => "rcu_stall",
            Self::HungTask => "hung_task",
            Self::Warn => "warn",
            Self::Bug => "bug",
            Self::Oops => "oops",
            Self::Panic => "panic",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Where the CPU was in repeats of an event that found it in another function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// The time of the first report that found it there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds: Option<u64>,
    /// How many reports found it there.
    pub repeats: u32,
    /// As in [`Event::pc`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pc: Option<String>,
    /// As in [`Event::lr`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lr: Option<String>,
    /// As in [`Event::call_trace`].
    pub call_trace: Vec<String>,
}

/// One complaint, with all its repeats. Absent means that the log did not say it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// What the kernel complained about.
    pub kind: Kind,
    /// The CPU it was about (RCU: the first one named).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu: Option<u32>,
    /// Name of the task that ran there, or hung.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comm: Option<String>,
    /// Its thread id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// The longest time of all repeats, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds: Option<u64>,
    /// The longest time of all repeats, in jiffies: RCU gives no seconds, and the log does not tell HZ.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jiffies: Option<u64>,
    /// How often it was reported; 1 for a single report.
    pub repeats: u32,
    /// The kernel's taint letters at the first report, such as `GL`; absent when not tainted or not said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub taint: Option<String>,
    /// Where the CPU was, as `symbol+offset/length`, in the longest report that says it (the first of equals).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pc: Option<String>,
    /// The link register, arm64 only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lr: Option<String>,
    /// The calls that led there, innermost first, without frames of the interrupt that reported it.
    pub call_trace: Vec<String>,
    /// Where other reports of the same CPU and task found it. A vCPU that stalls first cleaning the D-cache and later
    /// invalidating the I-cache is one event with two places: never judge it by the first alone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub elsewhere: Vec<Place>,
    /// Time stamp of the first report, microseconds of the kernel's log clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timestamp_usec: Option<u64>,
    /// Time stamp of the last report.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_timestamp_usec: Option<u64>,
    /// Lines of several CPUs were mixed and nothing told them apart: pc and trace may belong to another CPU.
    pub interleaved: bool,
    /// The first line of the first report, as printed.
    pub first_line: String,
}

/// What makes two reports the same complaint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    cpu: Option<u32>,
    comm: Option<String>,
    pid: Option<u32>,
    place: String,
}

/// Reports that can be open at once: more than CPUs complain together, and few enough to look through for each line.
const MAX_OPEN: usize = 256;
/// Lines between two looks for reports that are over; a power of two, and small beside a report.
const SWEEP_LINES: u64 = 32;

/// Turns records into events. Push every record in order, then call [`Parser::finish`].
#[derive(Debug, Default)]
pub struct Parser {
    open: Vec<Report>,
    /// Index of the report that lines without a caller id belong to.
    active: Option<usize>,
    reports: usize,
    lines: u64,
    groups: HashMap<Key, (usize, Event)>,
}

impl Parser {
    /// Returns a parser that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next record. Records that user space wrote are ignored.
    pub fn push(&mut self, record: &Record<'_>) {
        if record.origin == Origin::User {
            return;
        }
        self.lines += 1;
        if !self.open.is_empty() {
            if self.lines.is_multiple_of(SWEEP_LINES) {
                self.sweep(record);
            }
            if self.join_wrapped(record) {
                return;
            }
        }
        let header = header::recognise(record.text).filter(|_| record.origin != Origin::KernelContinued);
        if let Some(header) = header {
            self.begin(header, record);
        } else if !self.open.is_empty() {
            self.continue_report(record);
        }
    }

    /// Closes what is open and returns all events in the order of their first report. The parser is empty afterwards.
    pub fn finish(&mut self) -> Vec<Event> {
        while !self.open.is_empty() {
            self.close(0);
        }
        let mut events: Vec<_> = self.groups.drain().map(|(_, ordered)| ordered).collect();
        events.sort_by_key(|(order, _)| *order);
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// Returns the open report that lines of this caller belong to.
    fn current(&self, caller: Option<Caller>) -> Option<usize> {
        match caller {
            Some(_) => self.open.iter().rposition(|report| report.caller == caller),
            None => self.active,
        }
    }

    fn begin(&mut self, header: header::Header, record: &Record<'_>) {
        if let Some(at) = self.current(record.caller) {
            if self.open[at].absorbs(&header, record.text) {
                return;
            }
            // Without a caller id a report without a body stays open: its body may still come, mixed with this one.
            if record.caller.is_some() || self.open[at].has_trace() {
                self.close(at);
            }
        }
        if self.open.len() >= MAX_OPEN {
            self.close(0);
        }
        self.open.push(Report::new(self.reports, self.lines, header, record));
        self.reports += 1;
        self.active = Some(self.open.len() - 1);
    }

    /// Closes the reports to which nothing can belong any more.
    fn sweep(&mut self, record: &Record<'_>) {
        for at in (0..self.open.len()).rev() {
            if self.open[at].is_over(record, self.lines) {
                self.close(at);
            }
        }
    }

    fn continue_report(&mut self, record: &Record<'_>) {
        let detail = detail::recognise(record.text);
        let at = match detail {
            Some(Detail::Cpu { cpu, .. } | Detail::Backtrace { cpu }) => self.route(cpu, record.caller),
            _ => self.current(record.caller),
        };
        let Some(at) = at else { return };
        match detail {
            Some(Detail::End) => self.close(at),
            Some(detail) => self.open[at].add(detail, self.lines),
            None => self.open[at].leave_trace(),
        }
    }

    /// Finds the report for a `CPU:` line, which may come from another CPU than the report's first line.
    fn route(&mut self, cpu: u32, caller: Option<Caller>) -> Option<usize> {
        let current = self.current(caller);
        if current.is_some_and(|at| self.open[at].cpu().is_none_or(|own| own == cpu)) {
            return current;
        }
        let Some(other) = self.open.iter().rposition(|report| report.cpu() == Some(cpu) && !report.has_trace()) else {
            return current;
        };
        if caller.is_some() {
            self.open[other].caller = caller;
        } else {
            if let Some(at) = current.filter(|&at| self.open[at].is_mid_body()) {
                self.open[at].interleaved();
                self.open[other].interleaved();
            }
            self.active = Some(other);
        }
        Some(other)
    }

    /// Joins a first line that a terminal wrapped before its closing bracket with the line that follows.
    fn join_wrapped(&mut self, record: &Record<'_>) -> bool {
        let Some(at) = self.active.filter(|&at| self.open[at].is_unclosed()) else { return false };
        let fits = record.caller.is_none() && record.timestamp_usec.is_none() && record.text.ends_with(']');
        let report = &mut self.open[at];
        let joined = if fits { header::recognise(&format!("{}{}", report.first_line(), record.text)) } else { None };
        match joined {
            Some(header) if !header.unclosed => {
                report.rejoin(header, record.text);
                true
            }
            _ => {
                report.give_up_joining();
                false
            }
        }
    }

    fn close(&mut self, at: usize) {
        let report = self.open.remove(at);
        self.active = match self.active {
            Some(active) if active == at => None,
            Some(active) if active > at => Some(active - 1),
            active => active,
        };
        let (order, key, event) = report.into_event();
        match self.groups.get_mut(&key) {
            Some((first, known)) => {
                report::merge(known, event, order < *first);
                *first = order.min(*first);
            }
            None => {
                self.groups.insert(key, (order, event));
            }
        }
    }
}

/// Parses records in one go.
pub fn parse<'a>(records: impl IntoIterator<Item = Record<'a>>) -> Vec<Event> {
    let mut parser = Parser::new();
    for record in records {
        parser.push(&record);
    }
    parser.finish()
}
