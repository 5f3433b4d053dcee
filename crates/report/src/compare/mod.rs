//! Two sets of runs, compared: facts first, then every measurement with what chance allows. Pure.

pub mod baseline;
mod facts;
pub mod machines;
pub mod print;
pub mod stats;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::compare::facts::{TestedFact, case_facts, run_facts};
use crate::compare::machines::{Difference, differences};
use crate::compare::stats::{Interval, change, change_intervals, holm, median, rank_test};
use record::case::CaseResult;
use record::machine::Platform;
use record::measure::{Measure, Phase, Stat, measures};
use record::result::RunResult;
use units::stats::ns;

/// Chance of calling anything different where nothing is, over everything that is compared together.
pub const ALPHA: f64 = 0.05;

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
    /// Chance of calling anything different where nothing is: [`ALPHA`], or this run's share of it.
    pub alpha: f64,
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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fact {
    /// The case.
    pub case: String,
    /// What it is.
    pub what: &'static str,
    /// How it was before.
    pub before: String,
    /// How it was after.
    pub after: String,
    /// p value of Fisher's exact test on the number of runs that have it, corrected as those of the measurements are;
    /// absent where there are too few runs for chance to be told, or where one occurrence decides.
    pub p: Option<f64>,
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
    /// Relative change of the median: 0.1 is ten percent more; infinite, which is null in JSON, from 0 to anything.
    pub relative: f64,
    /// 95 % interval of the relative change.
    pub interval: Option<Interval>,
    /// Difference of the medians in ns.
    pub difference_ns: f64,
    /// 95 % interval of the difference in ns.
    pub difference_interval_ns: Option<Interval>,
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
    (run.title().to_owned(), case.id.clone(), case.region_bytes())
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
    let mut facts: Vec<TestedFact> = run_facts(before, after);
    let mut metrics = Vec::new();
    let several = shared.iter().any(|key| key.0 != shared[0].0);
    // The runs of a plan have cases of one name.
    let named = |key: &Key| if several { format!("{}.{}", key.0, key.1) } else { key.1.clone() };
    for key in &shared {
        let (cases_before, cases_after, name) = (cases(before, key), cases(after, key), named(key));
        facts.extend(case_facts(&name, &cases_before, &cases_after));
        metrics.extend(case_metrics(&name, &cases_before, &cases_after));
    }
    let resolution_ns = resolution_ns(before).max(resolution_ns(after));
    let limits = Limits { threshold: options.threshold, resolution_ns, alpha: options.alpha };
    if exact {
        metrics.iter_mut().for_each(|sampled| sampled.judge_exact(limits));
        doubt_lone_maxima(&mut metrics);
        judge(&mut facts, &mut [], limits);
    } else {
        judge(&mut facts, &mut metrics, limits);
    }
    let facts: Vec<Fact> = facts.into_iter().map(|told| told.fact).collect();
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
        Some(other) => Err(Error::Platforms(first.name(), other.name())),
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
    let scale = |run: &RunResult| run.machine.lab.as_ref().and_then(|lab| lab.time_scale);
    let Some(first) = runs.next().map(scale) else { return false };
    first.is_some() && runs.all(|run| scale(run) == first)
}

/// Returns what the guest's counter cannot tell apart, in ns: the worst of the runs.
fn resolution_ns(runs: &[RunResult]) -> f64 {
    let all = runs.iter().flat_map(|run| &run.vcpus).map(|vcpu| ns(vcpu.resolution_ticks, vcpu.cntfrq_hz));
    all.max().unwrap_or(0) as f64
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
    let samples = before.iter().chain(after).filter_map(|case| Some(case.times().exec?.ns.count)).max().unwrap_or(0);
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
            let (interval, difference_interval_ns) = change_intervals(&had, &has).unzip();
            let metric = Metric {
                case: name.to_owned(),
                measure,
                before_ns,
                after_ns,
                relative: change(before_ns, after_ns),
                interval,
                difference_ns: after_ns - before_ns,
                difference_interval_ns,
                p: None,
                change: Change::Inconclusive,
            };
            let of_several = measure.stat == Stat::Max && samples > 1;
            let runs = had.len().min(has.len());
            Some(Sampled { metric, of_several, runs, raw_p: (runs > 1).then(|| rank_test(&had, &has)) })
        })
        .collect()
}

/// Says whether a number of so few samples is another one again: the 99th percentile of less than 100 is their maximum,
/// and all of one is one. Testing it too would only weaken the test.
fn repeats_another(measure: Measure, samples: u64) -> bool {
    match (measure.phase, measure.stat) {
        (Phase::HostIcache | Phase::HostDcache, _) => false,
        (_, Stat::P99) => samples < 100,
        (_, Stat::P50) => samples == 1,
        (_, Stat::Max) => false,
    }
}

/// Decides whatever chance may have done, all of it being tested at once.
fn judge(facts: &mut [TestedFact], metrics: &mut [Sampled], limits: Limits) {
    let raw = facts.iter().filter_map(|told| told.raw_p).chain(metrics.iter().filter_map(|sampled| sampled.raw_p));
    let mut corrected = holm(&raw.collect::<Vec<_>>()).into_iter();
    for told in facts.iter_mut().filter(|told| told.raw_p.is_some()) {
        told.judge(corrected.next(), limits.alpha);
    }
    for sampled in metrics {
        sampled.judge(sampled.raw_p.and_then(|_| corrected.next()), limits);
    }
}

/// What a change has to exceed.
#[derive(Clone, Copy)]
struct Limits {
    threshold: f64,
    resolution_ns: f64,
    alpha: f64,
}

impl Limits {
    /// Says whether a change is none, or none that the guest's counter could show.
    fn contain(self, relative: f64, difference_ns: f64) -> bool {
        relative.abs() <= self.threshold || difference_ns.abs() <= self.resolution_ns
    }
}

impl Sampled {
    fn direction(&self) -> Change {
        if self.metric.relative > 0.0 { Change::Worse } else { Change::Better }
    }

    fn is_small(&self, limits: Limits) -> bool {
        limits.contain(self.metric.relative, self.metric.difference_ns)
    }

    /// Decides where times repeat.
    fn judge_exact(&mut self, limits: Limits) {
        self.metric.change = if self.is_small(limits) { Change::Same } else { self.direction() };
    }

    /// Decides where they do not: `p` is corrected for everything that is tested at once. A difference takes a change
    /// that matters, that the rank test does not leave to chance, and that the interval agrees with.
    fn judge(&mut self, p: Option<f64>, limits: Limits) {
        self.metric.p = p;
        let intervals = self.metric.interval.zip(self.metric.difference_interval_ns);
        let (Some(p), Some(((low, high), (least_ns, most_ns)))) = (p, intervals) else { return };
        let unlike_zero = low > 0.0 || high < 0.0;
        self.metric.change = if p < limits.alpha && unlike_zero && !self.is_small(limits) {
            self.direction()
        } else if self.runs > 2 && limits.contain(low, least_ns) && limits.contain(high, most_ns) {
            Change::Same
        } else {
            Change::Inconclusive
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
    let unclear = count(Change::Inconclusive);
    if unclear == 0 {
        return (Change::Same, format!("all {same} the same"));
    }
    let facts = named(facts, &[], Change::Inconclusive);
    let which = if facts.is_empty() { facts } else { format!(" (among them {facts})") };
    (Change::Inconclusive, format!("{same} the same, {unclear} cannot be told{which}: run both sides more often"))
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
