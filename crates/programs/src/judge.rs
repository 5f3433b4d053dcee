//! What came out, against what may come out. Pure.

use std::collections::BTreeMap;

use abi::op::MISMATCH_CAP;
use abi::record::{Body, Exception, Mismatch, Summary};
use abi::{Op, OpCode, Outcome, Record, slot};

use crate::compile::{Compiled, elements};
use crate::oracle::{self, Expectations, Expected, Rule, Window};
use crate::program::Program;
use crate::slots::Class;

/// Why records say nothing: never a pass.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Other records than vCPUs.
    #[error("records of {records} vCPUs for a program of {vcpus}")]
    Vcpus {
        /// Records of how many.
        records: usize,
        /// vCPUs of the program.
        vcpus: usize,
    },
    /// An op that was not run, or whose record was lost.
    #[error("vCPU {vcpu} has no record of op {op}, step {step}: it did not run, or its record was lost")]
    Missing {
        /// Which vCPU.
        vcpu: usize,
        /// Which op.
        op: usize,
        /// Of which step.
        step: usize,
    },
    /// An exception outside an access under test.
    #[error("vCPU {vcpu} died: ESR_EL1 {esr:#x} FAR_EL1 {far:#x} ELR_EL1 {elr:#x}")]
    Died {
        /// Which vCPU.
        vcpu: usize,
        /// ESR_EL1.
        esr: u64,
        /// FAR_EL1.
        far: u64,
        /// ELR_EL1.
        elr: u64,
    },
    /// A record that no op of the program writes.
    #[error("vCPU {vcpu}: a record that the program cannot have written: {why}")]
    Strange {
        /// Which vCPU.
        vcpu: usize,
        /// What is strange.
        why: &'static str,
    },
}

/// What a look saw where it did not see the newest generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Another generation of the same slot.
    Generation(u16),
    /// A token or doubleword of no generation of this slot.
    Other(u64),
    /// An exception.
    Exception {
        /// What kind.
        outcome: Outcome,
        /// ESR_EL1.
        esr: u64,
        /// FAR_EL1.
        far: u64,
    },
}

/// A rule without which the outcome would have been allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The rule.
    pub rule: Rule,
    /// The step at which it took away what was seen.
    pub step: Option<usize>,
}

/// An outcome that may not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// Which step looked, from 0.
    pub step: usize,
    /// On which vCPU.
    pub vcpu: usize,
    /// Offset of the slot in the region.
    pub offset: u64,
    /// The newest generation.
    pub newest: u16,
    /// The token, or for loads the doubleword, of the newest generation.
    pub expected: u64,
    /// The token or doubleword that was there; 0 for an exception.
    pub value: u64,
    /// What that means.
    pub sight: Sight,
    /// Rules of which each alone, if broken, explains it; the likeliest first. None: nothing known explains it.
    pub suspects: Vec<Suspect>,
}

impl Forbidden {
    /// Returns the rule that is most likely broken.
    pub fn rule(&self) -> Option<Rule> {
        self.suspects.first().map(|suspect| suspect.rule)
    }
}

/// How the looks of one step came out, in slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepOutcome {
    /// The step, from 0.
    pub step: usize,
    /// Slots looked at.
    pub slots: u64,
    /// The newest was required and seen.
    pub required: u64,
    /// Older ones were allowed, the newest was seen.
    pub newest: u64,
    /// An older one was allowed and seen: first the second newest, and so on.
    pub weak: Vec<u64>,
    /// Neither old nor new, while unsynchronised: unpredictable in the architecture's words.
    pub unpredictable: u64,
    /// Not the newest, but not told which: more mismatches than an op records.
    pub unjudged: u64,
    /// The same of fetches, of which none can be wrong there.
    pub unlisted: u64,
    /// Looking proves nothing.
    pub skipped: u64,
    /// May not be.
    pub forbidden: Vec<Forbidden>,
    /// May not be either, but not told which slot: more mismatches than an op records.
    pub forbidden_unlisted: u64,
}

/// How the looks of a program came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// By step, those that look.
    pub steps: Vec<StepOutcome>,
}

impl Outcomes {
    /// Returns everything that may not be.
    pub fn forbidden(&self) -> impl Iterator<Item = &Forbidden> {
        self.steps.iter().flat_map(|step| &step.forbidden)
    }

    /// Says whether anything may not be.
    pub fn failed(&self) -> bool {
        self.steps.iter().any(|step| !step.forbidden.is_empty() || step.forbidden_unlisted > 0)
    }

    /// Returns slots of all steps, counted by `count`.
    pub fn total(&self, count: impl Fn(&StepOutcome) -> u64) -> u64 {
        self.steps.iter().map(count).sum()
    }

    /// Returns how often an older generation was allowed and seen.
    pub fn weak(&self) -> u64 {
        self.total(|step| step.weak.iter().sum())
    }
}

/// Judges the records of a run: for each vCPU those of its ops, in any order.
///
/// # Errors
///
/// See [`Error`]: records are missing, or are not this program's.
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
    for (vcpu, (ops, records)) in compiled.ops.iter().zip(records).enumerate() {
        let by_op = sort(vcpu, ops, records)?;
        for (index, (op, seen)) in ops.iter().zip(&by_op).enumerate() {
            // The last op has no step.
            let Some(step) = (op.tag as usize).checked_sub(1).filter(|_| index + 1 < ops.len()) else { continue };
            let Some(summary) = seen.summary else { return Err(Error::Missing { vcpu, op: index, step }) };
            if program.steps.get(step).is_some_and(|step| step.act.observes()) {
                judge.op(vcpu, step, op, summary, &seen.mismatches)?;
            }
        }
    }
    Ok(Outcomes { steps: judge.outcomes.into_values().collect() })
}

/// Records of one op.
#[derive(Default)]
struct OpRecords {
    summary: Option<Summary>,
    mismatches: Vec<Mismatch>,
}

fn sort(vcpu: usize, ops: &[Op], records: &[Record]) -> Result<Vec<OpRecords>, Error> {
    let strange = |why| Error::Strange { vcpu, why };
    let mut by_op: Vec<_> = ops.iter().map(|_| OpRecords::default()).collect();
    for record in records {
        let body = record.body().ok_or(strange("unknown kind"))?;
        if let Body::Exception(Exception { esr_el1: esr, far_el1: far, elr_el1: elr, .. }) = body {
            return Err(Error::Died { vcpu, esr, far, elr });
        }
        let index = record.op as usize;
        let (op, seen) = ops.get(index).zip(by_op.get_mut(index)).ok_or(strange("an op beyond the last"))?;
        if op.tag != record.tag {
            return Err(strange("another op's tag"));
        }
        match body {
            Body::Summary(_) if seen.summary.is_some() => return Err(strange("two summaries of one op")),
            Body::Summary(summary) => seen.summary = Some(summary),
            Body::Mismatch(mismatch) => seen.mismatches.push(mismatch),
            Body::Element(_) | Body::Exception(_) | Body::RaceCount(_) => {}
        }
    }
    Ok(by_op)
}

struct Judge<'a> {
    program: &'a Program,
    expectations: &'a Expectations,
    base_ipa: u64,
    outcomes: BTreeMap<usize, StepOutcome>,
    /// What each look could see without each rule; made when first needed.
    without: Option<Vec<Looks>>,
}

/// What looks could see, by step and class, and when the rule acted in the full model.
struct Looks {
    rule: Rule,
    windows: BTreeMap<(usize, Class), Window>,
    acted: BTreeMap<(usize, Class), usize>,
}

impl Judge<'_> {
    /// Judges one op of an observing step. All its slots are of one class.
    fn op(&mut self, vcpu: usize, step: usize, op: &Op, summary: Summary, wrong: &[Mismatch]) -> Result<(), Error> {
        let strange = |why| Error::Strange { vcpu, why };
        let Summary { elements: slots, mismatches, .. } = summary;
        if slots != elements(op) {
            return Err(strange("not every slot was looked at"));
        }
        if mismatches > slots || wrong.len() as u64 != mismatches.min(MISMATCH_CAP) {
            return Err(strange("another number of mismatches than the summary says"));
        }
        let offset = op.start.wrapping_sub(self.base_ipa);
        let class = self.expectations.slots.class_at(offset).ok_or(strange("not a slot of the program"))?;
        let expected = self.expectations.of(step, class).ok_or(strange("not a look of the program"))?.clone();
        let (listed, right) = (wrong.len() as u64, slots - mismatches);
        let outcome = self.outcome(step);
        outcome.slots += slots;
        match &expected {
            Expected::Skipped => {
                outcome.skipped += slots;
                return Ok(());
            }
            Expected::Required(_) => {
                outcome.required += right;
                outcome.forbidden_unlisted += mismatches - listed;
            }
            Expected::Allowed { .. } => {
                outcome.newest += right;
                // Of what loads see, something may be forbidden here; of what fetches see, nothing is.
                let rest = if op.code == OpCode::Fetch as u16 { &mut outcome.unlisted } else { &mut outcome.unjudged };
                *rest += mismatches - listed;
            }
        }
        wrong.iter().try_for_each(|mismatch| self.mismatch(vcpu, step, class, op, &expected, mismatch))
    }

    fn outcome(&mut self, step: usize) -> &mut StepOutcome {
        self.outcomes.entry(step).or_insert_with(|| StepOutcome { step, ..StepOutcome::default() })
    }

    fn mismatch(
        &mut self,
        vcpu: usize,
        step: usize,
        class: Class,
        op: &Op,
        expected: &Expected,
        mismatch: &Mismatch,
    ) -> Result<(), Error> {
        let strange = |why| Error::Strange { vcpu, why };
        let Mismatch { ipa, value, expected: wanted, .. } = *mismatch;
        let offset = ipa.wrapping_sub(self.base_ipa);
        if self.expectations.slots.class_at(offset) != Some(class) {
            return Err(strange("a mismatch outside the op's slots"));
        }
        let sight = sight(op, mismatch);
        let fetched = op.code == OpCode::Fetch as u16;
        let outcome = self.outcome(step);
        let newest = match (expected, sight) {
            (Expected::Skipped, _) => return Ok(()),
            (Expected::Required(newest), _) => *newest,
            (Expected::Allowed { newest, older }, sight) => {
                let age = older.iter().position(|generation| sight == Sight::Generation(*generation));
                match age {
                    Some(age) => {
                        outcome.weak.resize(outcome.weak.len().max(age + 1), 0);
                        outcome.weak[age] += 1;
                        return Ok(());
                    }
                    None if fetched => {
                        outcome.unpredictable += 1;
                        return Ok(());
                    }
                    None => *newest,
                }
            }
        };
        let suspects = self.suspects(step, class, fetched, sight);
        let value = if matches!(sight, Sight::Exception { .. }) { 0 } else { value };
        let forbidden = Forbidden { step, vcpu, offset, newest, expected: wanted, value, sight, suspects };
        self.outcome(step).forbidden.push(forbidden);
        Ok(())
    }

    /// Returns the rules without any one of which the sight would have been allowed.
    fn suspects(&mut self, step: usize, class: Class, fetched: bool, sight: Sight) -> Vec<Suspect> {
        let (program, expectations) = (self.program, self.expectations);
        let without =
            self.without.get_or_insert_with(|| Rule::ALL.map(|rule| looks(program, expectations, rule)).into());
        let explains = |looks: &&Looks| looks.windows.get(&(step, class)).is_some_and(|w| allows(w, fetched, sight));
        without
            .iter()
            .filter(explains)
            .map(|looks| Suspect { rule: looks.rule, step: looks.acted.get(&(step, class)).copied() })
            .collect()
    }
}

fn looks(program: &Program, expectations: &Expectations, rule: Rule) -> Looks {
    let Expectations { slots, geometry, .. } = expectations;
    let (mut windows, mut acted) = (BTreeMap::new(), BTreeMap::new());
    oracle::walk(program, slots, geometry, Some(rule), |step, class, at| {
        windows.insert((step, class), at.window());
    });
    oracle::walk(program, slots, geometry, None, |step, class, at| {
        acted.extend(at.acted(rule).map(|by| ((step, class), by)));
    });
    Looks { rule, windows, acted }
}

/// Says whether a window allows what was seen. Code that is unsynchronised may do anything.
fn allows(window: &Window, fetched: bool, sight: Sight) -> bool {
    let unsynchronised = fetched && !window.older.is_empty();
    let listed = matches!(sight, Sight::Generation(generation) if window.older.contains(&generation));
    window.anything || listed || unsynchronised && !matches!(sight, Sight::Generation(_))
}

/// Returns what a mismatch record of a fetch or load says.
fn sight(op: &Op, mismatch: &Mismatch) -> Sight {
    let Mismatch { ipa, value, esr_el1: esr, far_el1: far, .. } = *mismatch;
    if esr != 0 {
        return Sight::Exception { outcome: Outcome::from_esr(esr), esr, far };
    }
    if op.code == OpCode::Fetch as u16 {
        return match slot::decode(value) {
            (of, generation) if of == ipa => Sight::Generation(generation),
            _ => Sight::Other(value),
        };
    }
    let generation = slot::generation_of(value);
    if value == slot::first_doubleword(ipa, generation) { Sight::Generation(generation) } else { Sight::Other(value) }
}
