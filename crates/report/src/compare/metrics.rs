//! Compares the measurements of cases, with the difference that chance allows.

use record::case::CaseResult;
use record::measure::{Measure, Phase, Stat, measures};

use crate::compare::comparison::{Change, Metric};
use crate::compare::stats::{change, change_intervals, median, rank_test};

/// Limits that a change has to exceed.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Largest relative change that counts as none.
    pub threshold: f64,
    /// Largest difference that counts as none, in ns: at least the resolution of the guest's counter.
    pub small_ns: f64,
    /// Probability of reporting a difference where there is none.
    pub alpha: f64,
}

impl Limits {
    /// Returns true if a change is too small to matter, or too small for the guest's counter to show.
    fn contain(self, relative: f64, difference_ns: f64) -> bool {
        relative.abs() <= self.threshold || difference_ns.abs() <= self.small_ns
    }
}

/// A measurement with the p value of its test.
pub struct TestedMetric {
    pub metric: Metric,
    /// p value without a correction. Absent if one side has a single run.
    pub raw_p: Option<f64>,
    /// True for the largest of several elements, which a single interrupt can cause.
    largest_of_several: bool,
    /// Number of runs with this measurement, on the side that has fewer.
    runs: usize,
}

/// Compares every measurement of one case over the runs of both sides.
pub fn case_metrics(name: &str, before: &[&CaseResult], after: &[&CaseResult]) -> Vec<TestedMetric> {
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
            let largest_of_several = measure.stat == Stat::Max && samples > 1;
            let runs = had.len().min(has.len());
            let raw_p = (runs > 1).then(|| rank_test(&had, &has));
            Some(TestedMetric { metric, raw_p, largest_of_several, runs })
        })
        .collect()
}

/// Returns true if this number of so few samples equals another number: the 99th percentile of less than 100 samples is
/// their maximum, and all numbers of one sample are equal. Testing both would only weaken the test.
fn repeats_another(measure: Measure, samples: u64) -> bool {
    match (measure.phase, measure.stat) {
        (Phase::HostIcache | Phase::HostDcache, _) => false,
        (_, Stat::P99) => samples < 100,
        (_, Stat::P50) => samples == 1,
        (_, Stat::Max) => false,
    }
}

impl TestedMetric {
    fn direction(&self) -> Change {
        if self.metric.relative > 0.0 { Change::Worse } else { Change::Better }
    }

    fn is_small(&self, limits: Limits) -> bool {
        limits.contain(self.metric.relative, self.metric.difference_ns)
    }

    /// Judges a measurement that repeats exactly.
    pub fn judge_exact(&mut self, limits: Limits) {
        self.metric.change = if self.is_small(limits) { Change::Same } else { self.direction() };
    }

    /// Judges a measurement that varies. `p` is corrected for everything that is tested together. A difference needs a
    /// change that matters, a rank test that excludes chance, and an interval that agrees.
    pub fn judge(&mut self, p: Option<f64>, limits: Limits) {
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

/// Withdraws verdicts that a single interrupt can explain. Where instructions are counted, a timer tick falls on another
/// fault as soon as anything before it changes. The largest of several faults therefore means nothing unless the median
/// changed in the same direction.
pub fn doubt_lone_maxima(metrics: &mut [TestedMetric]) {
    let medians: Vec<(String, Phase, Change)> = metrics
        .iter()
        .map(|tested| &tested.metric)
        .filter(|metric| metric.measure.stat == Stat::P50)
        .map(|metric| (metric.case.clone(), metric.measure.phase, metric.change))
        .collect();
    for TestedMetric { metric, .. } in metrics.iter_mut().filter(|tested| tested.largest_of_several) {
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
