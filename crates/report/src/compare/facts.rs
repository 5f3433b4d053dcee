//! What a case or a run is said to be, compared: lockups, verdicts, policies, stale fetches. Pure.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::compare::stats::fisher;
use crate::compare::{ALPHA, Change, Fact};
use record::case::CaseResult;
use record::measure::{Lockups, lockups};
use record::result::RunResult;
use record::status::Status;

/// How to count the lockups of one side.
type CountSide = fn(Lockups) -> u64;

/// A fact with the test it rests on.
pub struct TestedFact {
    pub fact: Fact,
    /// p value by itself; absent where presence alone decides.
    pub raw_p: Option<f64>,
}

impl From<Fact> for TestedFact {
    fn from(fact: Fact) -> Self {
        Self { fact, raw_p: None }
    }
}

impl TestedFact {
    /// Takes back what chance can have done: `p` is corrected for everything that is tested at once.
    pub fn judge(&mut self, p: Option<f64>, alpha: f64) {
        self.fact.p = p;
        if p.is_none_or(|p| p >= alpha) && matches!(self.fact.change, Change::Worse | Change::Better) {
            self.fact.change = Change::Inconclusive;
        }
    }
}

/// How many runs of a side have something.
#[derive(Clone, Copy)]
struct Share {
    with: usize,
    of: usize,
}

/// Compares what is there in some runs and not in others: more of them is worse, fewer better.
fn frequency(before: Share, after: Share) -> (Change, Option<f64>) {
    let change = match (before.with * after.of).cmp(&(after.with * before.of)) {
        Ordering::Less => Change::Worse,
        Ordering::Equal => Change::Same,
        Ordering::Greater => Change::Better,
    };
    let all_against_none = (before.with, after.with) == (0, after.of) || (before.with, after.with) == (before.of, 0);
    // With so few runs even all against none could be chance: then one occurrence is what there is to go by. With more,
    // all against none is as clear, and no number of measurements beside it may take that back.
    if all_against_none || fisher((0, before.of), (after.of, after.of)) >= ALPHA {
        return (presence(before.with, after.with), None);
    }
    let everywhere_or_nowhere = before.with + after.with == 0 || before.with + after.with == before.of + after.of;
    (change, (!everywhere_or_nowhere).then(|| fisher((before.with, before.of), (after.with, after.of))))
}

/// Compares what must not be there at all: new in any run is worse, gone from all is better.
fn presence(before: usize, after: usize) -> Change {
    match (before, after) {
        (0, 0) => Change::Same,
        (0, _) => Change::Worse,
        (_, 0) => Change::Better,
        _ => Change::Same,
    }
}

/// Compares what the runs of a case concluded.
pub fn case_facts(name: &str, before: &[&CaseResult], after: &[&CaseResult]) -> Vec<TestedFact> {
    let fact = |what, before, after, change| Fact { case: name.to_owned(), what, before, after, p: None, change };
    let (change, raw_p) = verdict_change(before, after);
    let mut facts = vec![TestedFact { fact: fact("verdict", statuses(before), statuses(after), change), raw_p }];
    let sides: [(&str, CountSide); 3] = [
        ("I-side lockups", |found| found.i_side),
        ("D-side lockups", |found| found.d_side),
        ("other lockups", |found| found.other),
    ];
    for (what, of) in sides {
        let with = |cases: &[&CaseResult]| {
            let with = cases.iter().filter(|case| of(lockups(case)) > 0).count();
            Share { with, of: cases.len() }
        };
        let (had, has) = (with(before), with(after));
        if had.with + has.with > 0 {
            let (change, raw_p) = frequency(had, has);
            facts.push(TestedFact { fact: fact(what, frequent(before, had), frequent(after, has), change), raw_p });
        }
    }
    let (did, does) = (counted(before), counted(after));
    if let (Some(did), Some(does)) = (&did, &does) {
        facts.push(fact("counted maintenance", did.clone(), does.clone(), policy_change(did, does)).into());
    }
    let wrong = |cases: &[&CaseResult]| cases.iter().map(|case| case.mismatches).sum::<u64>();
    let (had, has) = (wrong(before), wrong(after));
    if had + has > 0 {
        let change = presence(usize::from(had > 0), usize::from(has > 0));
        facts.push(fact("stale fetches", had.to_string(), has.to_string(), change).into());
    }
    facts
}

/// Says in how many runs there were lockups, and how long.
fn frequent(cases: &[&CaseResult], Share { with, of }: Share) -> String {
    let longest = cases.iter().map(|case| lockups(case).longest_s).max().unwrap_or(0);
    if with == 0 { "none".into() } else { format!("in {with} of {of} runs, up to {longest} s") }
}

/// Compares what whole runs concluded.
pub fn run_facts(before: &[RunResult], after: &[RunResult]) -> Vec<TestedFact> {
    let values = |runs: &[RunResult], name: &str| {
        let values: BTreeSet<_> = runs.iter().filter_map(|run| run.facts.get(name).cloned()).collect();
        (!values.is_empty()).then(|| values.into_iter().collect::<Vec<_>>().join(" / "))
    };
    match (values(before, POLICY), values(after, POLICY)) {
        (Some(did), Some(does)) => {
            let change = policy_change(&did, &does);
            vec![Fact { case: "run".into(), what: POLICY, before: did, after: does, p: None, change }.into()]
        }
        _ => Vec::new(),
    }
}

/// Name of the fact that says which maintenance a kernel does.
const POLICY: &str = "policy";

/// Returns the policies that fit what the plugin counted, if it counted in any of these runs.
fn counted(cases: &[&CaseResult]) -> Option<String> {
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

/// A kernel that stops invalidating is wrong, however fast; one that begins to cap is better, one that stops is worse.
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

/// A case that was shown to pass and is only skipped now has lost its evidence: nobody can tell.
fn verdict_change(before: &[&CaseResult], after: &[&CaseResult]) -> (Change, Option<f64>) {
    let passed = |cases: &[&CaseResult]| cases.iter().any(|case| case.verdict.status == Status::Pass);
    let bad = |cases: &[&CaseResult]| {
        let with = cases.iter().filter(|case| !ended_well(case.verdict.status)).count();
        Share { with, of: cases.len() }
    };
    match frequency(bad(before), bad(after)) {
        (Change::Better, _) if !passed(after) => (Change::Inconclusive, None),
        (Change::Same, _) if bad(after).with == 0 && passed(before) != passed(after) => (Change::Inconclusive, None),
        told => told,
    }
}

/// Counts statuses: `pass`, or `pass 9, fail 1`.
fn statuses(cases: &[&CaseResult]) -> String {
    let all = [Status::Pass, Status::Skip, Status::Fail, Status::Timeout, Status::Error];
    let counted = all.map(|status| (status, cases.iter().filter(|case| case.verdict.status == status).count()));
    let present: Vec<_> = counted.into_iter().filter(|(_, count)| *count > 0).collect();
    match present.as_slice() {
        [(status, _)] => status.name().into(),
        several => several.iter().map(|(s, n)| format!("{} {n}", s.name())).collect::<Vec<_>>().join(", "),
    }
}
