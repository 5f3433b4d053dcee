//! The kernel's words around a run's death: kmsg.raw, the serial console, pstore.

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

use crate::recover::pstore;

/// The runner's copy of the kernel log.
const KMSG: &str = "kmsg.raw";
/// The serial console, which the lab writes.
const CONSOLE: &str = "console.log";

/// The complaints that belong to the case under way, and what is missing.
#[derive(Default)]
pub struct KernelLog {
    /// In the order of their first report.
    pub complaints: Vec<AttributedComplaint>,
    /// Records missing from the runner's copy.
    pub lost: u64,
    /// Sources that are not there.
    pub absent: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// The kernel's time when the case under way began, where its log says so.
    began_usec: Option<u64>,
}

impl KernelLog {
    /// Reads every source. With a case of this name under way, only what came after its beginning counts.
    /// Dumps in pstore are of a boot that ended: they say nothing of a run in this one (`same_boot`).
    pub fn gather(
        run: &Path,
        machine: &Machine,
        same_boot: bool,
        under_way: Option<&str>,
        done: &[CaseResult],
    ) -> Self {
        let mut log = Self::default();
        // The lab renames a run when it leaves the guest: the line is known by its end.
        let mark = under_way.map(case_mark_end);
        let mut events = Vec::new();
        match fs::read(run.join(KMSG)) {
            Ok(bytes) => events = log.kmsg(&bytes, mark.as_deref()),
            Err(error) => log.absent.push(format!("{KMSG}: {error}")),
        }
        if let Ok(bytes) = fs::read(run.join(CONSOLE)) {
            merge(&mut events, log.console(&bytes, mark.as_deref()));
        } else if runs_here(machine) && !same_boot {
            merge(&mut events, log.pstore(run, mark.as_deref()));
        }
        events.retain(|event| !known(event, done));
        events.sort_by_key(|event| event.timestamp_usec.unwrap_or(u64::MAX));
        log.complaints = events.into_iter().map(AttributedComplaint::from).collect();
        log
    }

    fn kmsg(&mut self, bytes: &[u8], mark: Option<&str>) -> Vec<Complaint> {
        let mut parser = Parser::new();
        let found = mark.filter(|mark| position(bytes, mark.as_bytes()).is_some());
        if found != mark {
            // It takes a permission to write, and may have been overwritten. The copy begins with the run, and finished
            // cases have theirs.
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
                // Without the mark, boot messages cannot be told from the run's: only a death is surely the last.
                self.notes.push(format!("{CONSOLE} does not say where the case began: only its last panic counts"));
                events(bytes).into_iter().rfind(|event| event.kind == Kind::Panic).into_iter().collect()
            }
        }
    }

    /// Takes dumps that are no older than the run's last sign of life.
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
            // The same death may be in a dump and in the console's copy.
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
    // Reading from memory does not fail.
    saved::complaints(source).unwrap_or_default()
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).rposition(|window| window == wanted)
}

/// Says whether two sources tell of the same complaint.
fn same(a: &Complaint, b: &Complaint) -> bool {
    (a.kind, a.cpu, a.pid, &a.comm) == (b.kind, b.cpu, b.pid, &b.comm)
}

/// Adds what another source has; of the same complaint the fuller account is kept.
fn merge(events: &mut Vec<Complaint>, others: Vec<Complaint>) {
    for other in others {
        match events.iter_mut().find(|event| same(event, &other)) {
            Some(event) if event.repeats >= other.repeats => {}
            Some(event) => *event = other,
            None => events.push(other),
        }
    }
}

/// Says whether a finished case has it already.
fn known(event: &Complaint, done: &[CaseResult]) -> bool {
    let mut complaints = done.iter().flat_map(|case| &case.complaints);
    complaints.any(|complaint| {
        same(&complaint.complaint, event) && complaint.complaint.timestamp_usec == event.timestamp_usec
    })
}

/// Says whether a run may be this machine's: one of the lab's was another's, whose boots and dumps are not here.
pub fn runs_here(machine: &Machine) -> bool {
    machine.lab.is_some() == std::env::var_os(LAB_VARIABLE).is_some()
}
