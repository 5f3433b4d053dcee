//! The result of a comparison, as plain data.

use record::measure::{Measure, Phase};
use record::status::Status;
use serde::Serialize;

use crate::compare::stats::Interval;

/// Verdict of a comparison on everything together. Facts decide it, and times only if no fact changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Headline {
    /// A fault of the kernel is gone, and none is new.
    Fixed,
    /// The facts are the same, and untraced times are shorter.
    Better,
    /// Nothing changed that matters.
    Same,
    /// A fault of the kernel is new.
    Regressed,
    /// The facts are the same, and untraced times are longer.
    Worse,
    /// The runs are too few or too noisy for a verdict.
    Inconclusive,
}

impl Headline {
    /// Returns the word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "FIXED",
            Self::Better => "BETTER",
            Self::Same => "SAME",
            Self::Regressed => "REGRESSED",
            Self::Worse => "WORSE",
            Self::Inconclusive => "INCONCLUSIVE",
        }
    }

    /// Returns the status with the exit code of this headline.
    pub fn status(self) -> Status {
        match self {
            Self::Fixed | Self::Better | Self::Same => Status::Pass,
            Self::Regressed | Self::Worse => Status::Fail,
            Self::Inconclusive => Status::Skip,
        }
    }
}

/// Verdict on one fact or measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The difference does not exceed the threshold.
    Same,
    /// A time is shorter, or a fault is gone.
    Better,
    /// A time is longer, or a fault is new.
    Worse,
    /// The runs are too few or too noisy for a verdict.
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

/// The runs of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Number of runs.
    pub runs: usize,
    /// Kernel releases of these runs.
    pub kernels: Vec<String>,
    /// The user's names for these kernels, or else their releases.
    pub names: Vec<String>,
    /// Versions and commits of faultline.
    pub tools: Vec<String>,
    /// The command that repeats the first of these runs.
    pub repeat: String,
    /// The kernel's own lines about the first lockup on the I side, or else about the first complaint that fails a case.
    pub said: Vec<String>,
    /// Ids of these runs.
    pub ids: Vec<String>,
}

/// A difference between the machines, settings or tools of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Name of the property that differs.
    pub what: &'static str,
    /// Value before. Several values, where the runs of this side differ among themselves.
    pub before: String,
    /// Value after.
    pub after: String,
}

/// A property of a case that is not a time, compared: a verdict, lockups, a policy, stale fetches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fact {
    /// Name of the case.
    pub case: String,
    /// Name of the property.
    pub what: &'static str,
    /// Value before.
    pub before: String,
    /// Value after.
    pub after: String,
    /// p value of Fisher's exact test on the number of runs that have the property. It is corrected together with those
    /// of the measurements. Absent if the runs are too few for the test, or if one occurrence decides.
    pub p: Option<f64>,
    /// Verdict.
    pub change: Change,
}

/// A measurement of a case, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// Name of the case.
    pub case: String,
    /// The measurement.
    pub measure: Measure,
    /// Median over the runs before, in ns.
    pub before_ns: f64,
    /// Median over the runs after, in ns.
    pub after_ns: f64,
    /// Relative change of the median: 0.1 is ten percent more. Infinite, which is null in JSON, if the median was 0.
    pub relative: f64,
    /// 95 % interval of the relative change.
    pub interval: Option<Interval>,
    /// Difference of the medians in ns.
    pub difference_ns: f64,
    /// 95 % interval of the difference in ns.
    pub difference_interval_ns: Option<Interval>,
    /// p value of the rank test, corrected for the number of measurements. Absent if times are exact.
    pub p: Option<f64>,
    /// Verdict.
    pub change: Change,
}

impl Metric {
    /// Returns whether the measurement can decide a verdict. Times of the traced round include the cost of tracing.
    pub fn decides(&self) -> bool {
        !matches!(self.measure.phase, Phase::HostIcache | Phase::HostDcache)
    }
}

/// A comparison of two sets of runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Verdict over all facts and measurements.
    pub headline: Headline,
    /// Facts and measurements that decided the headline, in one line.
    pub reason: String,
    /// Largest relative change that counts as none: 0.05 is five percent.
    pub threshold: f64,
    /// Largest difference that counts as none, in ns.
    pub min_difference_ns: f64,
    /// True if emulated time counts instructions, so that one run a side is enough. The times are exact only for one
    /// build, one kernel name and one set of options.
    pub exact: bool,
    /// True if a run was emulated: its times are a model.
    pub emulated: bool,
    /// One sentence about the scenario and the machine.
    pub subject: String,
    /// Runs before.
    pub before: Side,
    /// Runs after.
    pub after: Side,
    /// Differences between machines, settings and tools.
    pub differences: Vec<Difference>,
    /// Facts.
    pub facts: Vec<Fact>,
    /// Measurements.
    pub metrics: Vec<Metric>,
    /// Cases that only one side has.
    pub unmatched: Vec<String>,
}
