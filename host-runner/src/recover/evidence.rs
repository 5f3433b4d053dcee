//! Finds the kernel messages around the death of a run: in kmsg.raw, on the serial console, in pstore.

use std::fs;
use std::io::{BufRead, Cursor};
use std::path::Path;

use klog::complaint::{Complaint, Kind};
use klog::kmsg::KmsgRecord;
use klog::parser::Parser;
use klog::saved;
use record::case::{AttributedComplaint, CaseResult};
use record::journal::case_mark_end;
use record::machine::{LAB_VARIABLE, Machine};

use hostfacts::pstore;

/// File with the runner's copy of the kernel log.
const KMSG: &str = "kmsg.raw";
/// File with the output of the serial console, which the lab writes.
const CONSOLE: &str = "console.log";

/// The complaints of the case that was under way, and the gaps in the evidence.
#[derive(Default)]
pub struct KernelLog {
    /// Complaints in the order of their first report.
    pub complaints: Vec<AttributedComplaint>,
    /// Number of records missing from the runner's copy.
    pub lost: u64,
    /// Sources that are absent.
    pub absent: Vec<String>,
    /// Notes for the reader.
    pub notes: Vec<String>,
    /// Kernel time at which the case under way began, if the log has it.
    began_usec: Option<u64>,
}

/// Presence of the run's dumps in pstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dumps {
    /// The run was in an earlier boot of this machine.
    Possible,
    /// The run was on another machine, or in the boot that still lasts.
    Impossible,
}

impl KernelLog {
    /// Reads every source. If a case of this name was under way, only messages after its beginning count. Complaints that
    /// the finished cases already have are left out.
    pub fn gather(run: &Path, dumps: Dumps, under_way: Option<&str>, finished: &[CaseResult]) -> Self {
        let mut log = Self::default();
        // The lab renames a run when it leaves the emulated host, so only the end of the line is known.
        let mark = under_way.map(case_mark_end);
        let mut events = Vec::new();
        match fs::read(run.join(KMSG)) {
            Ok(bytes) => events = log.kmsg(&bytes, mark.as_deref()),
            Err(error) => log.absent.push(format!("{KMSG}: {error}")),
        }
        if let Ok(bytes) = fs::read(run.join(CONSOLE)) {
            merge(&mut events, log.console(&bytes, mark.as_deref()));
        } else if dumps == Dumps::Possible {
            merge(&mut events, log.pstore(run, mark.as_deref()));
        }
        events.retain(|event| !is_known(event, finished));
        events.sort_by_key(|event| event.timestamp_usec.unwrap_or(u64::MAX));
        log.complaints = events.into_iter().map(AttributedComplaint::from).collect();
        log
    }

    fn kmsg(&mut self, bytes: &[u8], mark: Option<&str>) -> Vec<Complaint> {
        let mut parser = Parser::new();
        let found = mark.filter(|mark| position(bytes, mark.as_bytes()).is_some());
        if found != mark {
            // Writing the mark needs a permission, and the mark may have been overwritten. The copy begins with the run, and
            // the complaints of finished cases are left out.
            self.notes.push(format!("{KMSG} does not say where the case began: all of it counts"));
        }
        let (mark, mut last, mut seen) = (found, None, found.is_none());
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b" ")) {
            let Some(record) = KmsgRecord::parse(line) else { continue };
            if let Some(last) = last {
                self.lost += record.sequence.saturating_sub(last + 1);
            }
            last = Some(record.sequence);
            if mark.is_some_and(|mark| record.text.contains(mark)) {
                (seen, self.began_usec) = (true, Some(record.timestamp_usec));
            }
            if seen {
                record.lines().for_each(|line| parser.push(&line));
            }
        }
        parser.finish()
    }

    fn console(&mut self, bytes: &[u8], mark: Option<&str>) -> Vec<Complaint> {
        let Some(mark) = mark else { return events(bytes) };
        match position(bytes, mark.as_bytes()) {
            Some(at) => events(&bytes[at..]),
            None => {
                // Without the mark, messages of the boot cannot be told from those of the run. Only a panic is surely the
                // last message.
                self.notes.push(format!("{CONSOLE} does not say where the case began: only its last panic counts"));
                events(bytes).into_iter().rfind(|event| event.kind == Kind::Panic).into_iter().collect()
            }
        }
    }

    /// Reads the dumps that are no older than the last entry of the run's journal.
    fn pstore(&mut self, run: &Path, mark: Option<&str>) -> Vec<Complaint> {
        let Some(last_sign) = pstore::modified(&run.join(record::journal::FILE)) else { return Vec::new() };
        let places = pstore::PLACES.map(Path::new);
        let dumps = pstore::read(&places, last_sign);
        if dumps.files == 0 {
            let unreadable = dumps.unreadable.iter().map(|why| format!("; {why}")).collect::<String>();
            self.absent.push(format!(
                "pstore: no dump in {} is younger than the run{unreadable}",
                pstore::PLACES.join(" or ")
            ));
            return Vec::new();
        }
        self.notes.push(format!("{} dumps in pstore are younger than the run and taken as its end", dumps.files));
        let mut found = Vec::new();
        for text in dumps.texts {
            // The same panic may be in a dump and in the copy of the console.
            let from = mark.and_then(|mark| position(&text, mark.as_bytes())).unwrap_or(0);
            merge(&mut found, events(&text[from..]));
        }
        let began = self.began_usec;
        found.retain(|event| event.timestamp_usec.zip(began).is_none_or(|(time, began)| time >= began));
        found
    }
}

fn events(bytes: &[u8]) -> Vec<Complaint> {
    let source: Box<dyn BufRead> = Box::new(Cursor::new(bytes.to_vec()));
    // Reading from memory cannot fail.
    saved::complaints(source).unwrap_or_default()
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).rposition(|window| window == wanted)
}

/// Returns true if both are reports of the same complaint.
fn same(a: &Complaint, b: &Complaint) -> bool {
    (a.kind, a.cpu, a.pid, &a.comm) == (b.kind, b.cpu, b.pid, &b.comm)
}

/// Adds the events of another source. Of the same complaint, keeps the report with more repeats.
fn merge(events: &mut Vec<Complaint>, others: Vec<Complaint>) {
    for other in others {
        match events.iter_mut().find(|event| same(event, &other)) {
            Some(event) if event.repeats >= other.repeats => {}
            Some(event) => *event = other,
            None => events.push(other),
        }
    }
}

/// Returns true if a finished case has this complaint.
fn is_known(event: &Complaint, finished: &[CaseResult]) -> bool {
    let mut complaints = finished.iter().flat_map(|case| &case.complaints);
    complaints.any(|complaint| {
        same(&complaint.complaint, event) && complaint.complaint.timestamp_usec == event.timestamp_usec
    })
}

/// Returns true if a run may have been on this machine. A run of the lab was on an emulated host, unless this is one.
pub fn ran_here(machine: &Machine) -> bool {
    machine.lab.is_some() == std::env::var_os(LAB_VARIABLE).is_some()
}
