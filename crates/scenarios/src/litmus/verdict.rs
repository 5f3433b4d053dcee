//! Verdicts of `litmus`.

use crate::litmus::findings::Findings;
use crate::verdict::{Context, failure};
use programs::litmus::event::RaceEvent;
use programs::litmus::test::Published;
use record::case::CaseResult;
use record::maintenance::{Access, FaultCount, FaultKind};
use record::status::{Status, Verdict};
use units::text::thousands;

/// Returns the verdict on a test whose guest ended well.
pub fn case(case: &CaseResult, litmus: &Findings, context: &Context) -> Verdict {
    let Some(published) = litmus.published else {
        return Verdict::new(Status::Error, "no guest reported the features of the machine");
    };
    if litmus.exceptions > 0 {
        let (exceptions, races) = (thousands(litmus.exceptions), thousands(litmus.races));
        return Verdict::new(Status::Fail, format!("a thread took an exception in {exceptions} of {races} races"));
    }
    if published == Published::Forbidden && litmus.seen > 0 {
        let (seen, races) = (thousands(litmus.seen), thousands(litmus.races));
        return Verdict::new(
            Status::Fail,
            format!("forbidden outcome {} seen in {seen} of {races} races", litmus.condition),
        );
    }
    if let Some(verdict) = failure(case, context) {
        return verdict;
    }
    if let Some(what) = incomplete(litmus) {
        return Verdict::new(Status::Error, what);
    }
    match event(case, litmus, context) {
        Err(verdict) => verdict,
        Ok(how) => Verdict::new(Status::Pass, format!("{}{how}", outcome(litmus, published))),
    }
}

/// Returns the part of the races that is missing, in words.
fn incomplete(litmus: &Findings) -> Option<String> {
    let (least, most) = (litmus.iterations.iter().min().copied()?, litmus.iterations.iter().max().copied()?);
    if least == 0 {
        return Some("a vCPU completed no iteration".into());
    }
    let one_copy = litmus.copies == 1 && least != most;
    let counted = litmus.counted();
    (one_copy || counted != litmus.races).then(|| {
        format!(
            "vCPUs completed {least} to {most} iterations, and {counted} outcomes of {} races were counted",
            litmus.races
        )
    })
}

/// Returns the evidence of the events in words, or the verdict if there is no evidence.
fn event(case: &CaseResult, litmus: &Findings, context: &Context) -> Result<String, Verdict> {
    if litmus.events_asked == 0 {
        return Ok(String::new());
    }
    let (asked, done) = (litmus.events_asked, litmus.events_done);
    if done < asked {
        return Err(Verdict::new(Status::Skip, format!("the host carried out {done} of {asked} events")));
    }
    let carried_out = format!("; {} events", thousands(done));
    let Some(fault) = litmus.event.fault() else { return Ok(carried_out) };
    if let Some(why) = &context.untraced {
        let races = thousands(litmus.races);
        return Err(Verdict::new(
            Status::Skip,
            format!("{races} races held{carried_out}; no evidence of their faults: {why}"),
        ));
    }
    let faults = case.host.iter().flat_map(|host| &host.faults);
    let seen: u64 = faults.filter(|f| is_fault_of(litmus.event, f)).map(|f| f.count).sum();
    if seen > 0 {
        return Ok(format!("{carried_out}, {seen} faults traced: {fault}"));
    }
    let why = if context.dic { "; with DIC, KVM grants execution at the first fault" } else { "" };
    let lost = if context.trace_lost > 0 { "; trace records were lost" } else { "" };
    Err(Verdict::new(Status::Skip, format!("no {fault} fault was traced{why}{lost}")))
}

/// Returns whether a traced fault is the one that the event is meant to cause.
fn is_fault_of(event: RaceEvent, fault: &FaultCount) -> bool {
    /// Level of page descriptors.
    const PAGES: u8 = 3;
    let is = |access, kind| fault.access == access && fault.kind == kind;
    match event {
        RaceEvent::Plain | RaceEvent::Move => false,
        RaceEvent::Relax => is(Access::Fetch, FaultKind::Permission),
        RaceEvent::Unmap => is(Access::Fetch, FaultKind::Translation),
        RaceEvent::Split => is(Access::Data, FaultKind::Permission) && fault.level < PAGES,
        // The first access makes the block. The faults of writes during dirty logging are on blocks and do not count.
        RaceEvent::Collapse => fault.kind == FaultKind::Permission && fault.level == PAGES,
    }
}

/// Returns in words how often the outcome of interest occurred.
fn outcome(litmus: &Findings, published: Published) -> String {
    let (seen, races, vcpus) = (thousands(litmus.seen), thousands(litmus.races), litmus.iterations.len());
    format!(
        "{}, seen in {seen} of {races} races on {vcpus} vCPU{}",
        published.name(),
        if vcpus == 1 { "" } else { "s" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::litmus::findings::Outcome;
    use programs::litmus::test::{MachineClass, Source};
    use record::maintenance::{FaultCount, HostSide};

    fn litmus(published: Published, event: RaceEvent, seen: u64) -> Findings {
        let outcome = |values: &str, count, of_interest| Outcome { values: values.into(), count, of_interest };
        Findings {
            test: "SM".into(),
            source: Source::Esop2020,
            event,
            threads: 2,
            copies: 1,
            condition: "1:x=1 1:f=0".into(),
            machine_class: Some(MachineClass::Neither),
            published: Some(published),
            iterations: vec![100, 100],
            races: 100,
            per_second: 1,
            outcomes: vec![outcome("1:x=1 1:f=1", 100 - seen, false), outcome("1:x=1 1:f=0", seen, true)],
            seen,
            exceptions: 0,
            events_asked: 100 * event.host_events(),
            events_done: 100 * event.host_events(),
        }
    }

    fn judge(litmus: &Findings, faults: &[FaultCount]) -> Verdict {
        let host = HostSide { faults: faults.to_vec(), icache: None, dcache: None, unprobed: None };
        let result = CaseResult { host: Some(host), ..CaseResult::not_run("test", 2) };
        case(&result, litmus, &Context::complete())
    }

    fn fault(access: Access, kind: FaultKind, level: u8) -> FaultCount {
        FaultCount { access, kind, level, count: 3 }
    }

    #[test]
    fn only_forbidden_outcomes_fail() {
        for (published, seen, status) in [
            (Published::Forbidden, 0, Status::Pass),
            (Published::Forbidden, 1, Status::Fail),
            (Published::Allowed, 7, Status::Pass),
            (Published::Unpublished, 7, Status::Pass),
        ] {
            let verdict = judge(&litmus(published, RaceEvent::Plain, seen), &[]);
            assert_eq!(verdict.status, status, "{verdict:?}");
            assert!(verdict.reason.contains(published.name()) || seen > 0, "{verdict:?}");
        }
        let verdict = judge(&Findings { exceptions: 1, ..litmus(Published::Allowed, RaceEvent::Plain, 0) }, &[]);
        assert_eq!(verdict.status, Status::Fail);
    }

    #[test]
    fn incomplete_races_are_errors() {
        let whole = litmus(Published::Forbidden, RaceEvent::Plain, 0);
        for iterations in [vec![100, 99], vec![0, 0]] {
            assert_eq!(judge(&Findings { iterations, ..whole.clone() }, &[]).status, Status::Error);
        }
        assert_eq!(judge(&Findings { races: 101, ..whole.clone() }, &[]).status, Status::Error);
        assert_eq!(judge(&Findings { published: None, ..whole }, &[]).status, Status::Error);
    }

    #[test]
    fn events_need_their_faults() {
        let relax = litmus(Published::Forbidden, RaceEvent::Relax, 0);
        assert_eq!(judge(&relax, &[fault(Access::Fetch, FaultKind::Permission, 3)]).status, Status::Pass);
        assert_eq!(judge(&relax, &[fault(Access::Fetch, FaultKind::Translation, 3)]).status, Status::Skip);
        assert_eq!(
            judge(&Findings { events_done: 99, ..relax }, &[fault(Access::Fetch, FaultKind::Permission, 3)]).status,
            Status::Skip
        );
        let split = litmus(Published::Forbidden, RaceEvent::Split, 0);
        assert_eq!(judge(&split, &[fault(Access::Data, FaultKind::Permission, 3)]).status, Status::Skip);
        assert_eq!(judge(&split, &[fault(Access::Data, FaultKind::Permission, 2)]).status, Status::Pass);
        let untraced = Context { untraced: Some("--no-trace".into()), ..Context::complete() };
        let case_ = CaseResult::not_run("test", 2);
        assert_eq!(case(&case_, &litmus(Published::Forbidden, RaceEvent::Relax, 0), &untraced).status, Status::Skip);
        let moved = litmus(Published::Forbidden, RaceEvent::Move, 0);
        assert_eq!(judge(&moved, &[]).status, Status::Pass);
    }
}
