//! Measurements of a case, counts of its lockups, and the names of tests and measurements in all formats.
//!
//! The names are an interface, because test labs keep results for years. A name depends on its case alone, and not on
//! the other cases of the run.

use serde::Serialize;

use crate::case::CaseResult;
use crate::result::RunResult;
use klog::attribution::Side;
use klog::complaint::Kind;
use units::stats::Timing;

/// A measurement of a case: one number of the distribution of one phase, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Measure {
    /// The phase that was timed.
    pub phase: Phase,
    /// The number of its distribution.
    pub stat: Stat,
}

/// A phase of a case that was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// First touch as data, timed by the guest.
    Touch,
    /// First execution, timed by the guest.
    Exec,
    /// Execution of code that is mapped already, timed by the guest.
    Resident,
    /// One I-cache invalidation of guest memory in the host's kernel.
    HostIcache,
    /// One D-cache clean of guest memory in the host's kernel.
    HostDcache,
}

impl Phase {
    /// Returns the name used in formats.
    pub fn name(self) -> &'static str {
        match self {
            Self::Touch => "touch",
            Self::Exec => "exec",
            Self::Resident => "resident",
            Self::HostIcache => "host_icache",
            Self::HostDcache => "host_dcache",
        }
    }
}

/// A number of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// The median.
    P50,
    /// The 99th percentile.
    P99,
    /// The largest.
    Max,
}

impl Stat {
    /// Returns the name used in formats.
    pub fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Max => "max",
        }
    }
}

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}_{}", self.phase.name(), self.stat.name()))
    }
}

/// Returns the measurements of a case, in nanoseconds. A phase that was not measured is left out.
pub fn measures(case: &CaseResult) -> Vec<(Measure, u64)> {
    let timed = |phase, timing: &Option<Timing>| {
        timing.map_or_else(Vec::new, |t| {
            let ns = t.ns;
            [(Stat::P50, ns.p50), (Stat::P99, ns.p99), (Stat::Max, ns.max)]
                .map(|(stat, value)| (Measure { phase, stat }, value))
                .to_vec()
        })
    };
    let times = case.times();
    let mut all = timed(Phase::Touch, &times.touch);
    all.extend(timed(Phase::Exec, &times.exec));
    all.extend(timed(Phase::Resident, &times.resident));
    let host = case.host.as_ref();
    let sides = [(Phase::HostIcache, host.and_then(|h| h.icache)), (Phase::HostDcache, host.and_then(|h| h.dcache))];
    all.extend(sides.into_iter().filter_map(|(phase, side)| Some((Measure { phase, stat: Stat::Max }, side?.max_ns))));
    all
}

/// Returns the cases of a run with their full names. If a name comes again, it gets a number.
pub fn named_cases(run: &RunResult) -> Vec<(String, &CaseResult)> {
    let mut named: Vec<(String, &CaseResult)> = Vec::new();
    for case in &run.cases {
        let base = identifier(&format!("{}.{}", run.title(), case.id));
        let before =
            named.iter().filter(|(name, _)| *name == base || name.starts_with(&format!("{base}.again"))).count();
        let name = if before == 0 { base } else { format!("{base}.again{before}") };
        named.push((name, case));
    }
    named
}

/// Returns `text` as a name that all formats accept: every character but ASCII letters, digits, `.`, `_` and `-`
/// becomes `_`.
pub fn identifier(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

/// Numbers of lockups, by the work that kept the CPU busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lockups {
    /// Lockups during the invalidation of the I-cache.
    pub i_side: u64,
    /// Lockups during the clean or the invalidation of the D-cache.
    pub d_side: u64,
    /// All other lockups, including those in a wait for a lock.
    pub other: u64,
    /// The longest reported time, in seconds.
    pub longest_s: u64,
}

impl Lockups {
    /// Returns the number of all lockups.
    pub fn total(self) -> u64 {
        self.i_side + self.d_side + self.other
    }

    /// Returns the sum of both. The longest time is the longer of the two.
    pub fn and(self, more: Self) -> Self {
        Self {
            i_side: self.i_side + more.i_side,
            d_side: self.d_side + more.d_side,
            other: self.other + more.other,
            longest_s: self.longest_s.max(more.longest_s),
        }
    }
}

/// Counts the soft and hard lockups of a case. A lockup with several places counts once: on the I side if any place is
/// there, and otherwise on the D side if any place is there.
pub fn lockups(case: &CaseResult) -> Lockups {
    let mut found = Lockups::default();
    for complaint in &case.complaints {
        if !matches!(complaint.complaint.kind, Kind::SoftLockup | Kind::HardLockup) {
            continue;
        }
        let on = |side| complaint.attributions.iter().any(|a| a.side == side);
        let count = if on(Side::ISide) {
            &mut found.i_side
        } else if on(Side::DSide) {
            &mut found.d_side
        } else {
            &mut found.other
        };
        *count += 1;
        found.longest_s = found.longest_s.max(complaint.complaint.seconds.unwrap_or(0));
    }
    found
}
