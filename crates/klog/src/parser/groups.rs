//! Groups of reports: all reports of one complaint become one [`Complaint`].

use std::collections::HashMap;

use crate::complaint::{Complaint, Kind, Place};

/// Places kept of one complaint, besides its own.
const MAX_PLACES: usize = 16;

/// The properties by which two reports are of the same complaint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub kind: Kind,
    pub cpu: Option<u32>,
    pub comm: Option<String>,
    pub pid: Option<u32>,
    /// A source line, a flavour of RCU or the like; empty where CPU and task tell complaints apart.
    pub place: String,
}

/// One report that is complete.
#[derive(Debug)]
pub struct FinishedReport {
    /// The number of the report in the log.
    pub order: usize,
    /// The complaint that it is a report of.
    pub key: Key,
    /// The contents of this one report.
    pub contents: Complaint,
}

/// The complaints found so far, each with the number of its first report.
#[derive(Debug, Default)]
pub struct Groups(HashMap<Key, (usize, Complaint)>);

impl Groups {
    /// Adds a report to the complaint that it belongs to.
    pub fn add(&mut self, report: FinishedReport) {
        let FinishedReport { order, key, contents } = report;
        match self.0.get_mut(&key) {
            Some((first, known)) => {
                if order < *first {
                    *first = order;
                    known.first_line.clone_from(&contents.first_line);
                    known.taint.clone_from(&contents.taint);
                }
                merge(known, contents);
            }
            None => {
                self.0.insert(key, (order, contents));
            }
        }
    }

    /// Returns all complaints in the order of their first reports, and forgets them.
    pub fn take(&mut self) -> Vec<Complaint> {
        let mut complaints: Vec<_> = self.0.drain().map(|(_, ordered)| ordered).collect();
        complaints.sort_by_key(|(order, _)| *order);
        complaints.into_iter().map(|(_, complaint)| complaint).collect()
    }
}

/// Adds a repeat to a complaint.
fn merge(known: &mut Complaint, repeat: Complaint) {
    known.interleaved |= repeat.interleaved;
    let longer = (repeat.seconds, repeat.jiffies) > (known.seconds, known.jiffies);
    let mut place = place_of(&repeat);
    if place.is_some() && (longer || place_of(known).is_none()) {
        let others: u32 = known.elsewhere.iter().map(|place| place.repeats).sum();
        let old = place_of(known).map(|old| Place { repeats: (known.repeats - others).max(1), ..old });
        (known.pc, known.lr, known.call_trace) = (repeat.pc, repeat.lr, repeat.call_trace);
        place = old;
        let own = place_of(known);
        known.elsewhere.retain(|place| own.as_ref().is_none_or(|own| function(own) != function(place)));
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
}

/// Adds a place of a repeat to the other places of a complaint. Each function is there once, and the complaint's own
/// function is not among them.
fn add_place(complaint: &mut Complaint, place: Place) {
    let own = place_of(complaint).is_some_and(|own| function(&own) == function(&place));
    if own {
        return;
    }
    if let Some(known) = complaint.elsewhere.iter_mut().find(|known| function(known) == function(&place)) {
        known.repeats += place.repeats;
    } else if complaint.elsewhere.len() < MAX_PLACES {
        complaint.elsewhere.push(place);
    }
}

/// Returns the place at which a report found the CPU, if the report tells it.
fn place_of(report: &Complaint) -> Option<Place> {
    if report.pc.is_none() && report.call_trace.is_empty() {
        return None;
    }
    Some(Place {
        seconds: report.seconds,
        repeats: 1,
        pc: report.pc.clone(),
        lr: report.lr.clone(),
        call_trace: report.call_trace.clone(),
    })
}

/// Returns the name of the function in which a place is.
fn function(place: &Place) -> &str {
    let frame = place.pc.as_ref().or(place.call_trace.first()).map_or("", String::as_str);
    frame.split('+').next().unwrap_or(frame)
}
