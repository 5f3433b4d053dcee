//! Compares the properties of cases and runs that are not times: verdicts, lockups, policies, stale fetches.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use record::answer::{self, Answer};
use record::case::CaseResult;
use record::measure::{Lockups, lockups};
use record::result::RunResult;
use record::status::Status;

use crate::compare::comparison::{Change, Fact};
use crate::compare::stats::{ALPHA, fisher};

/// A fact with the p value of its test.
pub struct TestedFact {
    pub fact: Fact,
    /// p value without a correction. Absent if one occurrence decides.
    pub raw_p: Option<f64>,
}

impl From<Fact> for TestedFact {
    fn from(fact: Fact) -> Self {
        Self { fact, raw_p: None }
    }
}

impl TestedFact {
    /// Withdraws a verdict that chance can explain. `p` is corrected for everything that is tested together.
    pub fn judge(&mut self, p: Option<f64>, alpha: f64) {
        self.fact.p = p;
        if p.is_none_or(|p| p >= alpha) && matches!(self.fact.change, Change::Worse | Change::Better) {
            self.fact.change = Change::Inconclusive;
        }
    }
}

/// Number of runs of one side that have a property.
#[derive(Clone, Copy)]
struct Occurrence {
    with: usize,
    runs: usize,
}

/// Compares the frequency of a property that should be absent: more often is worse, less often is better.
fn compare_frequency(before: Occurrence, after: Occurrence) -> (Change, Option<f64>) {
    let change = match (before.with * after.runs).cmp(&(after.with * before.runs)) {
        Ordering::Less => Change::Worse,
        Ordering::Equal => Change::Same,
        Ordering::Greater => Change::Better,
    };
    let all_against_none =
        (before.with, after.with) == (0, after.runs) || (before.with, after.with) == (before.runs, 0);
    // If the runs are so few that even "all against none" could be chance, one occurrence decides. If they are more, "all
    // against none" is as clear, and the correction for the number of measurements must not withdraw it.
    if all_against_none || fisher((0, before.runs), (after.runs, after.runs)) >= ALPHA {
        return (compare_presence(before.with, after.with), None);
    }
    let with = before.with + after.with;
    let everywhere_or_nowhere = with == 0 || with == before.runs + after.runs;
    (change, (!everywhere_or_nowhere).then(|| fisher((before.with, before.runs), (after.with, after.runs))))
}

/// Compares the presence of a property that must be absent: new in any run is worse, gone from all runs is better.
fn compare_presence(before: usize, after: usize) -> Change {
    match (before, after) {
        (0, 0) => Change::Same,
        (0, _) => Change::Worse,
        (_, 0) => Change::Better,
        _ => Change::Same,
    }
}

/// Function that picks the lockups of one side (I, D or other).
type CountSide = fn(Lockups) -> u64;

/// Compares one case over the runs of both sides.
pub fn case_facts(name: &str, before: &[&CaseResult], after: &[&CaseResult]) -> Vec<TestedFact> {
    let fact = |what, before, after, change| Fact { case: name.to_owned(), what, before, after, p: None, change };
    let (change, raw_p) = verdict_change(before, after);
    let mut facts = vec![TestedFact { fact: fact("verdict", statuses(before), statuses(after), change), raw_p }];
    let sides: [(&str, CountSide); 3] = [
        ("I-side lockups", |found| found.i_side),
        ("D-side lockups", |found| found.d_side),
        ("other lockups", |found| found.other),
    ];
    for (what, count) in sides {
        let occurrence = |cases: &[&CaseResult]| {
            let with = cases.iter().filter(|case| count(lockups(case)) > 0).count();
            Occurrence { with, runs: cases.len() }
        };
        let (had, has) = (occurrence(before), occurrence(after));
        if had.with + has.with > 0 {
            let (change, raw_p) = compare_frequency(had, has);
            let fact = fact(what, describe_lockups(before, had), describe_lockups(after, has), change);
            facts.push(TestedFact { fact, raw_p });
        }
    }
    if let (Some(did), Some(does)) = (counted_policies(before), counted_policies(after)) {
        let change = policy_change(&did, &does);
        facts.push(fact("counted maintenance", did, does, change).into());
    }
    let stale = |cases: &[&CaseResult]| cases.iter().map(|case| case.mismatches).sum::<u64>();
    let (had, has) = (stale(before), stale(after));
    if had + has > 0 {
        let change = compare_presence(usize::from(had > 0), usize::from(has > 0));
        facts.push(fact("stale fetches", had.to_string(), has.to_string(), change).into());
    }
    facts
}

/// Describes the runs with lockups, and the longest lockup.
fn describe_lockups(cases: &[&CaseResult], Occurrence { with, runs }: Occurrence) -> String {
    let longest = cases.iter().map(|case| lockups(case).longest_s).max().unwrap_or(0);
    if with == 0 { "none".into() } else { format!("in {with} of {runs} runs, up to {longest} s") }
}

/// A function that compares the values of a fact before and after.
type CompareFact = fn(&str, &str) -> Change;

/// Compares the facts of whole runs: the answer, and the policy.
pub fn run_facts(before: &[RunResult], after: &[RunResult]) -> Vec<TestedFact> {
    let values = |runs: &[RunResult], name: &str| {
        let values: BTreeSet<_> = runs.iter().filter_map(|run| run.facts.get(name).cloned()).collect();
        (!values.is_empty()).then(|| values.into_iter().collect::<Vec<_>>().join(" / "))
    };
    let facts: [(&'static str, CompareFact); 2] = [(answer::FACT, answer_change), (POLICY, policy_change)];
    let compared = facts.into_iter().filter_map(|(what, compare)| {
        let (before, after) = (values(before, what)?, values(after, what)?);
        let change = compare(&before, &after);
        Some(Fact { case: "run".into(), what, before, after, p: None, change }.into())
    });
    compared.collect()
}

/// Name of the fact of a run that holds the maintenance policy of its kernel.
const POLICY: &str = "policy";

/// Compares two answers. A kernel that is broken is worse than one that is affected.
fn answer_change(before: &str, after: &str) -> Change {
    let rank = |name: &str| match Answer::by_name(name)? {
        Answer::NotAffected => Some(0),
        Answer::Affected => Some(1),
        Answer::Broken => Some(2),
        Answer::CannotTell => None,
    };
    match (rank(before), rank(after)) {
        _ if before == after => Change::Same,
        (Some(before), Some(after)) if after < before => Change::Better,
        (Some(_), Some(_)) => Change::Worse,
        _ => Change::Inconclusive,
    }
}

/// Returns the policies that fit the counts of the TCG plugin, if any of these cases was counted.
fn counted_policies(cases: &[&CaseResult]) -> Option<String> {
    let mut fits: Vec<String> = cases
        .iter()
        .filter_map(|case| case.counted.as_ref())
        .map(|counted| {
            if counted.agrees_with.is_empty() {
                "unknown".into()
            } else {
                counted.agrees_with.iter().map(|policy| policy.name()).collect::<Vec<_>>().join(" or ")
            }
        })
        .collect();
    fits.sort();
    fits.dedup();
    (!fits.is_empty()).then(|| fits.join(" / "))
}

/// Compares two policies. A kernel that stops invalidating is wrong, however fast it is. A kernel that begins to cap is
/// better, and one that stops capping is worse.
fn policy_change(before: &str, after: &str) -> Change {
    match (before, after) {
        (before, after) if before == after => Change::Same,
        (_, "cannot be told") | ("cannot be told", _) => Change::Inconclusive,
        (_, "none" | "no maintenance") | ("capped" | "always all", "by line") => Change::Worse,
        ("none" | "no maintenance", _) | ("by line", "capped" | "always all") => Change::Better,
        _ => Change::Inconclusive,
    }
}

fn ended_well(status: Status) -> bool {
    matches!(status, Status::Pass | Status::Skip)
}

/// Compares the verdicts of a case. If it passed before and is only skipped now, its evidence is lost and nothing can be
/// told.
fn verdict_change(before: &[&CaseResult], after: &[&CaseResult]) -> (Change, Option<f64>) {
    let passed = |cases: &[&CaseResult]| cases.iter().any(|case| case.verdict.status == Status::Pass);
    let bad = |cases: &[&CaseResult]| {
        let with = cases.iter().filter(|case| !ended_well(case.verdict.status)).count();
        Occurrence { with, runs: cases.len() }
    };
    match compare_frequency(bad(before), bad(after)) {
        (Change::Better, _) if !passed(after) => (Change::Inconclusive, None),
        (Change::Same, _) if bad(after).with == 0 && passed(before) != passed(after) => (Change::Inconclusive, None),
        change => change,
    }
}

/// Returns the number of cases for each status: `pass`, or `pass 9, fail 1`.
fn statuses(cases: &[&CaseResult]) -> String {
    let all = [Status::Pass, Status::Skip, Status::Fail, Status::Timeout, Status::Error];
    let counted = all.map(|status| (status, cases.iter().filter(|case| case.verdict.status == status).count()));
    let present: Vec<_> = counted.into_iter().filter(|(_, count)| *count > 0).collect();
    match present.as_slice() {
        [(status, _)] => status.name().into(),
        several => several.iter().map(|(s, n)| format!("{} {n}", s.name())).collect::<Vec<_>>().join(", "),
    }
}
