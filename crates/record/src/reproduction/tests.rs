//! Reproductions by stored runs, and by the same runs with one part of the evidence removed.

use klog::attribution::Stage2Path;
use units::size::Size;

use crate::memory::MemoryKind;
use crate::reproduction::*;
use crate::status::Verdict;

fn stored(name: &str) -> RunResult {
    let path = format!("{}/tests/runs/{name}/result.json", env!("CARGO_MANIFEST_DIR"));
    crate::store::read(path.as_ref()).expect("the stored run is a result")
}

fn runs() -> (RunResult, RunResult) {
    (stored("debian-6.1"), stored("debian-6.12"))
}

/// Returns the case that locks up in the run before.
fn large(run: &mut RunResult) -> &mut CaseResult {
    let kind = MemoryKind::Hugetlb(Size(1 << 30));
    run.cases
        .iter_mut()
        .find(|case| case.memory.is_some_and(|memory| memory.kind == kind))
        .expect("the stored runs have 1G")
}

/// Gives the case of the run after the lockup of the run before, with another attribution.
fn with_lockup(side: Side, path: Stage2Path) -> Reproduction {
    let (mut before, mut after) = runs();
    let mut lockup = large(&mut before).complaints[0].clone();
    for attribution in &mut lockup.attributions {
        (attribution.side, attribution.path) = (side, path);
    }
    let case = large(&mut after);
    case.complaints.push(lockup);
    case.verdict = Verdict::new(Status::Fail, "a lockup");
    reproduction(&before, &after)
}

#[test]
fn there_before_and_not_after() {
    let (before, after) = runs();
    let held = reproduction(&before, &after);
    assert!(held.reproduced, "{}", held.reason);
    assert!(!reproduction(&after, &before).reproduced);
    assert!(!reproduction(&after, &after).reproduced);
    assert!(!reproduction(&before, &before).reproduced);
}

#[test]
fn only_a_lockup_on_the_d_side_may_be_there_after() {
    for path in [Stage2Path::RelaxPerms, Stage2Path::Map, Stage2Path::Unknown] {
        assert!(!with_lockup(Side::ISide, path).reproduced, "{path:?}");
    }
    assert!(with_lockup(Side::DSide, Stage2Path::Map).reproduced);
    assert!(!with_lockup(Side::LockWait, Stage2Path::Map).reproduced);
}

/// Up to v5.13, `user_mem_abort` itself does the maintenance of the I side.
#[test]
fn an_old_kernels_lockup_needs_the_traced_faults() {
    let (mut before, after) = runs();
    let shown = &mut large(&mut before).complaints[0].attributions;
    shown.iter_mut().for_each(|attribution| attribution.path = Stage2Path::Fault);
    large(&mut before).complaints.truncate(1);
    assert!(reproduction(&before, &after).reproduced);
    large(&mut before).host.iter_mut().for_each(|host| host.faults.clear());
    assert!(relax_lockup(large(&mut before)).is_none());
}

#[test]
fn unlike_blocks_are_not_compared() {
    let (before, mut after) = runs();
    let memory = large(&mut after).memory.as_mut().expect("the case has memory");
    memory.block_bytes = 32 << 20;
    let held = reproduction(&before, &after);
    assert!(!held.reproduced && held.reason.contains("1G is not the same"), "{}", held.reason);
    assert!(held.reason.contains("blocks of 32M"), "{}", held.reason);
}

#[test]
fn nothing_is_reproduced_without_evidence_from_both() {
    type Break = fn(&mut CaseResult);
    let breaks: [(&str, Break); 6] = [
        ("no trace", |case| case.host = None),
        ("no faults", |case| case.host.iter_mut().for_each(|host| host.faults.clear())),
        ("wrong tokens", |case| {
            case.mismatches = 1;
            case.verdict = Verdict::new(Status::Fail, "1 fetches did not return their token");
        }),
        ("failed without a complaint", |case| case.verdict = Verdict::new(Status::Fail, "no maintenance")),
        ("detector off", |case| case.verdict = Verdict::new(Status::Skip, "no soft lockup detector")),
        ("log lost", |case| case.verdict = Verdict::new(Status::Error, "kernel log records were lost")),
    ];
    for (name, break_it) in breaks {
        let (before, mut after) = runs();
        break_it(large(&mut after));
        assert!(!reproduction(&before, &after).reproduced, "{name}");
    }
    let (mut before, after) = runs();
    large(&mut before).host = None;
    assert!(!reproduction(&before, &after).reproduced, "no trace before");
}
