//! Records of an op: its elements and mismatches while it runs, and its summary.

use abi::op::{CHECK, EACH, MISMATCH_CAP};
use abi::record::{Body, Element, Mismatch, Place, Summary};
use abi::{Outcome, Record};

use super::cpu::{Access, Cpu};

/// Receiver of records and progress.
pub trait Sink {
    /// Notes the index of the op that runs next.
    fn at(&mut self, op: u32);
    /// Takes a record. A full sink drops it and counts it.
    fn record(&mut self, record: Record);
}

/// Counts over the elements of one op.
pub(super) struct Tally {
    /// Position of the op.
    pub(super) place: Place,
    /// Number of elements.
    pub(super) count: u64,
    flags: u16,
    /// Worst outcome so far.
    outcome: Outcome,
    mismatches: u64,
    /// Counter when the op began.
    began: u64,
    /// Times of the elements, if the op times them.
    times: Option<Times>,
}

/// Times of the elements of one op, in ticks.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) sum: u64,
}

impl Tally {
    /// Returns the counts of an op that begins now.
    pub(super) fn new(place: Place, flags: u16, began: u64) -> Self {
        Self { place, count: 0, flags, outcome: Outcome::Ok, mismatches: 0, began, times: None }
    }

    /// Sets the number of elements and their times.
    pub(super) fn set_times(&mut self, count: u64, times: Times) {
        (self.count, self.times) = (count, Some(times));
    }

    /// Records an element, if the op asks for a record of each or if the element is a mismatch.
    #[inline(never)]
    pub(super) fn element(&mut self, ipa: u64, access: &Access, expected: u64, sink: &mut impl Sink) {
        let wrong = access.esr != 0 || (self.flags & CHECK != 0 && access.value != expected);
        if self.flags & EACH != 0 {
            let outcome = if wrong { outcome_of_mismatch(access) } else { Outcome::Ok };
            let element = Element {
                ipa,
                ticks: access.ticks(),
                value: access.value,
                esr_el1: access.esr,
                far_el1: access.far,
                began_ticks: access.began,
            };
            sink.record(Record::new(self.place, outcome, Body::Element(element)));
        }
        if wrong {
            self.mismatch(ipa, access, expected, sink);
        }
    }

    /// Counts a mismatch, and records it below the cap.
    #[cold]
    pub(super) fn mismatch(&mut self, ipa: u64, access: &Access, expected: u64, sink: &mut impl Sink) {
        let outcome = outcome_of_mismatch(access);
        self.mismatches += 1;
        self.outcome = self.outcome.max(outcome);
        if self.mismatches <= MISMATCH_CAP {
            let Access { value, esr, far, elr, .. } = *access;
            let mismatch = Mismatch { ipa, value, expected, esr_el1: esr, far_el1: far, elr_el1: elr };
            sink.record(Record::new(self.place, outcome, Body::Mismatch(mismatch)));
        }
    }

    /// Returns the summary. For an op that times no elements it holds the time of the whole op.
    pub(super) fn summary(&self, cpu: &mut impl Cpu) -> Record {
        let times = self.times.unwrap_or_else(|| {
            let ticks = cpu.ticks().saturating_sub(self.began);
            Times { min: ticks, max: ticks, sum: ticks }
        });
        let summary = Summary {
            elements: self.count,
            mismatches: self.mismatches,
            min_ticks: times.min,
            max_ticks: times.max,
            sum_ticks: times.sum,
            began_ticks: self.began,
        };
        Record::new(self.place, self.outcome, Body::Summary(summary))
    }
}

/// Returns the outcome of an access that is a mismatch.
fn outcome_of_mismatch(access: &Access) -> Outcome {
    if access.esr == 0 { Outcome::Wrong } else { Outcome::from_esr(access.esr) }
}
