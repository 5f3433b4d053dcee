//! Verdicts on races. Pure.

use crate::cost::CostModel;
use crate::projection::Cost;
use crate::storm::findings::{Findings, StormModel, TracedRace};
use crate::storm::program::Order;
use crate::verdict::{Context, broken, unseen};
use record::case::CaseResult;
use record::status::{Status, Verdict};
use units::text::time;

/// Of the growth that complete serialisation gives, what counts as growth.
pub const GROWS: f64 = 0.6;

/// Compares a case with the case of one racer, and fills in growth and model.
pub fn compare(storm: &mut Findings, racers: u64, block_bytes: u64, one: &Findings, geometry: &CostModel) {
    storm.growth = Some(storm.worst_ns as f64 / one.worst_ns.max(1) as f64);
    // The cost is the median's: a timer interrupt in one of many races is no cost of lines.
    let one_ns = one.racers.first().and_then(|racer| racer.stall).map_or(one.worst_ns, |stall| stall.ns.p50);
    if geometry.by_line(one_ns, block_bytes) != Some(true) {
        return;
    }
    let cost = Cost::measured(one_ns, block_bytes, geometry.line_bytes);
    let predicted = cost.stall_ns(racers, block_bytes);
    storm.model = Some(StormModel {
        ns_per_line: cost.ns_per_line,
        predicted_ns: predicted as u64,
        ratio: storm.worst_ns as f64 / predicted,
    });
}

/// Returns the most invalidations that the host did of one block, and the racers of that block.
fn most_invalidations(storm: &Findings) -> Option<(u64, &TracedRace)> {
    storm.traced.iter().filter_map(|race| Some((race.invalidations?, race))).max_by_key(|(n, _)| *n)
}

/// Says whether the host invalidated one block once for each racer; `None` without a probe.
fn multiplied(storm: &Findings) -> Option<bool> {
    let (most, race) = most_invalidations(storm)?;
    Some(most as f64 >= GROWS * race.racers as f64)
}

/// Judges a race whose guest ended well.
pub fn case(case: &CaseResult, storm: &Findings, racers: u64, context: &Context) -> Verdict {
    if let Some(verdict) = no_maintenance(storm) {
        return verdict;
    }
    let grown = grown(storm, racers);
    if let Some(mut verdict) = broken(case, context) {
        if let Some(more) = grown.or_else(|| control_held(storm, racers)) {
            verdict.reason = format!("{}; {more}", verdict.reason);
        }
        return verdict;
    }
    if let Some(grown) = grown {
        return Verdict::new(Status::Fail, grown);
    }
    unseen(context).unwrap_or_else(|| raced(storm, context))
}

/// Says whether blocks were made executable without one call of the maintenance, as a probe on it shows.
pub fn unmaintained(storm: &Findings) -> bool {
    most_invalidations(storm).is_some_and(|(most, _)| most == 0) && storm.traced.iter().any(|race| race.faults > 0)
}

/// Fails a kernel that made blocks executable without one call of the maintenance.
fn no_maintenance(storm: &Findings) -> Option<Verdict> {
    unmaintained(storm).then(|| {
        let faults: u64 = storm.traced.iter().map(|race| race.faults).sum();
        let how = "made blocks executable without one call of the maintenance";
        Verdict::new(Status::Fail, format!("no maintenance: {faults} faults {how}"))
    })
}

/// Says how a stall grew with the racers, if it did because each of them invalidated.
fn grown(storm: &Findings, racers: u64) -> Option<String> {
    let (most, _) = most_invalidations(storm).unzip();
    let counted = most.map(|n| format!("; one block was invalidated {n} times")).unwrap_or_default();
    if storm.order == Order::ExecFirst {
        // The control: whatever the time, more than one invalidation is wrong.
        let multiplies = most_racers(storm) > 1 && multiplied(storm) == Some(true);
        return multiplies.then(|| format!("the control multiplies{counted}"));
    }
    let model = storm.model.as_ref()?;
    let growth = storm.growth?;
    let grew = racers > 1 && growth >= GROWS * racers as f64 && multiplied(storm) != Some(false);
    grew.then(|| {
        format!(
            "{racers} racers stall {growth:.2} times as long as one: {} at {:.1} ns a line, {:.2} of the model{counted}",
            time(storm.worst_ns),
            model.ns_per_line,
            model.ratio
        )
    })
}

/// Returns the most vCPUs that raced into one block.
fn most_racers(storm: &Findings) -> u64 {
    storm.traced.iter().map(|race| race.racers).max().unwrap_or(0)
}

/// Says that the control did not multiply, whatever else happened. Where emulated CPUs share one clock, the losers that
/// fault again and again take their time from the winner, which is no multiplication.
fn control_held(storm: &Findings, racers: u64) -> Option<String> {
    let (most, _) = most_invalidations(storm)?;
    let control = storm.order == Order::ExecFirst && racers > 1;
    control.then(|| format!("as the control should, {racers} racers took at most {most} invalidations of a block"))
}

/// Passes a race that was one: someone faulted in every block.
fn raced(storm: &Findings, context: &Context) -> Verdict {
    let missed = storm.traced.iter().filter(|race| race.faulted.is_empty()).count();
    if missed > 0 || storm.traced.is_empty() {
        if context.trace_lost > 0 {
            return Verdict::new(Status::Error, format!("{} trace records were lost", context.trace_lost));
        }
        let reason = format!("no fault by a fetch was seen in {missed} of {} blocks", storm.traced.len());
        return Verdict::new(Status::Skip, reason);
    }
    if storm.order == Order::DataFirst && most_racers(storm) > 1 && storm.growth.is_none() {
        let reason =
            "whether the stall grows with the racers is not shown: there is no case of one racer (--racers 1,…)";
        return Verdict::new(Status::Skip, reason);
    }
    let kind = if storm.order == Order::DataFirst { "permission" } else { "translation" };
    let faults: u64 = storm.traced.iter().map(|race| race.faults).sum();
    let worst = most_invalidations(storm).map(|(n, race)| {
        let (faulted, racers) = (race.faulted.len(), race.racers);
        format!("; at most {n} invalidations of a block, where {faulted} of {racers} racers faulted")
    });
    let growth = storm
        .growth
        .filter(|_| most_racers(storm) > 1)
        .map(|growth| format!("; {growth:.2} times the stall of one racer"))
        .unwrap_or_default();
    let reason = format!(
        "{faults} {kind} faults by fetches; worst stall {}{growth}{}; no lockup",
        time(storm.worst_ns),
        worst.unwrap_or_default()
    );
    Verdict::new(Status::Pass, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storm::program::Mode;
    use record::memory::MemoryKind;
    use units::size::Size;

    const GEOMETRY: CostModel = CostModel {
        page_bytes: 4096,
        line_bytes: 64,
        aliasing: false,
        dic: false,
        resolution_ns: 16,
        instruction_ns: Some(16),
    };
    const BLOCK: u64 = 1 << 30;

    fn storm(worst_ns: u64, racers: u64, invalidations: Option<u64>) -> Findings {
        let race = TracedRace {
            block_ipa: 4 << 30,
            racers,
            faulted: (0..racers).collect(),
            faults: racers,
            invalidations,
            longest_ns: None,
        };
        Findings {
            mode: Mode::Shared,
            order: Order::DataFirst,
            races: 1,
            timed_rounds: 1,
            worst_ns,
            wall: None,
            racers: Vec::new(),
            traced: vec![race],
            growth: None,
            model: None,
        }
    }

    fn context() -> Context {
        Context { page_bytes: 4096, dic: false, unwatched: None, kmsg_lost: 0, untraced: None, trace_lost: 0 }
    }

    fn judged(order: Order, one_ns: u64, worst_ns: u64, invalidations: Option<u64>) -> Verdict {
        let mut four = Findings { order, ..storm(worst_ns, 4, invalidations) };
        compare(&mut four, 4, BLOCK, &storm(one_ns, 1, invalidations), &GEOMETRY);
        let result = CaseResult::on(MemoryKind::Hugetlb(Size(BLOCK)), 4);
        case(&result, &four, 4, &context())
    }

    #[test]
    fn growth_at_the_cost_of_lines_fails() {
        let verdict = judged(Order::DataFirst, 1_131_000_000, 4_337_000_000, Some(4));
        assert_eq!(verdict.status, Status::Fail);
        assert!(
            verdict.reason.contains("3.83 times as long") && verdict.reason.contains("0.96 of the model"),
            "{verdict:?}"
        );
        let untraced = judged(Order::DataFirst, 1_131_000_000, 4_337_000_000, None);
        assert_eq!(untraced.status, Status::Fail, "{untraced:?}");
    }

    #[test]
    fn racers_alone_prove_nothing() {
        let mut four = storm(4_337_000_000, 4, Some(4));
        let result = CaseResult::on(MemoryKind::Hugetlb(Size(BLOCK)), 4);
        assert_eq!(case(&result, &four, 4, &context()).status, Status::Skip);
        four.order = Order::ExecFirst;
        four.traced[0].invalidations = Some(1);
        assert_eq!(case(&result, &four, 4, &context()).status, Status::Pass, "the control needs no other");
    }

    #[test]
    fn growth_without_lines_passes() {
        assert_eq!(judged(Order::DataFirst, 57_600, 220_000, Some(2)).status, Status::Pass);
    }

    /// Before v6.2 the others wait behind one that invalidates.
    #[test]
    fn waiting_is_not_multiplying() {
        assert_eq!(judged(Order::DataFirst, 1_131_000_000, 4_337_000_000, Some(1)).status, Status::Pass);
    }

    #[test]
    fn the_control_is_judged_by_its_invalidations() {
        assert_eq!(judged(Order::ExecFirst, 1_131_000_000, 4_337_000_000, Some(1)).status, Status::Pass);
        assert_eq!(judged(Order::ExecFirst, 1_131_000_000, 1_131_000_000, Some(4)).status, Status::Fail);
    }

    /// Blocks of their own are invalidated once each, and wait for each other all the same.
    #[test]
    fn distinct_blocks_serialise() {
        let mut four = Findings { mode: Mode::Distinct, ..storm(4_337_000_000, 1, Some(1)) };
        compare(&mut four, 4, BLOCK, &storm(1_131_000_000, 1, Some(1)), &GEOMETRY);
        assert!(grown(&four, 4).is_some_and(|text| text.contains("3.83 times")));
    }

    #[test]
    fn no_call_is_no_maintenance() {
        let verdict = judged(Order::DataFirst, 57_600, 57_600, Some(0));
        assert_eq!(verdict.status, Status::Fail);
        assert!(verdict.reason.starts_with("no maintenance"), "{verdict:?}");
    }
}
