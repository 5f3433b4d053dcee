//! Diagnosis: finds the broken rule from the outcomes of several programs.
//!
//! One failure often has two explanations. For example, old code that was not cleaned looks like old code that was not
//! invalidated. Over many programs, only the broken rule explains every failure, and it fails in most of the looks that
//! rely on it.

use std::collections::BTreeMap;

use crate::oracle::{self, Expectations, Expected, Rule};
use crate::outcomes::Outcomes;
use crate::program::Program;

/// Evidence about one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reliance {
    /// Number of looks that must return the newest generation only because of this rule.
    pub relied_on: u64,
    /// Number of failures that this rule explains if it is broken.
    pub explains: u64,
}

/// Evidence about all rules from several programs.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// Number of forbidden outcomes so far.
    pub failures: u64,
    /// Evidence by rule.
    pub rules: BTreeMap<Rule, Reliance>,
}

impl Diagnosis {
    /// Adds the outcomes of a program. Programs without a failure count, too.
    pub fn add(&mut self, program: &Program, expectations: &Expectations, outcomes: &Outcomes) {
        for rule in Rule::ALL {
            let reliance = self.rules.entry(rule).or_default();
            let Expectations { slots, features, .. } = expectations;
            oracle::walk(program, slots, features, Some(rule), |op, class, look| {
                let required = matches!(expectations.of(op, class), Some(Expected::Required(_)));
                let possible = look.possible();
                if required && (possible.anything || !possible.older.is_empty()) {
                    reliance.relied_on += slots.count(class);
                }
            });
        }
        for forbidden in outcomes.forbidden() {
            self.failures += 1;
            for suspect in &forbidden.suspects {
                self.rules.entry(suspect.rule).or_default().explains += 1;
            }
        }
    }

    /// Returns the rules that explain every failure. The first of them failed in the largest share of the looks that
    /// rely on it.
    ///
    /// [`Rule::Broadcast`] is part of the promise of both invalidations. It comes first if it explains every failure,
    /// because the invalidations then work on the CPU that executes them.
    pub fn suspects(&self) -> Vec<Rule> {
        let explains_all = |(_, of): &(&Rule, &Reliance)| self.failures > 0 && of.explains == self.failures;
        let mut suspects: Vec<_> = self.rules.iter().filter(explains_all).collect();
        suspects.sort_by_key(|(rule, of)| (**rule != Rule::Broadcast, of.relied_on));
        suspects.into_iter().map(|(rule, _)| *rule).collect()
    }
}
