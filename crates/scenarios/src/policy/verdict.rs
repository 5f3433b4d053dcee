//! Which I-cache maintenance a kernel does when stage 2 grants execution: inferred from cost against block size, from
//! probes, and from counted operations. Pure.
//!
//! Three measures of one block size, the stronger first:
//!
//! 1. *Counted operations*, exact, from the emulator's plugin.
//! 2. *Probe*: whether the kernel's function was called at all. What it did inside, only time or counts tell.
//! 3. *Time*. For a block, what the permission fault takes: a line cannot be invalidated faster than
//!    [`CostModel::line_floor_ns`], and everything else in the fault takes no longer than [`CostModel::fixed_ceiling_ns`].
//!    For a page, whose lines cost less than a fault, the difference of two translation faults that differ in the
//!    maintenance alone: by a fetch, and by a load.

use std::collections::BTreeMap;

use record::case::CaseResult;
use record::maintenance::Counted as Counts;
use record::result::RunResult;
use record::verdict::overall;

use crate::cost::CostModel;
use crate::policy::findings::{Cap, Class, Conclusion, Counted, Findings};
use record::status::{Status, Verdict};
use units::size::Size;
use units::text::{thousands, time};

/// The most lines that a capped kernel invalidates one by one: `PTRS_PER_PTE` with 64 KiB pages.
const CAP_LINES_MAX: u64 = 8192;
/// A difference of fewer counter steps than this is noise.
const STEPS: u64 = 4;

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
pub fn infer(points: &[Findings], geometry: &CostModel) -> Conclusion {
    let cannot_tell = |why: &str| Conclusion {
        class: Class::CannotTell,
        cap: None,
        evidence: Vec::new(),
        cannot: vec![why.to_owned()],
    };
    if geometry.dic {
        return cannot_tell("CTR_EL0.DIC is set: KVM grants execution at once and never invalidates the I-cache");
    }
    let mut points: Vec<Findings> = points.to_vec();
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

/// Infers the policy anew from the cases of a stored run, after operations were counted.
pub fn conclude_again(run: &mut RunResult) {
    for case in &mut run.cases {
        if let (Some(mut findings), Some(counted)) = (case.findings.get::<Findings>(), &case.counted) {
            let Counts { faults, ic_ivau, ic_ialluis, .. } = *counted;
            findings.counted = Some(Counted { blocks: faults, ic_ivau, ic_ialluis });
            case.findings = record::findings::StoredFindings::of(&findings);
        }
    }
    let cost = CostModel::new(&run.machine, run.vcpus.first(), run.machine.page_bytes);
    let conclusion = of_cases(&run.cases, &cost);
    run.verdict = overall(record::verdict::of_cases(&run.cases), Some(judge(&conclusion)));
    run.facts = facts(&conclusion);
    run.conclusion = record::findings::StoredFindings::of(&conclusion);
}

/// Concludes from the findings of all cases.
pub fn of_cases(cases: &[CaseResult], cost: &CostModel) -> Conclusion {
    let points: Vec<Findings> = cases.iter().filter_map(|case| case.findings.get()).collect();
    infer(&points, cost)
}

/// Returns the conclusion as facts for comparisons.
pub fn facts(conclusion: &Conclusion) -> BTreeMap<String, String> {
    BTreeMap::from([("policy".to_owned(), conclusion.class.name().to_owned())])
}

/// Applies the strongest measure that there is for this size.
fn look(point: &Findings, all: &[Findings], geometry: &CostModel) -> Seen {
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
fn block_by_time(point: &Findings, all: &[Findings], geometry: &CostModel) -> Seen {
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
fn fetch_over_load(point: &Findings) -> u64 {
    point.by_fetch_ns.saturating_sub(point.by_load_ns)
}

/// Judges a size below any cap by the difference of two translation faults.
fn page_by_time(point: &Findings, all: &[Findings], geometry: &CostModel) -> Seen {
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
fn conclude(seen: &[Seen], geometry: &CostModel) -> Conclusion {
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
fn same_class(conclusion: &Conclusion, geometry: &CostModel) -> Option<String> {
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
