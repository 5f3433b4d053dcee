//! Two sets of runs, compared: facts first, then every measurement with what chance allows. Pure.

pub mod baseline;
pub mod machines;
pub mod print;
pub mod stats;

use std::collections::BTreeSet;

use serde::Serialize;

use self::machines::{Difference, differences};
use self::stats::{change, change_interval, holm, median, rank_test};
use crate::evidence::machine::Platform;
use crate::report::measure::{Lockups, Measure, Phase, Stat, case_label, lockups, measures};
use crate::result::{CaseResult, RunResult, Status};
use crate::stats::ns;

/// Chance of calling anything different where nothing is, over all measurements together.
const ALPHA: f64 = 0.05;

/// How one thing, or all of it, compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// No more than the threshold apart.
    Same,
    /// Less time, or a fault that is gone.
    Better,
    /// More time, or a fault that is new.
    Worse,
    /// Too few or too noisy runs to tell.
    Inconclusive,
}

impl Change {
    /// Returns the word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// Why two sets of runs cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Emulated times are a model.
    #[error(
        "{0} and {1} runs do not compare: emulated times are a model of nothing real; --force compares them anyway"
    )]
    Platforms(&'static str, &'static str),
    /// Nothing in common.
    #[error("no case is in both: before has {0}; after has {1}")]
    NothingShared(String, String),
}

/// How to compare.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Changes up to this share are no change: 0.05 is five percent.
    pub threshold: f64,
    /// Whether platforms may differ.
    pub platforms: Platforms,
}

/// Whether platforms may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// All runs must be of one.
    Same,
    /// The operator insists.
    Any,
}

/// One side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Number of runs.
    pub runs: usize,
    /// Their kernels.
    pub kernels: Vec<String>,
    /// Their names.
    pub ids: Vec<String>,
}

/// A fact of a case that is there or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// The case.
    pub case: String,
    /// What it is.
    pub what: &'static str,
    /// How it was before.
    pub before: String,
    /// How it was after.
    pub after: String,
    /// How these compare.
    pub change: Change,
}

/// A measurement of a case, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// The case.
    pub case: String,
    /// What was measured.
    pub measure: Measure,
    /// Median over the runs before, in ns.
    pub before_ns: f64,
    /// Median over the runs after, in ns.
    pub after_ns: f64,
    /// Relative change of the median: 0.1 is ten percent more.
    pub relative: f64,
    /// 95 % interval of the relative change.
    pub interval: Option<(f64, f64)>,
    /// p value of the rank test, corrected for the number of measurements; absent where times are exact.
    pub p: Option<f64>,
    /// How these compare.
    pub change: Change,
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Over everything.
    pub change: Change,
    /// What decided, one line.
    pub reason: String,
    /// Changes up to this share are no change.
    pub threshold: f64,
    /// Times repeat to the last digit (emulated with a time scale), so that one run a side is enough.
    pub exact: bool,
    /// Some of the runs were emulated: their times are a model.
    pub emulated: bool,
    /// Before.
    pub before: Side,
    /// After.
    pub after: Side,
    /// What differs in machines, settings and tools.
    pub differences: Vec<Difference>,
    /// Facts.
    pub facts: Vec<Fact>,
    /// Measurements.
    pub metrics: Vec<Metric>,
    /// Cases of one side only.
    pub unmatched: Vec<String>,
}

/// What makes two cases the same experiment.
type Key = (String, String, u64);

fn key(run: &RunResult, case: &CaseResult) -> Key {
    (run.title().to_owned(), case_label(case), case.region_bytes)
}

/// Compares two sets of runs.
///
/// # Errors
///
/// See [`Error`].
pub fn compare(before: &[RunResult], after: &[RunResult], options: Options) -> Result<Comparison, Error> {
    if options.platforms == Platforms::Same {
        same_platform(before, after)?;
    }
    let (keys_before, keys_after) = (keys(before), keys(after));
    let shared: Vec<_> = keys_before.iter().filter(|key| keys_after.contains(key)).cloned().collect();
    if shared.is_empty() {
        return Err(Error::NothingShared(list(&keys_before), list(&keys_after)));
    }
    let exact = exact_times(before.iter().chain(after));
    let mut facts = run_facts(before, after);
    let mut metrics = Vec::new();
    let several = shared.iter().any(|key| key.0 != shared[0].0);
    // The runs of a plan have cases of one name.
    let named = |key: &Key| if several { format!("{}.{}", key.0, key.1) } else { key.1.clone() };
    for key in &shared {
        let (cases_before, cases_after, name) = (cases(before, key), cases(after, key), named(key));
        facts.extend(case_facts(&name, &cases_before, &cases_after));
        metrics.extend(case_metrics(&name, &cases_before, &cases_after));
    }
    let resolution = resolution_ns(before).max(resolution_ns(after));
    judge(&mut metrics, exact, options.threshold, resolution);
    if exact {
        doubt_lone_maxima(&mut metrics);
    }
    let (change, reason) = overall(&facts, &metrics);
    let unmatched = keys_before
        .iter()
        .filter(|key| !keys_after.contains(key))
        .map(|key| format!("{} only before", named(key)))
        .chain(
            keys_after.iter().filter(|key| !keys_before.contains(key)).map(|key| format!("{} only after", named(key))),
        )
        .collect();
    Ok(Comparison {
        change,
        reason,
        threshold: options.threshold,
        exact,
        emulated: before.iter().chain(after).any(|run| run.machine.platform == Platform::Emulated),
        before: side(before),
        after: side(after),
        differences: differences(before, after),
        facts,
        metrics: metrics.into_iter().map(|sampled| sampled.metric).collect(),
        unmatched,
    })
}

fn same_platform(before: &[RunResult], after: &[RunResult]) -> Result<(), Error> {
    let mut all = before.iter().chain(after).map(|run| run.machine.platform);
    let Some(first) = all.next() else { return Ok(()) };
    match all.find(|platform| (*platform == Platform::Emulated) != (first == Platform::Emulated)) {
        None => Ok(()),
        Some(other) => {
            let name = crate::report::formats::platform_name;
            Err(Error::Platforms(name(first), name(other)))
        }
    }
}

/// Returns the experiments of these runs in the order of the first run that has them.
fn keys(runs: &[RunResult]) -> Vec<Key> {
    let mut found = Vec::new();
    for run in runs {
        for case in &run.cases {
            let key = key(run, case);
            if !found.contains(&key) {
                found.push(key);
            }
        }
    }
    found
}

fn list(keys: &[Key]) -> String {
    let names: Vec<_> = keys.iter().map(|(scenario, case, _)| format!("{scenario}.{case}")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Returns every run's case of this experiment; where a run repeats it, the first.
fn cases<'a>(runs: &'a [RunResult], wanted: &Key) -> Vec<&'a CaseResult> {
    runs.iter().filter_map(|run| run.cases.iter().find(|case| key(run, case) == *wanted)).collect()
}

fn side(runs: &[RunResult]) -> Side {
    let kernels: BTreeSet<_> = runs.iter().map(|run| run.machine.kernel_release.clone()).collect();
    Side {
        runs: runs.len(),
        kernels: kernels.into_iter().collect(),
        ids: runs.iter().map(|run| run.run.id.clone()).collect(),
    }
}

/// Returns whether all runs come from the lab under one and the same time scale.
fn exact_times<'a>(mut runs: impl Iterator<Item = &'a RunResult>) -> bool {
    let scale = |run: &RunResult| run.machine.lab.as_ref().and_then(|lab| lab["time_scale"].as_u64());
    let Some(first) = runs.next().map(scale) else { return false };
    first.is_some() && runs.all(|run| scale(run) == first)
}

/// Returns what the guest's counter cannot tell apart, in ns: the worst of the runs.
fn resolution_ns(runs: &[RunResult]) -> f64 {
    let all = runs.iter().flat_map(|run| &run.vcpus).map(|vcpu| ns(vcpu.resolution_ticks, vcpu.cntfrq_hz));
    all.max().unwrap_or(0) as f64
}

/// How to count the lockups of one side.
type CountSide = fn(Lockups) -> u64;

/// Compares what is there or not: new in any run is worse, gone from all is better.
fn presence(before: usize, after: usize) -> Change {
    match (before, after) {
        (0, 0) => Change::Same,
        (0, _) => Change::Worse,
        (_, 0) => Change::Better,
        _ => Change::Same,
    }
}

fn case_facts(name: &str, before: &[&CaseResult], after: &[&CaseResult]) -> Vec<Fact> {
    let fact =
        |what, before: String, after: String, change| Fact { case: name.to_owned(), what, before, after, change };
    let bad = |cases: &[&CaseResult]| cases.iter().filter(|case| !ended_well(case.verdict.status)).count();
    let mut facts = vec![fact("verdict", statuses(before), statuses(after), verdict_change(before, after, bad))];
    let sides: [(&str, CountSide); 3] = [
        ("I-side lockups", |found| found.i_side),
        ("D-side lockups", |found| found.d_side),
        ("other lockups", |found| found.other),
    ];
    for (what, of) in sides {
        let with = |cases: &[&CaseResult]| cases.iter().filter(|case| of(lockups(case)) > 0).count();
        let (had, has) = (with(before), with(after));
        if had + has > 0 {
            let tell = |cases: &[&CaseResult], count| {
                let longest = cases.iter().map(|case| lockups(case).longest_s).max().unwrap_or(0);
                if count == 0 {
                    "none".into()
                } else {
                    format!("in {count} of {} runs, up to {longest} s", cases.len())
                }
            };
            facts.push(fact(what, tell(before, had), tell(after, has), presence(had, has)));
        }
    }
    let (did, does) = (counted(before), counted(after));
    if let (Some(did), Some(does)) = (&did, &does) {
        facts.push(fact("counted maintenance", did.clone(), does.clone(), policy_change(did, does)));
    }
    let wrong = |cases: &[&CaseResult]| cases.iter().map(|case| case.mismatches).sum::<u64>();
    let (had, has) = (wrong(before), wrong(after));
    if had + has > 0 {
        let change = presence(usize::from(had > 0), usize::from(has > 0));
        facts.push(fact("stale fetches", had.to_string(), has.to_string(), change));
    }
    facts
}

/// Compares what whole runs concluded.
fn run_facts(before: &[RunResult], after: &[RunResult]) -> Vec<Fact> {
    let classes = |runs: &[RunResult]| {
        let named = runs.iter().filter_map(|run| run.policy.as_ref()).map(|conclusion| conclusion.class.name());
        let classes: BTreeSet<_> = named.collect();
        (!classes.is_empty()).then(|| classes.into_iter().collect::<Vec<_>>().join(" / "))
    };
    match (classes(before), classes(after)) {
        (Some(did), Some(does)) => {
            let change = policy_change(&did, &does);
            vec![Fact { case: "run".into(), what: "policy", before: did, after: does, change }]
        }
        _ => Vec::new(),
    }
}

/// Returns the policies that fit what the plugin counted, if it counted in any of these runs.
fn counted(cases: &[&CaseResult]) -> Option<String> {
    let mut fits: Vec<String> = cases
        .iter()
        .filter_map(|case| case.counted.as_ref())
        .map(|counted| if counted.agrees_with.is_empty() { "unknown".into() } else { counted.agrees_with.join(" or ") })
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
fn verdict_change(before: &[&CaseResult], after: &[&CaseResult], bad: impl Fn(&[&CaseResult]) -> usize) -> Change {
    let passed = |cases: &[&CaseResult]| cases.iter().any(|case| case.verdict.status == Status::Pass);
    match presence(bad(before), bad(after)) {
        Change::Better if !passed(after) => Change::Inconclusive,
        Change::Same if bad(after) == 0 && passed(before) != passed(after) => Change::Inconclusive,
        change => change,
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

/// A measurement with the values it came from.
struct Sampled {
    metric: Metric,
    raw_p: Option<f64>,
    /// The largest of several elements, which one interrupt can make.
    of_several: bool,
    /// Runs that have it, on the side with fewer of them.
    runs: usize,
}

fn case_metrics(name: &str, before: &[&CaseResult], after: &[&CaseResult]) -> Vec<Sampled> {
    let mut kinds: Vec<Measure> = Vec::new();
    let samples = before.iter().chain(after).filter_map(|case| Some(case.exec?.ns.count)).max().unwrap_or(0);
    for (measure, _) in before.iter().flat_map(|case| measures(case)) {
        if !kinds.contains(&measure) && !repeats_another(measure, samples) {
            kinds.push(measure);
        }
    }
    let values = |cases: &[&CaseResult], wanted: Measure| -> Vec<f64> {
        let all = cases.iter().flat_map(|case| measures(case));
        all.filter(|(measure, _)| *measure == wanted).map(|(_, ns)| ns as f64).collect()
    };
    kinds
        .into_iter()
        .filter_map(|measure| {
            let (had, has) = (values(before, measure), values(after, measure));
            let (before_ns, after_ns) = (median(&had)?, median(&has)?);
            let metric = Metric {
                case: name.to_owned(),
                measure,
                before_ns,
                after_ns,
                relative: change(before_ns, after_ns),
                interval: change_interval(&had, &has),
                p: None,
                change: Change::Inconclusive,
            };
            let of_several = measure.stat == Stat::Max && samples > 1;
            let runs = had.len().min(has.len());
            Some(Sampled { metric, of_several, runs, raw_p: (runs > 1).then(|| rank_test(&had, &has)) })
        })
        .collect()
}

/// Says whether a number of so few samples is another one again: the 99th percentile of up to 100 is their maximum, and
/// all of one is one. Testing it too would only weaken the test.
fn repeats_another(measure: Measure, samples: u64) -> bool {
    match (measure.phase, measure.stat) {
        (Phase::HostIcache | Phase::HostDcache, _) => false,
        (_, Stat::P99) => samples <= 100,
        (_, Stat::P50) => samples == 1,
        (_, Stat::Max) => false,
    }
}

/// Decides each measurement, all of them being tested at once.
fn judge(metrics: &mut [Sampled], exact: bool, threshold: f64, resolution_ns: f64) {
    let raw: Vec<f64> = metrics.iter().map(|sampled| sampled.raw_p.unwrap_or(1.0)).collect();
    for (Sampled { metric, raw_p, runs, .. }, adjusted) in metrics.iter_mut().zip(holm(&raw)) {
        let direction = if metric.relative > 0.0 { Change::Worse } else { Change::Better };
        let small = metric.relative.abs() <= threshold || (metric.after_ns - metric.before_ns).abs() <= resolution_ns;
        if exact {
            metric.change = if small { Change::Same } else { direction };
            continue;
        }
        metric.p = raw_p.map(|_| adjusted);
        let inside = metric.interval.is_some_and(|(low, high)| low >= -threshold && high <= threshold);
        metric.change = match metric.p {
            Some(p) if p < ALPHA && !small => direction,
            Some(p) if p < ALPHA => Change::Same,
            Some(_) if inside && *runs > 2 => Change::Same,
            _ => Change::Inconclusive,
        };
    }
}

/// Takes back what a single interrupt can have done: where instructions are counted a timer tick falls on another fault
/// as soon as anything before it changes, so the largest of several says nothing unless the median went the same way.
fn doubt_lone_maxima(metrics: &mut [Sampled]) {
    let medians: Vec<(String, Phase, Change)> = metrics
        .iter()
        .map(|sampled| &sampled.metric)
        .filter(|metric| metric.measure.stat == Stat::P50)
        .map(|metric| (metric.case.clone(), metric.measure.phase, metric.change))
        .collect();
    for Sampled { metric, .. } in metrics.iter_mut().filter(|sampled| sampled.of_several) {
        let phase = match metric.measure.phase {
            Phase::HostIcache => Phase::Exec,
            Phase::HostDcache => Phase::Touch,
            phase => phase,
        };
        let agrees = |(case, of, change): &(String, Phase, Change)| {
            *case == metric.case && *of == phase && *change == metric.change
        };
        if metric.change != Change::Same && !medians.iter().any(agrees) {
            metric.change = Change::Inconclusive;
        }
    }
}

/// Sums up: anything worse is worse, then anything better is better.
fn overall(facts: &[Fact], metrics: &[Sampled]) -> (Change, String) {
    let changes = || facts.iter().map(|fact| fact.change).chain(metrics.iter().map(|m| m.metric.change));
    let count = |wanted| changes().filter(|change| *change == wanted).count();
    let (worse, better, same) = (count(Change::Worse), count(Change::Better), count(Change::Same));
    if worse > 0 {
        let besides =
            if better > 0 { format!("; better: {}", named(facts, metrics, Change::Better)) } else { String::new() };
        return (Change::Worse, named(facts, metrics, Change::Worse) + &besides);
    }
    if better > 0 {
        return (Change::Better, named(facts, metrics, Change::Better));
    }
    match count(Change::Inconclusive) {
        0 => (Change::Same, format!("all {same} the same")),
        unclear => {
            (Change::Inconclusive, format!("{same} the same, {unclear} cannot be told: run both sides more often"))
        }
    }
}

/// Names the few that matter most: facts, then the largest changes.
fn named(facts: &[Fact], metrics: &[Sampled], wanted: Change) -> String {
    const NAMED: usize = 3;
    let size = |metric: &Metric| (metric.after_ns / metric.before_ns.max(1.0)).max(1e-9).ln().abs();
    let mut largest: Vec<&Metric> = metrics.iter().map(|m| &m.metric).filter(|m| m.change == wanted).collect();
    largest.sort_by(|a, b| size(b).total_cmp(&size(a)));
    let facts = facts.iter().filter(|fact| fact.change == wanted);
    let all: Vec<_> = facts
        .map(|fact| format!("{} {}: {} -> {}", fact.case, fact.what, fact.before, fact.after))
        .chain(largest.iter().map(|m| format!("{} {}: {}", m.case, m.measure, print::relative(m.relative))))
        .collect();
    let more = if all.len() > NAMED { format!(" and {} more", all.len() - NAMED) } else { String::new() };
    all.into_iter().take(NAMED).collect::<Vec<_>>().join("; ") + &more
}

#[cfg(test)]
mod tests;
