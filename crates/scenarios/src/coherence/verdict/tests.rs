//! Tests of the verdicts, on evidence made by hand.

use crate::coherence::program::{Reader, Writer};
use crate::coherence::verdict::*;
use programs::outcomes::OpOutcomes;
use record::maintenance::{FaultCount, Maintenance};

const CONTEXT: Context<'_> =
    Context { features: CacheFeatures { idc: true, dic: false, fwb: false }, untraced: None, lost: 0, level: 2 };

fn fetched(event: Event) -> Combination {
    Combination { event, writer: Writer::Host, look: LookKind::Fetch, reader: Reader::Same }
}

fn seen(required: u64, unjudged: u64, skipped: u64) -> Outcomes {
    let slots = required + unjudged + skipped;
    Outcomes { ops: vec![OpOutcomes { slots, required, unjudged, skipped, ..OpOutcomes::default() }] }
}

fn host(access: Access, level: u8, icache: u64, dcache: u64) -> HostSide {
    let calls = |calls| Some(Maintenance { calls, ..Maintenance::default() });
    let fault = FaultCount { access, kind: FaultKind::Translation, level, count: 2 };
    HostSide { faults: vec![fault], icache: calls(icache), dcache: calls(dcache), unprobed: None }
}

fn status(event: Event, outcomes: &Outcomes, host: Option<&HostSide>, context: &Context<'_>) -> (Status, String) {
    let verdict = combination(&fetched(event), outcomes, host, context);
    (verdict.status, verdict.reason)
}

#[test]
fn a_pass_needs_the_fault_and_its_maintenance() {
    let held = seen(8, 0, 0);
    let good = host(Access::Fetch, 2, 2, 2);
    assert_eq!(status(Event::Unmap, &held, Some(&good), &CONTEXT).0, Status::Pass);
    let (found, why) = status(Event::Unmap, &held, Some(&host(Access::Fetch, 2, 0, 2)), &CONTEXT);
    assert!(found == Status::Fail && why.starts_with("no maintenance"), "{why}");
    assert_eq!(status(Event::Unmap, &held, Some(&host(Access::Fetch, 2, 2, 0)), &CONTEXT).0, Status::Fail);
    assert_eq!(status(Event::Unmap, &held, Some(&host(Access::Data, 2, 2, 2)), &CONTEXT).0, Status::Skip);
    assert_eq!(status(Event::Unmap, &held, Some(&HostSide::default()), &CONTEXT).0, Status::Skip);
    assert_eq!(status(Event::Unmap, &held, None, &CONTEXT).0, Status::Skip);
    let blind = Context { untraced: Some("--no-trace"), ..CONTEXT };
    assert_eq!(status(Event::Unmap, &held, Some(&good), &blind).0, Status::Skip);
}

#[test]
fn dic_and_fwb_spare_the_maintenance() {
    let features = CacheFeatures { idc: true, dic: true, fwb: true };
    let idle = host(Access::Fetch, 2, 0, 0);
    assert_eq!(status(Event::Unmap, &seen(8, 0, 0), Some(&idle), &Context { features, ..CONTEXT }).0, Status::Pass);
}

#[test]
fn pages_in_place_of_blocks_show_nothing() {
    let pages = host(Access::Fetch, 3, 2, 2);
    assert_eq!(status(Event::Unmap, &seen(8, 0, 0), Some(&pages), &CONTEXT).0, Status::Skip);
    assert_eq!(status(Event::Swap, &seen(8, 0, 0), Some(&pages), &CONTEXT).0, Status::Pass);
}

#[test]
fn looks_that_were_not_judged_do_not_pass() {
    let good = host(Access::Fetch, 2, 2, 2);
    assert_eq!(status(Event::Unmap, &seen(8, 1, 0), Some(&good), &CONTEXT).0, Status::Error);
    assert_eq!(status(Event::Unmap, &seen(0, 0, 8), Some(&good), &CONTEXT).0, Status::Skip);
}

#[test]
fn an_event_is_as_good_as_its_worst_combination() {
    let result = |status| CombinationResult {
        writer: Writer::Host,
        look: LookKind::Fetch,
        reader: Reader::Same,
        verdict: Verdict::new(status, "because"),
        seen: LookCounts { required: 4, ..LookCounts::default() },
        host: None,
        budget: None,
    };
    let over = |all: &[Status]| event(&all.iter().map(|status| result(*status)).collect::<Vec<_>>()).status;
    assert_eq!(over(&[Status::Pass, Status::Skip]), Status::Pass);
    assert_eq!(over(&[Status::Skip, Status::Skip]), Status::Skip);
    assert_eq!(over(&[Status::Pass, Status::Error, Status::Fail]), Status::Fail);
    assert_eq!(over(&[Status::Pass, Status::Error]), Status::Error);
    assert_eq!(over(&[]), Status::Skip);
}
