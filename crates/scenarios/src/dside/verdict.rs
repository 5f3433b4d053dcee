//! Verdicts on D-cache cleaning.

use record::verdict::describe_as;

use crate::dside::findings::Findings;
use crate::verdict::{Context, no_lockup};
use klog::attribution::Side;
use klog::complaint::Kind;
use record::case::CaseResult;
use record::maintenance::Maintenance;
use record::status::{Status, Verdict};
use units::size::Size;
use units::text::time;

/// Remark in every verdict on cleaning. A kernel with the I-cache patch fails here, too.
const NOT_FIXED: &str = "the I-cache patch does not change this";

/// Longest time of a probe on a function that returns at once, in ns, with a margin.
const PROBE_NS: f64 = 10_000.0;

/// Infers FWB from the longest clean, and returns it with the evidence. With FWB, the clean returns at once.
///
/// `line_floor_ns` is the shortest time for cleaning one line.
pub fn infer_fwb(
    clean: Option<&Maintenance>,
    touch_ns: u64,
    block_bytes: u64,
    line_bytes: u64,
    line_floor_ns: f64,
) -> (Option<bool>, String) {
    let least = |bytes: u64| (bytes / line_bytes.max(1)) as f64 * line_floor_ns;
    if let Some(clean) = clean.filter(|clean| clean.calls > 0) {
        let (ns, size) = (clean.max_ns, Size(clean.max_bytes));
        if least(clean.max_bytes) < PROBE_NS && ns as f64 >= least(clean.max_bytes) {
            return (None, format!("probe: the clean of {size} took {}, which may be the probe itself", time(ns)));
        }
        let by_line = ns as f64 >= least(clean.max_bytes);
        let what = if by_line { "as long as cleaning takes" } else { "too short to clean it" };
        return (Some(!by_line), format!("probe: the clean of {size} took {}, {what}", time(ns)));
    }
    let shortest = least(block_bytes);
    let text = format!("time: the first touch of {} took {}", Size(block_bytes), time(touch_ns));
    if (touch_ns as f64) < shortest {
        (Some(true), format!("{text}, too short to clean it"))
    } else {
        (None, format!("{text}, which may or may not be cleaning"))
    }
}

/// Judges a case whose guest ended well.
pub fn judge(case: &CaseResult, dside: &Findings, context: &Context) -> Verdict {
    let lockups = || case.complaints.iter().filter(|c| c.complaint.kind == Kind::SoftLockup);
    let on_d_side = lockups().find_map(|c| Some((c, c.attributions.iter().find(|a| a.side == Side::DSide)?)));
    if let Some((lockup, shown)) = on_d_side {
        return Verdict::new(Status::Fail, format!("{}; {NOT_FIXED}", describe_as(lockup, shown)));
    }
    if let Some(other) = lockups().next() {
        return Verdict::new(Status::Fail, record::verdict::describe(other));
    }
    if let Some(complaint) = record::verdict::fatal_complaint(case) {
        return Verdict::new(Status::Fail, record::verdict::describe(complaint));
    }
    if context.kmsg_lost > 0 {
        return record::verdict::records_lost(context.kmsg_lost);
    }
    if dside.fwb == Some(true) {
        return Verdict::new(Status::Skip, format!("FWB: nothing is cleaned ({})", dside.how));
    }
    if let Some(why) = &context.unwatched {
        return record::verdict::no_detector(why);
    }
    if dside.fwb.is_none() {
        return Verdict::new(Status::Skip, format!("no evidence of cleaning: {}", dside.how));
    }
    let unmap = dside.unmap.map(|d| format!(", unmapping {}", time(d.max))).unwrap_or_default();
    let discard = dside.discard_ns.map(|ns| format!(", teardown {}", time(ns))).unwrap_or_default();
    let touch = case.times().touch.map_or(0, |touch| touch.ns.max);
    let longest = [Some(touch), dside.unmap.map(|d| d.max), dside.discard_ns].into_iter().flatten().max();
    Verdict::new(
        Status::Pass,
        format!(
            "{}; first touch {}{unmap}{discard} ({}); {NOT_FIXED}",
            no_lockup(longest, context),
            time(touch),
            dside.how
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn fwb_from_the_probe() {
        let clean = |max_ns| Maintenance { calls: 1, max_bytes: GIB, max_ns, total_ns: max_ns };
        assert_eq!(infer_fwb(Some(&clean(2_000)), 60_000, GIB, 64, 0.25).0, Some(true));
        assert_eq!(infer_fwb(Some(&clean(105_000_000)), 106_000_000, GIB, 64, 0.25).0, Some(false));
    }

    /// A probe that finds nothing to do takes as long as the cleaning of a page.
    #[test]
    fn clean_of_a_page_does_not_show_fwb() {
        let clean = Maintenance { calls: 1, max_bytes: 4096, max_ns: 2_000, total_ns: 2_000 };
        assert_eq!(infer_fwb(Some(&clean), 60_000, 4096, 64, 0.25).0, None);
    }

    #[test]
    fn fwb_from_time() {
        assert_eq!(infer_fwb(None, 60_000, GIB, 64, 0.25).0, Some(true));
        assert_eq!(infer_fwb(None, 105_000_000, GIB, 64, 0.25).0, None);
        let none = Maintenance::default();
        assert_eq!(infer_fwb(Some(&none), 60_000, GIB, 64, 0.25).0, Some(true));
    }
}
