//! What every format and every comparison counts as a test and as a measurement, and how these are called. Pure.
//!
//! Names are an interface: a lab keeps years of them. A name depends on the case alone, never on its neighbours.

use serde::Serialize;

use crate::case::CaseResult;
use crate::result::RunResult;
use klog::attribution::Side;
use klog::message::Kind;
use units::stats::Timing;

/// One number of a case, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Measure {
    /// What was timed.
    pub phase: Phase,
    /// Which number of its distribution.
    pub stat: Stat,
}

/// What was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// First touch as data, as the guest sees it.
    Touch,
    /// First execution, as the guest sees it.
    Exec,
    /// Execution once mapped.
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

/// Which number of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// Half are at most this.
    P50,
    /// 99 of 100 are at most this.
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

/// Returns the measurements of a case, in nanoseconds; what was not measured is left out.
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

/// Returns the cases of a run with their full names; a name that returns gets a number.
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

/// Returns `text` with everything but letters, digits, `.`, `_` and `-` replaced: what all formats accept in a name.
pub fn identifier(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

/// Soft lockups of a case, by what kept the CPU busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lockups {
    /// Invalidating the I-cache.
    pub i_side: u64,
    /// Cleaning or invalidating the D-cache.
    pub d_side: u64,
    /// Anything else, waiting for locks included.
    pub other: u64,
    /// The longest reported, in seconds.
    pub longest_s: u64,
}

impl Lockups {
    /// Returns how many there were.
    pub fn total(self) -> u64 {
        self.i_side + self.d_side + self.other
    }

    /// Counts those of both.
    pub fn and(self, more: Self) -> Self {
        Self {
            i_side: self.i_side + more.i_side,
            d_side: self.d_side + more.d_side,
            other: self.other + more.other,
            longest_s: self.longest_s.max(more.longest_s),
        }
    }
}

/// Counts the lockups of a case, soft and hard. One that was seen in several places counts once, for the worst side.
pub fn lockups(case: &CaseResult) -> Lockups {
    let mut found = Lockups::default();
    for complaint in &case.complaints {
        if !matches!(complaint.event.kind, Kind::SoftLockup | Kind::HardLockup) {
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
        found.longest_s = found.longest_s.max(complaint.event.seconds.unwrap_or(0));
    }
    found
}
