//! Judge: compares the records of a run with the generations that the oracle allows.

use std::collections::BTreeMap;

use abi::op::MISMATCH_CAP;
use abi::record::{Body, Exception, Mismatch, Summary};
use abi::{Op, OpCode, Outcome, Record, slot};

use crate::compile::{Compiled, elements};
use crate::oracle::{self, Expectations, Expected, Possible, Rule};
use crate::outcomes::{Forbidden, Observed, OpOutcomes, Outcomes, SuspectRule};
use crate::program::Program;
use crate::slots::Class;

/// Reason why the records cannot be judged. Such a run never passes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The number of vCPUs differs.
    #[error("records of {records} vCPUs for a program of {vcpus}")]
    Vcpus {
        /// Number of vCPUs that left records.
        records: usize,
        /// Number of vCPUs of the program.
        vcpus: usize,
    },
    /// A guest op did not run, or its record was lost.
    #[error("vCPU {vcpu} has no record of guest op {guest_op}, from op {op}: it did not run, or its record was lost")]
    Missing {
        /// vCPU of the op.
        vcpu: usize,
        /// Index of the guest op on this vCPU.
        guest_op: usize,
        /// Op of the program that it was compiled from.
        op: usize,
    },
    /// An exception occurred outside an access under test.
    #[error("vCPU {vcpu} died: ESR_EL1 {esr:#x} FAR_EL1 {far:#x} ELR_EL1 {elr:#x}")]
    Died {
        /// vCPU that took the exception.
        vcpu: usize,
        /// ESR_EL1.
        esr: u64,
        /// FAR_EL1.
        far: u64,
        /// ELR_EL1.
        elr: u64,
    },
    /// No op of the program writes such a record.
    #[error("vCPU {vcpu}: a record that the program cannot have written: {why}")]
    Strange {
        /// vCPU that left the record.
        vcpu: usize,
        /// Property that no record of the program has.
        why: &'static str,
    },
}

/// Judges the records of a run. `records` holds the records of each vCPU, in any order.
///
/// # Errors
///
/// See [`Error`]: records are missing, or another program wrote them.
pub fn judge(
    program: &Program,
    expectations: &Expectations,
    compiled: &Compiled,
    records: &[Vec<Record>],
) -> Result<Outcomes, Error> {
    if records.len() != program.vcpus {
        return Err(Error::Vcpus { records: records.len(), vcpus: program.vcpus });
    }
    let mut judge =
        Judge { program, expectations, base_ipa: compiled.base_ipa, outcomes: BTreeMap::new(), without: None };
    for (vcpu, (guest_ops, records)) in compiled.ops.iter().zip(records).enumerate() {
        let by_guest_op = sort(vcpu, guest_ops, records)?;
        for (index, (guest_op, found)) in guest_ops.iter().zip(&by_guest_op).enumerate() {
            // The last guest op belongs to no op of the program.
            let last = index + 1 == guest_ops.len();
            let Some(op) = (guest_op.tag as usize).checked_sub(1).filter(|_| !last) else { continue };
            let Some(summary) = found.summary else { return Err(Error::Missing { vcpu, guest_op: index, op }) };
            if program.ops.get(op).is_some_and(|op| op.action.is_look()) {
                judge.look(&GuestLook { vcpu, op, guest_op, summary, mismatches: &found.mismatches })?;
            }
        }
    }
    Ok(Outcomes { ops: judge.outcomes.into_values().collect() })
}

/// Records of one guest op.
#[derive(Default)]
struct OpRecords {
    summary: Option<Summary>,
    mismatches: Vec<Mismatch>,
}

/// Sorts the records of a vCPU by guest op.
fn sort(vcpu: usize, guest_ops: &[Op], records: &[Record]) -> Result<Vec<OpRecords>, Error> {
    let strange = |why| Error::Strange { vcpu, why };
    let mut by_guest_op: Vec<_> = guest_ops.iter().map(|_| OpRecords::default()).collect();
    for record in records {
        let body = record.body().ok_or(strange("unknown kind"))?;
        if let Body::Exception(Exception { esr_el1: esr, far_el1: far, elr_el1: elr, .. }) = body {
            return Err(Error::Died { vcpu, esr, far, elr });
        }
        let index = record.op as usize;
        let (guest_op, found) =
            guest_ops.get(index).zip(by_guest_op.get_mut(index)).ok_or(strange("an op beyond the last"))?;
        if guest_op.tag != record.tag {
            return Err(strange("another op's tag"));
        }
        match body {
            Body::Summary(_) if found.summary.is_some() => return Err(strange("two summaries of one op")),
            Body::Summary(summary) => found.summary = Some(summary),
            Body::Mismatch(mismatch) => found.mismatches.push(mismatch),
            Body::Element(_) | Body::Exception(_) | Body::RaceCount(_) => {}
        }
    }
    Ok(by_guest_op)
}

/// Guest op that looks, with its records. All its slots are of one class.
struct GuestLook<'a> {
    vcpu: usize,
    /// Op of the program.
    op: usize,
    guest_op: &'a Op,
    summary: Summary,
    mismatches: &'a [Mismatch],
}

impl GuestLook<'_> {
    const fn strange(&self, why: &'static str) -> Error {
        Error::Strange { vcpu: self.vcpu, why }
    }

    const fn is_fetch(&self) -> bool {
        self.guest_op.code == OpCode::Fetch as u16
    }
}

struct Judge<'a> {
    program: &'a Program,
    expectations: &'a Expectations,
    base_ipa: u64,
    outcomes: BTreeMap<usize, OpOutcomes>,
    /// Looks without each rule. They are computed when the first mismatch needs them.
    without: Option<Vec<LooksWithout>>,
}

/// Looks of the program on a machine that breaks one rule, by op and class.
struct LooksWithout {
    rule: Rule,
    /// Generations that each look may return.
    possible: BTreeMap<(usize, Class), Possible>,
    /// Op at which the rule last narrowed each look, on a machine that keeps it.
    narrowed_at: BTreeMap<(usize, Class), usize>,
}

impl Judge<'_> {
    /// Judges one guest op that looks.
    fn look(&mut self, look: &GuestLook<'_>) -> Result<(), Error> {
        let Summary { elements: slots, mismatches, .. } = look.summary;
        if slots != elements(look.guest_op) {
            return Err(look.strange("not every slot was looked at"));
        }
        if mismatches > slots || look.mismatches.len() as u64 != mismatches.min(MISMATCH_CAP) {
            return Err(look.strange("another number of mismatches than the summary says"));
        }
        let offset = look.guest_op.start.wrapping_sub(self.base_ipa);
        let class = self.expectations.slots.class_at(offset).ok_or(look.strange("not a slot of the program"))?;
        let expected = self.expectations.of(look.op, class).ok_or(look.strange("not a look of the program"))?.clone();
        let (listed, right) = (look.mismatches.len() as u64, slots - mismatches);
        let outcomes = self.outcomes_of(look.op);
        outcomes.slots += slots;
        match &expected {
            Expected::Skipped => {
                outcomes.skipped += slots;
                return Ok(());
            }
            Expected::Required(_) => {
                outcomes.required += right;
                outcomes.forbidden_unlisted += mismatches - listed;
            }
            Expected::Allowed { .. } => {
                outcomes.newest += right;
                // No outcome of these fetches is forbidden, but an outcome of these loads can be.
                let rest = if look.is_fetch() { &mut outcomes.unlisted } else { &mut outcomes.unjudged };
                *rest += mismatches - listed;
            }
        }
        look.mismatches.iter().try_for_each(|mismatch| self.mismatch(look, class, &expected, mismatch))
    }

    fn outcomes_of(&mut self, op: usize) -> &mut OpOutcomes {
        self.outcomes.entry(op).or_insert_with(|| OpOutcomes { op, ..OpOutcomes::default() })
    }

    /// Judges one slot that did not return its newest generation.
    fn mismatch(
        &mut self,
        look: &GuestLook<'_>,
        class: Class,
        expected: &Expected,
        mismatch: &Mismatch,
    ) -> Result<(), Error> {
        let Mismatch { ipa, value, expected: wanted, .. } = *mismatch;
        let offset = ipa.wrapping_sub(self.base_ipa);
        if self.expectations.slots.class_at(offset) != Some(class) {
            return Err(look.strange("a mismatch outside the op's slots"));
        }
        let observed = observed(look, mismatch);
        let outcomes = self.outcomes_of(look.op);
        let newest = match expected {
            Expected::Skipped => return Ok(()),
            Expected::Required(newest) => *newest,
            Expected::Allowed { newest, older } => {
                match older.iter().position(|generation| observed == Observed::Generation(*generation)) {
                    Some(age) => {
                        outcomes.weak.resize(outcomes.weak.len().max(age + 1), 0);
                        outcomes.weak[age] += 1;
                        return Ok(());
                    }
                    None if look.is_fetch() => {
                        outcomes.unpredictable += 1;
                        return Ok(());
                    }
                    None => *newest,
                }
            }
        };
        let suspects = self.suspects(look, class, observed);
        let value = if matches!(observed, Observed::Exception { .. }) { 0 } else { value };
        let GuestLook { op, vcpu, .. } = *look;
        let forbidden = Forbidden { op, vcpu, offset, newest, expected: wanted, value, observed, suspects };
        self.outcomes_of(op).forbidden.push(forbidden);
        Ok(())
    }

    /// Returns the rules that explain the observed value: without any one of them, the oracle would have allowed it.
    fn suspects(&mut self, look: &GuestLook<'_>, class: Class, observed: Observed) -> Vec<SuspectRule> {
        let (program, expectations) = (self.program, self.expectations);
        let without =
            self.without.get_or_insert_with(|| Rule::ALL.map(|rule| looks_without(program, expectations, rule)).into());
        let at = (look.op, class);
        let explains =
            |looks: &&LooksWithout| looks.possible.get(&at).is_some_and(|possible| allows(possible, look, observed));
        without
            .iter()
            .filter(explains)
            .map(|looks| SuspectRule { rule: looks.rule, op: looks.narrowed_at.get(&at).copied() })
            .collect()
    }
}

fn looks_without(program: &Program, expectations: &Expectations, rule: Rule) -> LooksWithout {
    let Expectations { slots, features, .. } = expectations;
    let (mut possible, mut narrowed_at) = (BTreeMap::new(), BTreeMap::new());
    oracle::walk(program, slots, features, Some(rule), |op, class, look| {
        possible.insert((op, class), look.possible());
    });
    oracle::walk(program, slots, features, None, |op, class, look| {
        narrowed_at.extend(look.narrowed_by(rule).map(|at| ((op, class), at)));
    });
    LooksWithout { rule, possible, narrowed_at }
}

/// Returns whether a look may return the observed value. A fetch of unsynchronised code may do anything.
fn allows(possible: &Possible, look: &GuestLook<'_>, observed: Observed) -> bool {
    let unsynchronised = look.is_fetch() && !possible.older.is_empty();
    let listed = matches!(observed, Observed::Generation(generation) if possible.older.contains(&generation));
    possible.anything || listed || unsynchronised && !matches!(observed, Observed::Generation(_))
}

/// Returns the observed value in a mismatch record.
fn observed(look: &GuestLook<'_>, mismatch: &Mismatch) -> Observed {
    let Mismatch { ipa, value, esr_el1: esr, far_el1: far, .. } = *mismatch;
    if esr != 0 {
        return Observed::Exception { outcome: Outcome::from_esr(esr), esr, far };
    }
    if look.is_fetch() {
        return match slot::decode(value) {
            (of, generation) if of == ipa => Observed::Generation(generation),
            _ => Observed::Other(value),
        };
    }
    let generation = slot::generation_of(value);
    if value == slot::first_doubleword(ipa, generation) {
        Observed::Generation(generation)
    } else {
        Observed::Other(value)
    }
}
