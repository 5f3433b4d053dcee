//! Compares two sets of runs: facts such as verdicts and lockups, and every measurement with what chance allows.
//!
//! Only [`baseline`] reads a file. Everything else computes from the runs that it is given.

pub mod baseline;
mod comparison;
mod facts;
mod machines;
mod metrics;
pub mod print;
mod stats;

use std::collections::BTreeSet;

use record::case::CaseResult;
use record::machine::Platform;
use record::result::RunResult;
use record::verdict::{fatal_complaint, relax_lockup};
use units::stats::ns;

pub use crate::compare::comparison::{Change, Comparison, Difference, Fact, Headline, Metric, Side};
use crate::compare::facts::{TestedFact, case_facts, run_facts};
use crate::compare::machines::differences;
use crate::compare::metrics::{Limits, TestedMetric, case_metrics, doubt_lone_maxima};
use crate::compare::stats::{ALPHA, holm};

/// Error of a comparison.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// One side is emulated and the other is not.
    #[error(
        "{0} and {1} runs do not compare: emulated times are a model of nothing real; --force compares them anyway"
    )]
    Platforms(&'static str, &'static str),
    /// Both sides have no case in common.
    #[error("no case is in both: before has {0}; after has {1}")]
    NothingShared(String, String),
}

/// Options of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Largest relative change that counts as none: 0.05 is five percent.
    pub threshold: f64,
    /// Largest difference of times that counts as none, in ns.
    pub min_difference_ns: f64,
    /// Rule for runs of different platforms.
    pub platforms: Platforms,
    /// Probability of reporting a difference where there is none, over everything that is compared together. A
    /// comparison that is one of several takes its share of it.
    pub alpha: f64,
}

/// Options of `faultline compare` without arguments: changes that matter exceed both 20 percent and 1 ms, and one of
/// twenty comparisons may raise a false alarm.
impl Default for Options {
    fn default() -> Self {
        Self { threshold: 0.2, min_difference_ns: 1e6, platforms: Platforms::Same, alpha: ALPHA }
    }
}

/// Rule for runs of different platforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// Refuse to compare emulated runs with others.
    Same,
    /// Compare them anyway.
    Any,
}

/// Identity of an experiment: title of the run, id of the case, size of its region in bytes.
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
    // The runs of a plan may have cases of the same name.
    let named = |key: &Key| if several { format!("{}.{}", key.0, key.1) } else { key.1.clone() };
    for key in &shared {
        let (cases_before, cases_after, name) = (cases(before, key), cases(after, key), named(key));
        facts.extend(case_facts(&name, &cases_before, &cases_after));
        metrics.extend(case_metrics(&name, &cases_before, &cases_after));
    }
    let resolution_ns = resolution_ns(before).max(resolution_ns(after));
    let small_ns = resolution_ns.max(options.min_difference_ns);
    let limits = Limits { threshold: options.threshold, small_ns, alpha: options.alpha };
    if exact {
        metrics.iter_mut().for_each(|tested| tested.judge_exact(limits));
        doubt_lone_maxima(&mut metrics);
        judge(&mut facts, &mut [], limits);
    } else {
        judge(&mut facts, &mut metrics, limits);
    }
    let facts: Vec<Fact> = facts.into_iter().map(|tested| tested.fact).collect();
    let metrics: Vec<Metric> = metrics.into_iter().map(|tested| tested.metric).collect();
    let (headline, reason) = overall(&facts, &metrics, exact);
    let only = |keys: &[Key], others: &[Key], side: &str| -> Vec<String> {
        keys.iter().filter(|key| !others.contains(key)).map(|key| format!("{} only {side}", named(key))).collect()
    };
    let unmatched = [only(&keys_before, &keys_after, "before"), only(&keys_after, &keys_before, "after")].concat();
    Ok(Comparison {
        headline,
        reason,
        threshold: options.threshold,
        min_difference_ns: options.min_difference_ns,
        exact,
        emulated: before.iter().chain(after).any(|run| run.machine.platform == Platform::Emulated),
        subject: subject(&[before, after].concat()),
        before: side(before),
        after: side(after),
        differences: differences(before, after),
        facts,
        metrics,
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

/// Returns the experiments of these runs, in the order of the first run that has them.
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

/// Returns the case of this experiment in every run. If a run has it twice, the first one counts.
fn cases<'a>(runs: &'a [RunResult], wanted: &Key) -> Vec<&'a CaseResult> {
    runs.iter().filter_map(|run| run.cases.iter().find(|case| key(run, case) == *wanted)).collect()
}

pub(crate) fn side(runs: &[RunResult]) -> Side {
    let all = |read: fn(&RunResult) -> String| runs.iter().map(read).collect::<BTreeSet<_>>().into_iter().collect();
    Side {
        runs: runs.len(),
        kernels: all(|run| run.machine.kernel_release.clone()),
        names: all(|run| run.kernel_name().to_owned()),
        tools: all(|run| format!("{} ({})", run.tool.version, run.tool.commit)),
        repeat: runs.first().map(RunResult::repeat_line).unwrap_or_default(),
        said: said(runs),
        ids: runs.iter().map(|run| run.run.id.clone()).collect(),
    }
}

/// Returns the kernel's own lines about the lockup that matters most.
pub(crate) fn said(runs: &[RunResult]) -> Vec<String> {
    const FRAMES: usize = 5;
    let cases = || runs.iter().flat_map(|run| &run.cases);
    let lockup = cases().find_map(relax_lockup).map(|(lockup, _)| lockup);
    let Some(complaint) = lockup.or_else(|| cases().find_map(fatal_complaint)) else { return Vec::new() };
    let complaint = &complaint.complaint;
    let pc = complaint.pc.iter().map(|pc| format!("pc : {pc}"));
    let trace = complaint.call_trace.iter().take(FRAMES).map(|frame| format!(" {frame}"));
    std::iter::once(complaint.first_line.clone()).chain(pc).chain(trace).collect()
}

/// Says in one sentence what ran, and where.
pub(crate) fn subject(runs: &[RunResult]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let titles: BTreeSet<_> = runs.iter().map(RunResult::title).collect();
    let scenarios = titles.into_iter().collect::<Vec<_>>().join(", ");
    let model = first.machine.model.as_deref().unwrap_or("an unknown machine");
    let place = match (first.machine.platform, &first.machine.lab) {
        (Platform::Emulated, Some(lab)) => {
            let emulator = lab.emulator_in_words();
            let time = lab.time_scale.map(|n| format!(", {} ns an instruction", 1u64 << n)).unwrap_or_default();
            format!("an arm64 host that {emulator} emulates (CPU {}{time}; its times are a model)", lab.cpu)
        }
        (Platform::VirtualMachine, _) => format!("a virtual machine ({model})"),
        _ => model.to_owned(),
    };
    let kernel = if runs.len() == 1 { first.kernel_name() } else { "each kernel" };
    format!("faultline's scenario {scenarios} ran as a KVM guest under {kernel}, on {place}.")
}

/// Returns true if all runs are from the lab and have the same time scale.
fn exact_times<'a>(mut runs: impl Iterator<Item = &'a RunResult>) -> bool {
    let scale = |run: &RunResult| run.machine.lab.as_ref().and_then(|lab| lab.time_scale);
    let Some(first) = runs.next().map(scale) else { return false };
    first.is_some() && runs.all(|run| scale(run) == first)
}

/// Returns the coarsest resolution of the guests' counters in ns.
fn resolution_ns(runs: &[RunResult]) -> f64 {
    let all = runs.iter().flat_map(|run| &run.vcpus).map(|vcpu| ns(vcpu.resolution_ticks, vcpu.cntfrq_hz));
    all.max().unwrap_or(0) as f64
}

/// Judges everything that chance may have caused, with one correction for all tests.
fn judge(facts: &mut [TestedFact], metrics: &mut [TestedMetric], limits: Limits) {
    let raw = facts.iter().filter_map(|tested| tested.raw_p).chain(metrics.iter().filter_map(|tested| tested.raw_p));
    let mut corrected = holm(&raw.collect::<Vec<_>>()).into_iter();
    for tested in facts.iter_mut().filter(|tested| tested.raw_p.is_some()) {
        tested.judge(corrected.next(), limits.alpha);
    }
    for tested in metrics {
        tested.judge(tested.raw_p.and_then(|_| corrected.next()), limits);
    }
}

/// Returns the headline and its reason. Facts decide. Times decide only if no fact changed, and only those of untraced
/// rounds.
fn overall(facts: &[Fact], metrics: &[Metric], exact: bool) -> (Headline, String) {
    let times: Vec<&Metric> = metrics.iter().filter(|metric| metric.decides()).collect();
    let of_facts = |wanted| named(facts, &[], wanted);
    let of_times = |wanted| named(&[], &times, wanted);
    let (longer, shorter) = (of_times(Change::Worse), of_times(Change::Better));
    for (headline, change) in [(Headline::Regressed, Change::Worse), (Headline::Fixed, Change::Better)] {
        let mut reason = of_facts(change);
        if !reason.is_empty() {
            for (word, times) in [("shorter", &shorter), ("longer", &longer)] {
                reason += &if times.is_empty() { String::new() } else { format!("; {word}: {times}") };
            }
            return (headline, reason);
        }
    }
    if !longer.is_empty() {
        return (Headline::Worse, longer);
    }
    let unclear = of_facts(Change::Inconclusive);
    if !unclear.is_empty() {
        return (Headline::Inconclusive, format!("{unclear}: run both sides more often"));
    }
    if !shorter.is_empty() {
        return (Headline::Better, shorter);
    }
    if times.is_empty() && facts.iter().all(|fact| (fact.before.as_str(), fact.after.as_str()) == ("skip", "skip")) {
        return (Headline::Inconclusive, "every case was skipped on both sides".into());
    }
    let same = facts.len() + times.iter().filter(|metric| metric.change == Change::Same).count();
    match facts.len() + times.len() - same {
        0 => (Headline::Same, format!("all {same} the same")),
        // Only the largest of several faults is ever unclear if instructions are counted. It may have met a timer tick.
        largest if exact => {
            (Headline::Same, format!("{same} the same; largest times, which alone decide nothing: {largest}"))
        }
        unclear => {
            (Headline::Inconclusive, format!("{same} the same, {unclear} cannot be told: run both sides more often"))
        }
    }
}

/// Names the few changes that matter most: facts first, then the largest changes of times.
fn named(facts: &[Fact], metrics: &[&Metric], wanted: Change) -> String {
    const NAMED: usize = 3;
    let size = |metric: &Metric| (metric.after_ns / metric.before_ns.max(1.0)).max(1e-9).ln().abs();
    let mut largest: Vec<&Metric> = metrics.iter().copied().filter(|metric| metric.change == wanted).collect();
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
