//! Which rule is broken, from several runs. Pure.
//!
//! One failure is often explained by any of two rules: old code that was neither cleaned nor invalidated looks the same
//! as code that was one of both. Over many programs the right one alone explains all failures, and fails nearly
//! whenever something relies on it.

use std::collections::BTreeMap;

use crate::judge::Outcomes;
use crate::oracle::{self, Expectations, Expected, Rule};
use crate::program::Program;

/// How often a rule was relied on, and how many failures it explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reliance {
    /// Slots looked at of which the rule alone forbids that they are old.
    pub relied_on: u64,
    /// Failures that are explained if the rule is broken.
    pub explains: u64,
}

/// What several runs say about each rule.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// Forbidden outcomes so far.
    pub failures: u64,
    /// By rule.
    pub rules: BTreeMap<Rule, Reliance>,
}

impl Diagnosis {
    /// Takes a run into account; those that fail nothing count as well.
    pub fn add(&mut self, program: &Program, expectations: &Expectations, outcomes: &Outcomes) {
        for rule in Rule::ALL {
            let record = self.rules.entry(rule).or_default();
            let Expectations { slots, geometry, .. } = expectations;
            oracle::walk(program, slots, geometry, Some(rule), |step, class, at| {
                let required = matches!(expectations.of(step, class), Some(Expected::Required(_)));
                let window = at.window();
                if required && (window.anything || !window.older.is_empty()) {
                    record.relied_on += slots.count(class);
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

    /// Returns the rules that explain every failure, the one that fails most often when relied on first.
    ///
    /// Broadcast is a part of what both invalidations promise: where it alone explains everything, they work at home.
    pub fn suspects(&self) -> Vec<Rule> {
        let explains_all = |(_, of): &(&Rule, &Reliance)| self.failures > 0 && of.explains == self.failures;
        let mut suspects: Vec<_> = self.rules.iter().filter(explains_all).collect();
        suspects.sort_by_key(|(rule, of)| (**rule != Rule::Broadcast, of.relied_on));
        suspects.into_iter().map(|(rule, _)| *rule).collect()
    }
}
