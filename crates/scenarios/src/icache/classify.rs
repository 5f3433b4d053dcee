//! Classification of a kernel's I-cache maintenance at stage 2.
//!
//! Each case measures one block size. Its measurement is read in one of three ways, the strongest that is available:
//!
//! 1. *Counted operations* from the emulator's plugin are exact.
//! 2. *A probe* on the kernel's maintenance function shows the calls of the function, but not the operations in it.
//! 3. *Time.* For a block, this is the time of the permission fault: a line takes at least
//!    [`CostModel::line_floor_ns`], and the rest of the fault takes at most [`CostModel::fixed_ceiling_ns`]. For a page,
//!    whose lines take less time than a fault, it is the difference of two translation faults. One is by a fetch and one
//!    by a load, so they differ in the maintenance alone.
//!
//! The readings of all block sizes together give the class.

use crate::cost::CostModel;
use crate::icache::measurement::{Cap, Class, Classification, ICacheCounts, Measurement};
use units::size::Size;
use units::text::{thousands, time};

/// Most lines that a capped kernel invalidates one by one: `PTRS_PER_PTE` with 64 KiB pages.
pub const CAP_LINES_MAX: u64 = 8192;
/// Time of a fault that no `IC IALLUIS` explains, in ns: three times the longest known one.
const SLOWEST_IALLUIS_NS: u64 = 500_000;
/// Number of counter steps below which a difference is noise.
const NOISE_STEPS: u64 = 4;

/// I-cache operations that the measurement of one block size shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operations {
    /// One operation for each line.
    ByLine,
    /// One operation for the whole cache.
    WholeCache,
    /// Few operations, or none.
    Few,
    /// No operation.
    None,
    /// The measurement does not show the operations.
    Unknown,
}

/// Reading of the measurement of one block size.
struct Reading {
    /// Number of lines in a block.
    lines: u64,
    operations: Operations,
    evidence: Option<String>,
    /// Reason why the operations are unknown.
    unknown: Option<String>,
    /// True if a probe saw a call of the maintenance function.
    called: bool,
}

impl Reading {
    fn new(lines: u64, operations: Operations, evidence: String) -> Self {
        Self { lines, operations, evidence: Some(evidence), unknown: None, called: false }
    }

    fn unknown(lines: u64, reason: String) -> Self {
        Self { lines, operations: Operations::Unknown, evidence: None, unknown: Some(reason), called: false }
    }
}

/// Classifies the kernel by the measurements of several block sizes, in any order.
pub fn classify(sizes: &[Measurement], cost: &CostModel) -> Classification {
    let cannot_tell = |why: &str| Classification {
        class: Class::CannotTell,
        cap: None,
        evidence: Vec::new(),
        cannot: vec![why.to_owned()],
    };
    if cost.dic {
        return cannot_tell("CTR_EL0.DIC is set: KVM grants execution at once and never invalidates the I-cache");
    }
    if sizes.is_empty() {
        return cannot_tell("no block size was measured");
    }
    let mut sizes: Vec<Measurement> = sizes.to_vec();
    sizes.sort_by_key(|size| size.mapped_bytes);
    let readings: Vec<Reading> = sizes.iter().map(|size| read(size, &sizes, cost)).collect();
    let mut classification = classify_readings(&readings, cost);
    if classification.class == Class::Capped {
        classification.cannot.extend(equal_caps(&classification, cost));
    }
    classification
}

/// Reads the measurement of one block size, in the strongest way that is available.
fn read(size: &Measurement, all: &[Measurement], cost: &CostModel) -> Reading {
    let lines = cost.lines(size.mapped_bytes);
    if let Some(counted) = size.counted.filter(|counted| counted.blocks > 0) {
        return read_counts(counted, lines, Size(size.mapped_bytes));
    }
    let called = size.probe_calls.is_some_and(|calls| calls > 0);
    Reading { called, ..read_probe(size, lines, cost).unwrap_or_else(|| read_time(size, all, cost)) }
}

fn read_counts(counted: ICacheCounts, lines: u64, size: Size) -> Reading {
    let ICacheCounts { blocks, ic_ivau, ic_ialluis } = counted;
    let evidence = format!(
        "counted: {blocks} × {size} took {} IC IVAU and {} IC IALLUIS",
        thousands(ic_ivau),
        thousands(ic_ialluis)
    );
    let operations = match (ic_ivau, ic_ialluis) {
        (ivau, _) if ivau == blocks * lines => Operations::ByLine,
        (0, all) if all >= blocks => Operations::WholeCache,
        (0, 0) => Operations::None,
        _ => Operations::Unknown,
    };
    let unknown = (operations == Operations::Unknown).then(|| format!("{evidence}: no known rule gives that"));
    Reading { unknown, ..Reading::new(lines, operations, evidence) }
}

/// Reads the probe, if there was a fault at all. Returns `None` if only the time of the fault can tell.
fn read_probe(size: &Measurement, lines: u64, cost: &CostModel) -> Option<Reading> {
    let bytes = Size(size.mapped_bytes);
    if size.permission_ns < 4 * size.resident_ns {
        let reason = format!("{bytes}: the first fetch took no longer than the second, so there was no fault");
        return Some(Reading::unknown(lines, reason));
    }
    if size.probe_calls == Some(0) && size.grants > 0 {
        let evidence =
            format!("probe: {bytes} was made executable {} times without one call of the maintenance", size.grants);
        return Some(Reading::new(lines, Operations::None, evidence));
    }
    cost.aliasing.then(|| {
        let reason = format!(
            "{bytes}: the I-cache is virtually indexed, so kernels invalidate all of it; in time, that looks like none"
        );
        Reading::unknown(lines, reason)
    })
}

fn read_time(size: &Measurement, all: &[Measurement], cost: &CostModel) -> Reading {
    let above_all_caps = cost.lines(size.mapped_bytes) > CAP_LINES_MAX;
    if above_all_caps { read_block_time(size, all, cost) } else { read_page_time(size, all, cost) }
}

/// Reads the time of a permission fault, for a size above all caps.
fn read_block_time(size: &Measurement, all: &[Measurement], cost: &CostModel) -> Reading {
    let (lines, bytes) = (cost.lines(size.mapped_bytes), Size(size.mapped_bytes));
    let fault_ns = size.permission_ns.saturating_sub(size.resident_ns);
    let probe = size.probe_max_ns.zip(size.probe_max_bytes);
    let probe = probe.map_or_else(String::new, |(ns, bytes)| format!("; probe: {} took {}", Size(bytes), time(ns)));
    let costs = format!("the permission fault of {bytes} costs {}", time(fault_ns));
    let by_line = || {
        let per_line = fault_ns as f64 / lines as f64;
        let evidence = format!("time: {costs}, {per_line:.1} ns for each of {} lines{probe}", thousands(lines));
        Reading::new(lines, Operations::ByLine, evidence)
    };
    let few = || {
        let (lines_text, least) = (thousands(lines), time((lines as f64 * cost.line_floor_ns()) as u64));
        let evidence = format!("time: {costs}; {lines_text} lines one by one would take at least {least}{probe}");
        Reading::new(lines, Operations::Few, evidence)
    };
    match cost.is_by_line(fault_ns, size.mapped_bytes) {
        Some(true) => return by_line(),
        Some(false) => return few(),
        None => (),
    }
    if fault_ns >= SLOWEST_IALLUIS_NS
        && page_rate_ns(all, cost).is_some_and(|rate| fault_ns as f64 * 2.0 >= rate * lines as f64)
    {
        return by_line();
    }
    // The time is between the bounds. The slope to another block size decides.
    for other in all.iter().filter(|other| other.mapped_bytes != size.mapped_bytes) {
        let other_lines = cost.lines(other.mapped_bytes);
        if other_lines <= CAP_LINES_MAX {
            continue;
        }
        let other_ns = other.permission_ns.saturating_sub(other.resident_ns);
        let slope = (other_ns as f64 - fault_ns as f64) / (other_lines as f64 - lines as f64);
        if slope < cost.line_floor_ns() {
            return few();
        }
        let share = slope * lines as f64 / fault_ns.max(1) as f64;
        if share > 0.5 {
            return by_line();
        }
    }
    let reason =
        format!("{costs}: as much as lines one by one or one slow IC IALLUIS; another block size would decide");
    Reading::unknown(lines, reason)
}

/// Returns the time for each line of a page, in ns, if the counter resolves it.
fn page_rate_ns(all: &[Measurement], cost: &CostModel) -> Option<f64> {
    let page = all.iter().find(|size| size.mapped_bytes == cost.page_bytes)?;
    let surplus_ns = fetch_surplus_ns(page);
    (surplus_ns > NOISE_STEPS * cost.resolution_ns).then(|| surplus_ns as f64 / cost.lines(page.mapped_bytes) as f64)
}

/// Returns the time by which a mapping for a fetch takes longer than a mapping for a load, in ns.
fn fetch_surplus_ns(size: &Measurement) -> u64 {
    size.by_fetch_ns.saturating_sub(size.by_load_ns)
}

/// Reads the difference of two translation faults, for a size that may be below a cap.
fn read_page_time(size: &Measurement, all: &[Measurement], cost: &CostModel) -> Reading {
    let (lines, bytes) = (cost.lines(size.mapped_bytes), Size(size.mapped_bytes));
    let expected_ns = lines * cost.line_expected_ns();
    let noise_ns = NOISE_STEPS * cost.resolution_ns;
    let surplus_ns = fetch_surplus_ns(size);
    let costs = format!("mapping {bytes} by a fetch costs {} more than by a load", time(surplus_ns));
    if surplus_ns > noise_ns && surplus_ns * 2 >= expected_ns {
        // Where instructions are counted, the lines of a page take a known time. The surplus of a block, of which there may
        // be one only, can be as long by chance.
        let as_expected = cost.instruction_ns.is_some() && surplus_ns.abs_diff(expected_ns) * 4 < expected_ns;
        // Invalidating the whole cache costs the same for a page and for a block.
        let like_a_block = !as_expected
            && all
                .iter()
                .filter(|o| cost.lines(o.mapped_bytes) > CAP_LINES_MAX && o.by_fetch_ns < cost.fixed_ceiling_ns())
                .map(fetch_surplus_ns)
                .any(|block_ns| block_ns > noise_ns && surplus_ns.abs_diff(block_ns) * 4 < block_ns);
        return if like_a_block {
            Reading::new(lines, Operations::WholeCache, format!("time: {costs}, as much as for a block"))
        } else {
            let per_line = surplus_ns as f64 / lines as f64;
            let evidence = format!("time: {costs}, {per_line:.1} ns for each of {lines} lines");
            Reading::new(lines, Operations::ByLine, evidence)
        };
    }
    if expected_ns > noise_ns && surplus_ns * 4 < expected_ns {
        let evidence = format!("time: {costs}; {lines} lines one by one would take about {}", time(expected_ns));
        return Reading::new(lines, Operations::Few, evidence);
    }
    let reason = format!(
        "{costs}, where {lines} lines would take about {} and the counter resolves {}",
        time(expected_ns),
        time(cost.resolution_ns)
    );
    Reading::unknown(lines, reason)
}

/// Classifies the kernel by the readings of all sizes, smallest first.
fn classify_readings(readings: &[Reading], cost: &CostModel) -> Classification {
    let (small, large): (Vec<&Reading>, Vec<&Reading>) = readings.iter().partition(|r| r.lines <= CAP_LINES_MAX);
    let all: Vec<&Reading> = readings.iter().collect();
    let any = |of: &[&Reading], operations: Operations| of.iter().any(|r| r.operations == operations);
    let every =
        |of: &[&Reading], allowed: &[Operations]| !of.is_empty() && of.iter().all(|r| allowed.contains(&r.operations));
    let few = [Operations::Few, Operations::WholeCache];
    let mut evidence: Vec<String> = readings.iter().rev().filter_map(|r| r.evidence.clone()).collect();
    let mut cannot: Vec<String> = readings.iter().filter_map(|r| r.unknown.clone()).collect();
    let class = if every(&all, &[Operations::None]) {
        Class::None
    } else if cost.aliasing {
        if every(&all, &[Operations::WholeCache]) {
            Class::AlwaysAll
        } else {
            cannot.push(
                "virtually indexed I-cache: always all or none, cannot be told without counted operations".into(),
            );
            Class::CannotTell
        }
    } else if every(&large, &[Operations::ByLine])
        && !any(&small, Operations::Few)
        && !any(&small, Operations::WholeCache)
    {
        Class::ByLine
    } else if every(&large, &few) && every(&small, &[Operations::ByLine]) {
        Class::Capped
    } else if every(&large, &few) && every(&small, &[Operations::WholeCache]) {
        Class::AlwaysAll
    } else if readings.iter().any(|r| r.called) && every(&all, &few) {
        cannot.push(
            "the maintenance is called but costs next to nothing: always all, or a function that does nothing".into(),
        );
        Class::CannotTell
    } else if cost.protected && every(&all, &few) {
        cannot.push(
            "protected KVM does the maintenance at EL2, not visible from the host: counted operations would tell"
                .into(),
        );
        Class::CannotTell
    } else if every(&large, &few) && every(&small, &[Operations::Few]) {
        cannot.push(
            "the whole I-cache at every fault would look the same by time; no kernel does that with a PIPT I-cache"
                .into(),
        );
        Class::None
    } else {
        cannot.push(remaining_classes(&small, &large));
        Class::CannotTell
    };
    let cap = (class == Class::Capped).then(|| Cap {
        by_line_up_to: small.iter().map(|r| r.lines).max().unwrap_or(0),
        all_from: large.iter().map(|r| r.lines).min().unwrap_or(u64::MAX),
    });
    if let Some(cap) = cap {
        let text =
            format!("the cap is at least {} and below {} lines", thousands(cap.by_line_up_to), thousands(cap.all_from));
        evidence.push(text);
    }
    Classification { class, cap, evidence, cannot }
}

/// Names the classes that the readings leave open.
fn remaining_classes(small: &[&Reading], large: &[&Reading]) -> String {
    match (small.is_empty(), large.is_empty()) {
        (_, true) => "no block beyond the cap was measured: by line and capped look alike".into(),
        (true, _) => "no page was measured: capped, always all and none look alike".into(),
        _ if large.iter().all(|r| r.operations == Operations::Few) => "capped, always all or none".into(),
        _ => "the block sizes do not fit one rule".into(),
    }
}

/// Names the known caps that no block size separates, if the measured cap fits more than one.
fn equal_caps(classification: &Classification, cost: &CostModel) -> Option<String> {
    let cap = classification.cap?;
    let (one_page, merged) = (cost.lines(cost.page_bytes), cost.page_bytes / 8);
    (cap.by_line_up_to <= one_page && cap.all_from > merged).then(|| {
        format!(
            "a cap of {merged} lines (merged in v6.7) and a cap of one page ({one_page} lines) are one class: KVM maps no block between them"
        )
    })
}

#[cfg(test)]
mod tests;
