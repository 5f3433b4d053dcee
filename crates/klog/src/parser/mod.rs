//! The parser: lines of a log in, complaints out.
//!
//! It works line by line, and its memory grows with the number of complaints, not with the length of the log.
//!
//! - All reports of the same kind about the same CPU and task become one [`Complaint`]. Warnings of one source line
//!   become one complaint even on different CPUs. Each oops is a complaint of its own.
//! - Interleaved reports are told apart by the caller id, if the kernel prints one, and otherwise by the `CPU:` lines.
//!   If these do not decide either, the complaint is marked as [`interleaved`](Complaint::interleaved).

mod detail;
mod groups;
mod header;
mod number;
mod report;
#[cfg(test)]
mod tests;

use crate::complaint::Complaint;
use crate::line::{Caller, LogLine, Origin};
use crate::parser::detail::Detail;
use crate::parser::groups::Groups;
use crate::parser::header::Header;
use crate::parser::report::Report;

/// The number of reports that can be open at once. It is larger than the number of CPUs that complain together, and
/// small enough to search all open reports for each line.
const MAX_OPEN: usize = 256;
/// The number of lines between two searches for reports that are over. It is small beside the length of a report.
const SWEEP_LINES: u64 = 32;

/// A parser of kernel logs. Push every line in order, then call [`Parser::finish`].
///
/// ```
/// use faultline_klog::{complaint::Kind, line::LogLine, parser::Parser};
///
/// let mut parser = Parser::new();
/// for line in [
///     "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [qemu-system-aar:1234]",
///     "pc : icache_inval_pou+0x24/0x44",
/// ] {
///     parser.push(&LogLine::plain(line));
/// }
/// let complaints = parser.finish();
/// assert_eq!(complaints[0].kind, Kind::SoftLockup);
/// assert_eq!((complaints[0].cpu, complaints[0].pid), (Some(1), Some(1234)));
/// assert_eq!(complaints[0].pc.as_deref(), Some("icache_inval_pou+0x24/0x44"));
/// ```
#[derive(Debug, Default)]
pub struct Parser {
    open: Vec<Report>,
    /// Index of the report that lines without a caller id belong to.
    active: Option<usize>,
    reports: usize,
    lines: u64,
    groups: Groups,
}

impl Parser {
    /// Returns a parser that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next line. Ignores it if user space wrote it.
    pub fn push(&mut self, line: &LogLine<'_>) {
        if line.origin == Origin::User {
            return;
        }
        self.lines += 1;
        if !self.open.is_empty() {
            if self.lines.is_multiple_of(SWEEP_LINES) {
                self.sweep(line);
            }
            if self.join_wrapped(line) {
                return;
            }
        }
        let header = header::recognise(line.text).filter(|_| line.origin != Origin::KernelContinued);
        if let Some(header) = header {
            self.begin(header, line);
        } else if !self.open.is_empty() {
            self.continue_report(line);
        }
    }

    /// Closes all open reports and returns all complaints in the order of their first reports. The parser is empty
    /// afterwards.
    pub fn finish(&mut self) -> Vec<Complaint> {
        while !self.open.is_empty() {
            self.close(0);
        }
        self.groups.take()
    }

    /// Returns the open report that lines of this caller belong to.
    fn current(&self, caller: Option<Caller>) -> Option<usize> {
        match caller {
            Some(_) => self.open.iter().rposition(|report| report.caller == caller),
            None => self.active,
        }
    }

    fn begin(&mut self, header: Header, line: &LogLine<'_>) {
        if let Some(at) = self.current(line.caller) {
            if self.open[at].absorb(&header, line.text) {
                return;
            }
            // Without a caller id, a report without a body stays open, because its body may still come, mixed with the
            // new report.
            if line.caller.is_some() || self.open[at].has_trace() {
                self.close(at);
            }
        }
        if self.open.len() >= MAX_OPEN {
            self.close(0);
        }
        self.open.push(Report::new(self.reports, self.lines, header, line));
        self.reports += 1;
        self.active = Some(self.open.len() - 1);
    }

    /// Closes the reports that no later line can belong to.
    fn sweep(&mut self, line: &LogLine<'_>) {
        for at in (0..self.open.len()).rev() {
            if self.open[at].is_over(line, self.lines) {
                self.close(at);
            }
        }
    }

    fn continue_report(&mut self, line: &LogLine<'_>) {
        let detail = detail::recognise(line.text);
        let at = match detail {
            Some(Detail::Cpu { cpu, .. } | Detail::Backtrace { cpu }) => self.route(cpu, line.caller),
            _ => self.current(line.caller),
        };
        let Some(at) = at else { return };
        match detail {
            Some(Detail::End) => self.close(at),
            Some(detail) => self.open[at].add(detail, self.lines),
            None => self.open[at].leave_trace(),
        }
    }

    /// Finds the report that a `CPU:` line belongs to. Another CPU may have printed the first line of that report.
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
                self.open[at].mark_interleaved();
                self.open[other].mark_interleaved();
            }
            self.active = Some(other);
        }
        Some(other)
    }

    /// Joins a first line that a terminal wrapped before its closing bracket with the line that follows. Returns
    /// whether it did so.
    fn join_wrapped(&mut self, line: &LogLine<'_>) -> bool {
        let Some(at) = self.active.filter(|&at| self.open[at].is_unclosed()) else { return false };
        let fits = line.caller.is_none() && line.timestamp_usec.is_none() && line.text.ends_with(']');
        let report = &mut self.open[at];
        let joined = if fits { header::recognise(&format!("{}{}", report.first_line(), line.text)) } else { None };
        match joined {
            Some(header) if !header.unclosed => {
                report.rejoin(header, line.text);
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
        self.groups.add(report.finish());
    }
}
