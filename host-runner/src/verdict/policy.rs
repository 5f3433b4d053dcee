//! Which I-cache maintenance a kernel does when stage 2 grants execution: inferred from cost against block size, from
//! probes, and from counted operations. Pure.
//!
//! Three measures of one block size, the stronger first:
//!
//! 1. *Counted operations*, exact, from the emulator's plugin.
//! 2. *Probe*: whether the kernel's function was called at all. What it did inside, only time or counts tell.
//! 3. *Time*. For a block, what the permission fault takes: a line cannot be invalidated faster than
//!    [`Geometry::line_floor_ns`], and everything else in the fault takes no longer than [`Geometry::fixed_ceiling_ns`].
//!    For a page, whose lines cost less than a fault, the difference of two translation faults that differ in the
//!    maintenance alone: by a fetch, and by a load.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evidence::machine::{Machine, Platform};
use crate::report::table::{thousands, time};
use crate::result::{Status, VcpuFacts, Verdict};
use crate::size::Size;
use crate::stats;

/// The most lines that a capped kernel invalidates one by one: `PTRS_PER_PTE` with 64 KiB pages.
const CAP_LINES_MAX: u64 = 8192;
/// A difference of fewer counter steps than this is noise.
const STEPS: u64 = 4;

/// Maintenance of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Line by line, whatever the size.
    ByLine,
    /// Line by line up to a cap, beyond it the whole I-cache at once.
    Capped,
    /// Always the whole I-cache.
    AlwaysAll,
    /// No maintenance: a broken kernel.
    None,
    /// What was seen fits more than one of these.
    CannotTell,
}

impl Class {
    /// Returns the name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByLine => "by line",
            Self::Capped => "capped",
            Self::AlwaysAll => "always all",
            Self::None => "no maintenance",
            Self::CannotTell => "cannot be told",
        }
    }
}

/// Between which sizes the cap lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cap {
    /// Most lines that were seen to be invalidated one by one.
    pub by_line_up_to: u64,
    /// Fewest lines for which the whole cache was.
    pub all_from: u64,
}

/// What was concluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conclusion {
    /// The policy.
    pub class: Class,
    /// The cap, for [`Class::Capped`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cap: Option<Cap>,
    /// What it rests on, strongest first.
    pub evidence: Vec<String>,
    /// What cannot be told apart here, and why.
    pub cannot: Vec<String>,
}

/// Operations that the emulator's plugin counted for one block size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// Blocks that were made executable while counting.
    pub blocks: u64,
    /// `IC IVAU`.
    pub ic_ivau: u64,
    /// `IC IALLUIS`.
    pub ic_ialluis: u64,
}

/// One block size as measured. Times are medians in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// What KVM maps at once, in bytes.
    pub mapped_bytes: u64,
    /// Permission fault by a fetch.
    pub permission_ns: u64,
    /// Fetch without a fault.
    pub resident_ns: u64,
    /// Translation fault by a load.
    pub by_load_ns: u64,
    /// Translation fault by a fetch.
    pub by_fetch_ns: u64,
    /// Faults that granted execution while the probe was there.
    pub grants: u64,
    /// Calls that the probe on the maintenance function saw; absent without a probe.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_calls: Option<u64>,
    /// Largest size of such a call, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_max_bytes: Option<u64>,
    /// Longest such call, in ns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_max_ns: Option<u64>,
    /// Counted operations, where the lab gave them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub counted: Option<Counted>,
}

/// What the machine is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Host page in bytes.
    pub page_bytes: u64,
    /// Smallest I-cache line in bytes.
    pub line_bytes: u64,
    /// The I-cache is virtually indexed: even unfixed kernels always invalidate all of it.
    pub aliasing: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
    /// Smallest step of the guest's counter, in ns.
    pub resolution_ns: u64,
    /// What every instruction takes, where emulated time counts instructions.
    pub instruction_ns: Option<u64>,
}

impl Geometry {
    /// Returns what the machine and the guest's own registers say; without a vCPU's, the most careful assumption.
    pub fn new(machine: &Machine, vcpu: Option<&VcpuFacts>, page_bytes: u64) -> Self {
        let scale = machine.lab.as_ref().and_then(|lab| lab["time_scale"].as_u64());
        let scale = scale.filter(|_| machine.platform == Platform::Emulated);
        let fact = |of: &dyn Fn(&VcpuFacts) -> u64| vcpu.map_or(0, of);
        Self {
            page_bytes,
            line_bytes: fact(&|v| v.imin_line_bytes).max(4),
            aliasing: vcpu.is_some_and(|v| v.l1ip != abi::ctr::L1Ip::Pipt.name()),
            dic: vcpu.is_some_and(|v| v.dic),
            resolution_ns: fact(&|v| stats::ns(v.resolution_ticks, v.cntfrq_hz)).max(1),
            instruction_ns: scale.map(|n| 1 << n),
        }
    }

    /// Returns what one line takes at least, in ns: two instructions of the kernel's loop of four, or a cycle.
    pub fn line_floor_ns(&self) -> f64 {
        self.instruction_ns.map_or(0.25, |ns| 2.0 * ns as f64)
    }

    /// Returns what one line is expected to take in a page, in ns: the loop, or the least that is worth counting on.
    fn line_expected_ns(&self) -> u64 {
        self.instruction_ns.map_or(1, |ns| 4 * ns)
    }

    /// Returns what a fault takes at most besides invalidating lines, in ns. `IC IALLUIS` took up to 153 µs on known
    /// machines.
    pub fn fixed_ceiling_ns(&self) -> u64 {
        self.instruction_ns.map_or(10_000_000, |ns| 20_000 * ns)
    }

    /// Returns the lines of a block.
    pub fn lines(&self, mapped_bytes: u64) -> u64 {
        mapped_bytes / self.line_bytes.max(1)
    }

    /// Says whether a stall that long over a block was spent line by line; `None` if it may be either.
    pub fn by_line(&self, stall_ns: u64, mapped_bytes: u64) -> Option<bool> {
        let least = self.lines(mapped_bytes) as f64 * self.line_floor_ns();
        if (stall_ns as f64) < least { Some(false) } else { (stall_ns >= self.fixed_ceiling_ns()).then_some(true) }
    }
}

/// What one block size shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// Its lines one by one.
    Lines,
    /// The whole cache.
    All,
    /// Few operations or none.
    Few,
    /// Nothing at all.
    Nothing,
    /// The measure does not decide.
    Undecided,
}

struct Seen {
    lines: u64,
    shows: Shows,
    by: Option<String>,
    cannot: Option<String>,
    /// A probe saw the maintenance function called.
    called: bool,
}

/// Concludes from the block sizes measured.
pub fn infer(points: &[Point], geometry: &Geometry) -> Conclusion {
    let cannot_tell = |why: &str| Conclusion {
        class: Class::CannotTell,
        cap: None,
        evidence: Vec::new(),
        cannot: vec![why.to_owned()],
    };
    if geometry.dic {
        return cannot_tell("CTR_EL0.DIC is set: KVM grants execution at once and never invalidates the I-cache");
    }
    let mut points: Vec<Point> = points.to_vec();
    points.sort_by_key(|p| p.mapped_bytes);
    if points.is_empty() {
        return cannot_tell("no block size was measured");
    }
    let seen: Vec<Seen> = points.iter().map(|p| look(p, &points, geometry)).collect();
    let mut conclusion = conclude(&seen, geometry);
    if conclusion.class == Class::Capped {
        conclusion.cannot.extend(same_class(&conclusion, geometry));
    }
    conclusion
}

/// Applies the strongest measure that there is for this size.
fn look(point: &Point, all: &[Point], geometry: &Geometry) -> Seen {
    let called = point.probe_calls.is_some_and(|calls| calls > 0);
    let lines = geometry.lines(point.mapped_bytes);
    let size = Size(point.mapped_bytes);
    let decided = |shows, by: String| Seen { lines, shows, by: Some(by), cannot: None, called };
    if let Some(counted) = point.counted.filter(|counted| counted.blocks > 0) {
        return by_counts(counted, lines, size);
    }
    if point.permission_ns < 4 * point.resident_ns {
        let cannot = format!("{size}: the first fetch took no longer than the second, so there was no fault");
        return Seen { lines, shows: Shows::Undecided, by: None, cannot: Some(cannot), called };
    }
    if point.probe_calls == Some(0) && point.grants > 0 {
        let by =
            format!("probe: {size} was made executable {} times without one call of the maintenance", point.grants);
        return decided(Shows::Nothing, by);
    }
    if geometry.aliasing {
        let cannot = format!(
            "{size}: the I-cache is virtually indexed, so it would be all of it; by time all and none look alike"
        );
        return Seen { lines, shows: Shows::Undecided, by: None, cannot: Some(cannot), called };
    }
    if lines > CAP_LINES_MAX { block_by_time(point, all, geometry) } else { page_by_time(point, all, geometry) }
}

fn by_counts(counted: Counted, lines: u64, size: Size) -> Seen {
    let Counted { blocks, ic_ivau, ic_ialluis } = counted;
    let by = format!(
        "counted: {blocks} × {size} took {} IC IVAU and {} IC IALLUIS",
        thousands(ic_ivau),
        thousands(ic_ialluis)
    );
    let shows = match (ic_ivau, ic_ialluis) {
        (ivau, _) if ivau == blocks * lines => Shows::Lines,
        (0, all) if all >= blocks => Shows::All,
        (0, 0) => Shows::Nothing,
        _ => Shows::Undecided,
    };
    let cannot = (shows == Shows::Undecided).then(|| format!("{by}: no known rule gives that"));
    Seen { lines, shows, by: Some(by), cannot, called: false }
}

/// Judges a size beyond any cap by the permission fault.
fn block_by_time(point: &Point, all: &[Point], geometry: &Geometry) -> Seen {
    let called = point.probe_calls.is_some_and(|calls| calls > 0);
    let (lines, size) = (geometry.lines(point.mapped_bytes), Size(point.mapped_bytes));
    let cost = point.permission_ns.saturating_sub(point.resident_ns);
    let per_line = |ns: u64| ns as f64 / lines as f64;
    let probe = point.probe_max_ns.zip(point.probe_max_bytes);
    let probe = probe.map_or_else(String::new, |(ns, bytes)| format!("; probe: {} took {}", Size(bytes), time(ns)));
    let seen =
        |shows, text: String| Seen { lines, shows, by: Some(format!("time: {text}{probe}")), cannot: None, called };
    let costs = format!("the permission fault of {size} costs {}", time(cost));
    let lines_seen =
        || seen(Shows::Lines, format!("{costs}, {:.1} ns for each of {} lines", per_line(cost), thousands(lines)));
    let few_seen = || {
        let least = time((lines as f64 * geometry.line_floor_ns()) as u64);
        seen(Shows::Few, format!("{costs}; {} lines one by one would take at least {least}", thousands(lines)))
    };
    match geometry.by_line(cost, point.mapped_bytes) {
        Some(true) => return lines_seen(),
        Some(false) => return few_seen(),
        None => (),
    }
    // Between the bounds the slope to another block decides.
    for other in
        all.iter().filter(|o| geometry.lines(o.mapped_bytes) > CAP_LINES_MAX && o.mapped_bytes != point.mapped_bytes)
    {
        let other_lines = geometry.lines(other.mapped_bytes);
        let other_cost = other.permission_ns.saturating_sub(other.resident_ns);
        let slope = (other_cost as f64 - cost as f64) / (other_lines as f64 - lines as f64);
        if slope < geometry.line_floor_ns() {
            return few_seen();
        }
        let share = slope * lines as f64 / cost.max(1) as f64;
        if share > 0.5 {
            return lines_seen();
        }
    }
    let cannot =
        format!("{costs}: as much as lines one by one or one slow IC IALLUIS; another block size would decide");
    Seen { lines, shows: Shows::Undecided, by: None, cannot: Some(cannot), called }
}

/// Returns what making a page executable costs more than making it readable, in ns.
fn fetch_over_load(point: &Point) -> u64 {
    point.by_fetch_ns.saturating_sub(point.by_load_ns)
}

/// Judges a size below any cap by the difference of two translation faults.
fn page_by_time(point: &Point, all: &[Point], geometry: &Geometry) -> Seen {
    let called = point.probe_calls.is_some_and(|calls| calls > 0);
    let (lines, size) = (geometry.lines(point.mapped_bytes), Size(point.mapped_bytes));
    let expected = lines * geometry.line_expected_ns();
    let noise = STEPS * geometry.resolution_ns;
    let cost = fetch_over_load(point);
    let costs = format!("mapping {size} by a fetch costs {} more than by a load", time(cost));
    let seen = |shows, text: String| Seen { lines, shows, by: Some(format!("time: {text}")), cannot: None, called };
    // The whole cache costs the same for a block.
    let like_a_block = all
        .iter()
        .filter(|o| geometry.lines(o.mapped_bytes) > CAP_LINES_MAX && o.by_fetch_ns < geometry.fixed_ceiling_ns())
        .map(fetch_over_load)
        .any(|block| block > noise && cost.abs_diff(block) * 4 < block);
    if cost > noise && cost * 2 >= expected {
        return if like_a_block {
            seen(Shows::All, format!("{costs}, as much as for a block"))
        } else {
            seen(Shows::Lines, format!("{costs}, {:.1} ns for each of {lines} lines", cost as f64 / lines as f64))
        };
    }
    if expected > noise && cost * 4 < expected {
        return seen(Shows::Few, format!("{costs}; {lines} lines one by one would take about {}", time(expected)));
    }
    let cannot = format!(
        "{costs}, where {lines} lines would take about {} and the counter resolves {}",
        time(expected),
        time(geometry.resolution_ns)
    );
    Seen { lines, shows: Shows::Undecided, by: None, cannot: Some(cannot), called }
}

/// Combines the sizes, smallest first.
fn conclude(seen: &[Seen], geometry: &Geometry) -> Conclusion {
    let (small, large): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|s| s.lines <= CAP_LINES_MAX);
    let any = |of: &[&Seen], shows: Shows| of.iter().any(|s| s.shows == shows);
    let every = |of: &[&Seen], allowed: &[Shows]| !of.is_empty() && of.iter().all(|s| allowed.contains(&s.shows));
    let everything: Vec<&Seen> = seen.iter().collect();
    let mut evidence: Vec<String> = seen.iter().rev().filter_map(|s| s.by.clone()).collect();
    let mut cannot: Vec<String> = seen.iter().filter_map(|s| s.cannot.clone()).collect();
    let few = [Shows::Few, Shows::All];
    let class = if every(&everything, &[Shows::Nothing]) {
        Class::None
    } else if geometry.aliasing {
        if every(&everything, &[Shows::All]) {
            Class::AlwaysAll
        } else {
            cannot.push(
                "virtually indexed I-cache: always all or none, cannot be told without counted operations".into(),
            );
            Class::CannotTell
        }
    } else if every(&large, &[Shows::Lines]) && !any(&small, Shows::Few) && !any(&small, Shows::All) {
        Class::ByLine
    } else if every(&large, &few) && every(&small, &[Shows::Lines]) {
        Class::Capped
    } else if every(&large, &few) && every(&small, &[Shows::All]) {
        Class::AlwaysAll
    } else if seen.iter().any(|s| s.called) && every(&everything, &few) {
        cannot.push(
            "the maintenance is called but costs next to nothing: always all, or a function that does nothing".into(),
        );
        Class::CannotTell
    } else if every(&large, &few) && every(&small, &[Shows::Few]) {
        cannot.push(
            "the whole I-cache at every fault would look the same by time; no kernel does that with a PIPT I-cache"
                .into(),
        );
        Class::None
    } else {
        cannot.push(between(&small, &large));
        Class::CannotTell
    };
    let cap = (class == Class::Capped).then(|| Cap {
        by_line_up_to: small.iter().map(|s| s.lines).max().unwrap_or(0),
        all_from: large.iter().map(|s| s.lines).min().unwrap_or(u64::MAX),
    });
    if let Some(cap) = cap {
        let text =
            format!("the cap is at least {} and below {} lines", thousands(cap.by_line_up_to), thousands(cap.all_from));
        evidence.push(text);
    }
    Conclusion { class, cap, evidence, cannot }
}

/// Says which classes are left.
fn between(small: &[&Seen], large: &[&Seen]) -> String {
    match (small.is_empty(), large.is_empty()) {
        (_, true) => "no block beyond the cap was measured: by line and capped look alike".into(),
        (true, _) => "no page was measured: capped, always all and none look alike".into(),
        _ if large.iter().all(|s| s.shows == Shows::Few) => "capped, always all or none".into(),
        _ => "the block sizes do not fit one rule".into(),
    }
}

/// Says which rules of the same class no block separates.
fn same_class(conclusion: &Conclusion, geometry: &Geometry) -> Option<String> {
    let cap = conclusion.cap?;
    let (one_page, merged) = (geometry.lines(geometry.page_bytes), geometry.page_bytes / 8);
    (cap.by_line_up_to <= one_page && cap.all_from > merged).then(|| {
        format!(
            "a cap of {merged} lines (merged in v6.7) and a cap of one page ({one_page} lines) are one class: KVM maps no block between them"
        )
    })
}

/// Judges a run by what was concluded.
pub fn judge(conclusion: &Conclusion) -> Verdict {
    let because = |list: &[String]| list.first().cloned().unwrap_or_else(|| "no evidence".into());
    let named = |list: &[String]| format!("{}: {}", conclusion.class.name(), because(list));
    match conclusion.class {
        Class::None => Verdict::new(Status::Fail, named(&conclusion.evidence)),
        Class::CannotTell => {
            let why = conclusion.cannot.last().cloned().unwrap_or_else(|| "no evidence".into());
            Verdict::new(Status::Skip, format!("{}: {why}", conclusion.class.name()))
        }
        _ => Verdict::new(Status::Pass, named(&conclusion.evidence)),
    }
}

#[cfg(test)]
mod tests;
