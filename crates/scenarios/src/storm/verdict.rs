//! Verdicts on cases of `storm`.

use crate::cost::CostModel;
use crate::projection::LineCost;
use crate::storm::findings::{Findings, StormModel, TracedRace};
use crate::storm::program::Order;
use crate::verdict::{Context, failure, no_lockup, not_observable};
use record::case::CaseResult;
use record::status::{Status, Verdict};
use units::text::time;

/// Smallest growth with the racers that counts, as a part of the growth under complete serialisation.
pub const GROWTH_SHARE: f64 = 0.6;

/// Compares a case with the case of one racer, and fills in growth and model.
pub(super) fn compare_with_one(storm: &mut Findings, racers: u64, block_bytes: u64, one: &Findings, cost: &CostModel) {
    storm.growth = Some(storm.worst_ns as f64 / one.worst_ns.max(1) as f64);
    // The median leaves out a race in which a timer interrupt added to the time.
    let one_ns = one.racers.first().and_then(|racer| racer.stall).map_or(one.worst_ns, |stall| stall.ns.p50);
    if cost.is_by_line(one_ns, block_bytes) != Some(true) {
        return;
    }
    let line = LineCost::measured(one_ns, block_bytes, cost.line_bytes);
    let predicted = line.stall_ns(racers, block_bytes);
    storm.model = Some(StormModel {
        ns_per_line: line.ns_per_line,
        predicted_ns: predicted as u64,
        ratio: storm.worst_ns as f64 / predicted,
    });
}

/// Returns the largest number of invalidations of one block, with the trace of that block; `None` without a probe.
fn most_invalidations(storm: &Findings) -> Option<(u64, &TracedRace)> {
    storm.traced.iter().filter_map(|race| Some((race.invalidations?, race))).max_by_key(|(n, _)| *n)
}

/// Returns whether the host invalidated one block about once for each racer; `None` without a probe.
fn multiplied(storm: &Findings) -> Option<bool> {
    let (most, race) = most_invalidations(storm)?;
    Some(most as f64 >= GROWTH_SHARE * race.racers as f64)
}

/// Judges a case whose guest ended well.
pub(super) fn judge(case: &CaseResult, storm: &Findings, racers: u64, context: &Context) -> Verdict {
    if let Some(verdict) = no_maintenance(storm) {
        return verdict;
    }
    let growth = describe_growth(storm, racers);
    if let Some(mut verdict) = failure(case, context) {
        if let Some(more) = growth.or_else(|| describe_control(storm, racers)) {
            verdict.reason = format!("{}; {more}", verdict.reason);
        }
        return verdict;
    }
    if let Some(growth) = growth {
        return Verdict::new(Status::Fail, growth);
    }
    not_observable(context).unwrap_or_else(|| judge_races(storm, context))
}

/// Returns whether the probe shows that blocks became executable without one call of the maintenance.
pub fn lacks_maintenance(storm: &Findings) -> bool {
    most_invalidations(storm).is_some_and(|(most, _)| most == 0) && storm.traced.iter().any(|race| race.faults > 0)
}

/// Returns the verdict on a kernel that does no maintenance.
fn no_maintenance(storm: &Findings) -> Option<Verdict> {
    lacks_maintenance(storm).then(|| {
        let faults: u64 = storm.traced.iter().map(|race| race.faults).sum();
        let how = "made blocks executable without one call of the maintenance";
        Verdict::new(Status::Fail, format!("no maintenance: {faults} faults {how}"))
    })
}

/// Describes the growth of the stall with the racers; `None` if their invalidations did not make it grow.
fn describe_growth(storm: &Findings, racers: u64) -> Option<String> {
    let (most, _) = most_invalidations(storm).unzip();
    let counted = most.map(|n| format!("; one block was invalidated {n} times")).unwrap_or_default();
    if storm.order == Order::ExecFirst {
        // In the control, one racer invalidates for all of them. More invalidations are wrong, whatever their time.
        let multiplies = most_racers(storm) > 1 && multiplied(storm) == Some(true);
        return multiplies.then(|| format!("the control multiplies{counted}"));
    }
    let model = storm.model.as_ref()?;
    let growth = storm.growth?;
    let grew = racers > 1 && growth >= GROWTH_SHARE * racers as f64 && multiplied(storm) != Some(false);
    grew.then(|| {
        format!(
            "{racers} racers stall {growth:.2} times as long as one: {} at {:.1} ns a line, {:.2} of the model{counted}",
            time(storm.worst_ns),
            model.ns_per_line,
            model.ratio
        )
    })
}

/// Returns the largest number of vCPUs that raced into one block.
fn most_racers(storm: &Findings) -> u64 {
    storm.traced.iter().map(|race| race.racers).max().unwrap_or(0)
}

/// Describes the control, in which the invalidations did not multiply, for a verdict that fails for another reason.
///
/// Emulated CPUs share one clock. Racers that fault again and again take time from the one that invalidates. Its stall
/// gets longer, but the number of invalidations does not grow.
fn describe_control(storm: &Findings, racers: u64) -> Option<String> {
    let (most, _) = most_invalidations(storm)?;
    let control = storm.order == Order::ExecFirst && racers > 1;
    control.then(|| format!("as the control should, {racers} racers took at most {most} invalidations of a block"))
}

/// Passes a case if a vCPU took a fault in every traced block, and if the stall was compared with that of one racer.
fn judge_races(storm: &Findings, context: &Context) -> Verdict {
    let missed = storm.traced.iter().filter(|race| race.faulted.is_empty()).count();
    if missed > 0 || storm.traced.is_empty() {
        if context.trace_lost > 0 {
            return Verdict::new(Status::Error, format!("{} trace records were lost", context.trace_lost));
        }
        let reason = format!("no fault by a fetch was seen in {missed} of {} blocks", storm.traced.len());
        return Verdict::new(Status::Skip, reason);
    }
    if let Some(why) = context.unprobed.as_ref().filter(|_| most_invalidations(storm).is_none()) {
        return Verdict::new(Status::Skip, format!("not shown that the I-cache was invalidated: {why}"));
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
        "{faults} {kind} faults by fetches{growth}{}; {}",
        worst.unwrap_or_default(),
        no_lockup(Some(storm.worst_ns), context)
    );
    Verdict::new(Status::Pass, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storm::program::Mode;
    use record::memory::MemoryKind;
    use units::size::Size;

    const COST: CostModel = CostModel {
        page_bytes: 4096,
        line_bytes: 64,
        aliasing: false,
        dic: false,
        resolution_ns: 16,
        instruction_ns: Some(16),
        protected: false,
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

    fn judged(order: Order, one_ns: u64, worst_ns: u64, invalidations: Option<u64>) -> Verdict {
        let mut four = Findings { order, ..storm(worst_ns, 4, invalidations) };
        compare_with_one(&mut four, 4, BLOCK, &storm(one_ns, 1, invalidations), &COST);
        let case = CaseResult::on(MemoryKind::Hugetlb(Size(BLOCK)), 4);
        judge(&case, &four, 4, &Context::complete())
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
    fn several_racers_need_a_case_of_one_and_the_control_does_not() {
        let mut four = storm(4_337_000_000, 4, Some(4));
        let case = CaseResult::on(MemoryKind::Hugetlb(Size(BLOCK)), 4);
        assert_eq!(judge(&case, &four, 4, &Context::complete()).status, Status::Skip);
        four.order = Order::ExecFirst;
        four.traced[0].invalidations = Some(1);
        assert_eq!(judge(&case, &four, 4, &Context::complete()).status, Status::Pass);
    }

    #[test]
    fn growth_without_lines_passes() {
        assert_eq!(judged(Order::DataFirst, 57_600, 220_000, Some(2)).status, Status::Pass);
    }

    /// Before v6.2, the other racers wait behind the one that invalidates.
    #[test]
    fn waiting_is_not_multiplying() {
        assert_eq!(judged(Order::DataFirst, 1_131_000_000, 4_337_000_000, Some(1)).status, Status::Pass);
    }

    #[test]
    fn control_is_judged_by_its_invalidations() {
        assert_eq!(judged(Order::ExecFirst, 1_131_000_000, 4_337_000_000, Some(1)).status, Status::Pass);
        assert_eq!(judged(Order::ExecFirst, 1_131_000_000, 1_131_000_000, Some(4)).status, Status::Fail);
    }

    /// Each racer has its own block, which is invalidated once, but the invalidations still wait for each other.
    #[test]
    fn distinct_blocks_serialise() {
        let mut four = Findings { mode: Mode::Distinct, ..storm(4_337_000_000, 1, Some(1)) };
        compare_with_one(&mut four, 4, BLOCK, &storm(1_131_000_000, 1, Some(1)), &COST);
        assert!(describe_growth(&four, 4).is_some_and(|text| text.contains("3.83 times")));
    }

    #[test]
    fn kernel_without_calls_has_no_maintenance() {
        let verdict = judged(Order::DataFirst, 57_600, 57_600, Some(0));
        assert_eq!(verdict.status, Status::Fail);
        assert!(verdict.reason.starts_with("no maintenance"), "{verdict:?}");
    }
}
