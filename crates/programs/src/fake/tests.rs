//! Test of the oracle on fake machines: it accepts everything that a correct machine does, and finds each planted
//! defect.

use std::collections::BTreeMap;

use abi::op::{Barrier, MISMATCH_CAP};

use crate::compile::{Options, compile};
use crate::diagnose::Diagnosis;
use crate::fake::{Defect, FakeMachine, LINE_BYTES, MAX_VCPUS};
use crate::file::ProgramFile;
use crate::generate::{Space, random_program};
use crate::judge::judge;
use crate::legal::Limits;
use crate::oracle::{CacheFeatures, Expectations, Expected, Rule, expect};
use crate::outcomes::Outcomes;
use crate::program::{Action, Clean, Program, ProgramOp, Span};
use crate::shrink::shrink;
use guest::event::Event;

const BASE: u64 = 0x1_0000_0000;
const LIMITS: Limits = Limits { region_bytes: 1 << 20, line_bytes: LINE_BYTES };
const SPACE: Space<'_> = Space { limits: LIMITS, vcpus: MAX_VCPUS, ops: 20, events: &Event::ALL };

/// All kinds of machines. FWB implies IDC.
const MACHINES: [CacheFeatures; 6] = [
    CacheFeatures { idc: false, dic: false, fwb: false },
    CacheFeatures { idc: true, dic: false, fwb: false },
    CacheFeatures { idc: false, dic: true, fwb: false },
    CacheFeatures { idc: true, dic: true, fwb: false },
    CacheFeatures { idc: true, dic: false, fwb: true },
    CacheFeatures { idc: true, dic: true, fwb: true },
];

fn outcomes(program: &Program, features: CacheFeatures, defect: Option<Defect>, seed: u64) -> (Expectations, Outcomes) {
    let expectations = expect(program, &features);
    let compiled = compile(program, &Options::new(BASE));
    let records = FakeMachine { features, defect, seed }.run(program, &compiled);
    let room = (0..program.vcpus).all(|vcpu| records[vcpu].len() as u64 <= compiled.records_needed(vcpu));
    assert!(room, "more records than promised");
    let outcomes = judge(program, &expectations, &compiled, &records).unwrap_or_else(|error| panic!("{error}"));
    (expectations, outcomes)
}

fn features_of(seed: u64) -> CacheFeatures {
    MACHINES[(seed % MACHINES.len() as u64) as usize]
}

#[test]
fn a_correct_machine_never_fails() {
    let (mut required, mut weak, mut newest, mut all) = (0, 0, 0, 0);
    for seed in 0..100_000 {
        let program = random_program(seed, &SPACE);
        let (_, outcomes) = outcomes(&program, features_of(seed), None, seed ^ 0x5eed);
        let first = outcomes.forbidden().next();
        let odd = outcomes.total(|op| op.unpredictable + op.unjudged);
        assert!(!outcomes.failed() && odd == 0, "seed {seed}, {:?}: {first:?} in {program:#?}", features_of(seed));
        required += outcomes.total(|op| op.required);
        weak += outcomes.weak();
        newest += outcomes.total(|op| op.newest);
        all += outcomes.total(|op| op.slots);
    }
    // The test proves something only if most looks require a generation and the machine is often stale.
    assert!(required * 2 > all, "required {required} of {all}");
    assert!(weak * 4 > weak + newest, "weak {weak}, newest {newest}");
    println!("{all} looks: {required} required, {newest} newest where older were allowed, {weak} weak");
}

/// Each defect, the rule that it breaks, and the number of programs within which it is found.
const PLANTED: [(Defect, Rule, u64); 14] = [
    (Defect::NoClean, Rule::Clean, 500),
    (Defect::CleanEverySecond, Rule::Clean, 500),
    (Defect::NoInvalidate, Rule::Invalidate, 500),
    (Defect::InvalidateEverySecond, Rule::Invalidate, 500),
    (Defect::NoInvalidateAll, Rule::InvalidateAll, 500),
    (Defect::ForgottenCpu, Rule::Broadcast, 500),
    (Defect::NoIsb, Rule::Synchronise, 500),
    (Defect::HostNoClean, Rule::HostClean, 500),
    (Defect::HostNoInvalidate, Rule::HostInvalidate, 500),
    (Defect::HostInvalidateEverySecond, Rule::HostInvalidate, 500),
    (Defect::ContentsLost, Rule::ContentsKept, 500),
    (Defect::OldFrames, Rule::OldFramesGone, 500),
    (Defect::IdcUntrue, Rule::Idc, 500),
    (Defect::DicUntrue, Rule::Dic, 500),
];

/// Number of programs from which the broken rule is diagnosed.
const DIAGNOSED: u64 = 2000;

/// Returns whether a program fails on a machine with a defect. Caches are stale at random, so 64 seeds are tried.
fn fails(program: &Program, features: CacheFeatures, defect: Defect) -> bool {
    (0..64).any(|seed| outcomes(program, features, Some(defect), seed).1.failed())
}

#[test]
fn planted_defects_are_found_named_and_shrunk() {
    for (defect, rule, within) in PLANTED {
        let mut diagnosis = Diagnosis::default();
        let mut first = None;
        for seed in 0..DIAGNOSED {
            let program = random_program(seed, &SPACE);
            let (expectations, outcomes) = outcomes(&program, features_of(seed), Some(defect), seed);
            diagnosis.add(&program, &expectations, &outcomes);
            if outcomes.failed() {
                first.get_or_insert((seed, program));
            }
        }
        assert_eq!(diagnosis.suspects().first(), Some(&rule), "{defect:?}: {diagnosis:?}");
        let (seed, program) = first.unwrap_or_else(|| panic!("{defect:?} was not found"));
        assert!(seed < within, "{defect:?} took {seed} programs");
        let features = features_of(seed);
        let small = shrink(&program, LIMITS, |program| fails(program, features, defect));
        assert!(small.ops.len() <= 8, "{defect:?}: {small:#?}");
        let failure = (0..64).map(|seed| outcomes(&small, features, Some(defect), seed).1).find(Outcomes::failed);
        let failure = failure.unwrap_or_else(|| panic!("{defect:?}: the smallest does not fail"));
        let suspects: Vec<_> = failure.forbidden().flat_map(|forbidden| &forbidden.suspects).map(|s| s.rule).collect();
        assert!(suspects.contains(&rule), "{defect:?}: {failure:?}");
        println!("{defect:?}: program {seed}, {} ops, suspects {suspects:?}", small.ops.len());
    }
}

#[test]
fn a_planted_failure_fails_again_from_its_file() {
    let (seed, program, features) = (0..)
        .map(|seed| (seed, random_program(seed, &SPACE), features_of(seed)))
        .find(|(_, program, features)| fails(program, *features, Defect::HostNoInvalidate))
        .expect("one of many");
    let program = shrink(&program, LIMITS, |program| fails(program, features, Defect::HostNoInvalidate));
    let file = ProgramFile { failed: "K2".into(), seed: Some(seed), backing: None, eager_split: false, program };
    let again = ProgramFile::parse("failed.toml", &file.to_toml(), LIMITS).expect("it was just written");
    assert_eq!(again, file);
    assert!(fails(&again.program, features, Defect::HostNoInvalidate));
    assert!((0..64).all(|seed| !outcomes(&again.program, features, None, seed).1.failed()));
}

const SPAN: Span = Span { start: 0, stride: 64, count: 2 };

fn program(actions: &[Action]) -> Program {
    Program { vcpus: 1, ops: actions.iter().map(|&action| ProgramOp::new(0, action)).collect() }
}

/// Runs a program on many correct machines. Returns how often the last look saw the newest generation, a weak outcome,
/// and anything else.
fn histogram(program: &Program, features: CacheFeatures) -> (u64, u64, u64) {
    let mut seen = (0, 0, 0);
    for seed in 0..500 {
        let (_, outcomes) = outcomes(program, features, None, seed);
        let last = outcomes.ops.last().expect("an op that looks");
        seen.0 += last.newest + last.required;
        seen.1 += last.weak.iter().sum::<u64>();
        seen.2 += last.unpredictable + last.unjudged + last.forbidden.len() as u64;
    }
    seen
}

#[test]
fn maintenance_that_the_guest_leaves_out_is_weak_and_not_forbidden() {
    const FETCH: Action = Action::Fetch { span: SPAN };
    const WRITE: Action = Action::Write { span: SPAN, generation: 1 };
    const CLEAN: Action = Action::CleanD { span: SPAN, to: Clean::Pou };
    const INVAL: Action = Action::InvalI { span: SPAN };
    const DSB: Action = Action::Barrier { barrier: Barrier::DsbIsh };
    let rewrite = Action::Event { event: Event::Rewrite, span: SPAN, generation: 1 };
    let neither = MACHINES[0];
    let leaves_out: [&[Action]; 4] = [
        &[FETCH, WRITE, CLEAN, DSB, FETCH],
        &[FETCH, WRITE, DSB, INVAL, DSB, FETCH],
        &[FETCH, rewrite, FETCH],
        &[FETCH, WRITE, Action::Event { event: Event::DirtyLogOn, span: SPAN, generation: 0 }, FETCH],
    ];
    for actions in leaves_out {
        let (newest, weak, worse) = histogram(&program(actions), neither);
        assert!(newest > 0 && weak > 0 && worse == 0, "{actions:?}: {newest} {weak} {worse}");
    }
    let whole: [&[Action]; 2] = [
        &[FETCH, WRITE, CLEAN, DSB, INVAL, DSB, FETCH],
        &[FETCH, rewrite, Action::Event { event: Event::Unmap, span: SPAN, generation: 0 }, FETCH],
    ];
    for actions in whole {
        assert_eq!(histogram(&program(actions), neither), (1000, 0, 0), "{actions:?}");
    }
}

/// The op records fewer mismatches than occur. Such loads could not be judged, but none of these fetches is forbidden.
#[test]
fn many_stale_fetches_are_as_open_as_few() {
    let span = Span { count: 4 * MISMATCH_CAP, ..SPAN };
    let actions = [Action::Fetch { span }, Action::Write { span, generation: 1 }, Action::Fetch { span }];
    let stale = |seed| {
        let (_, outcomes) = outcomes(&program(&actions), MACHINES[0], None, seed);
        assert!(!outcomes.failed() && outcomes.total(|op| op.unjudged) == 0);
        outcomes.total(|op| op.unlisted)
    };
    assert!((0..20).any(|seed| stale(seed) > 0), "no machine saw that many");
}

#[test]
fn something_is_required_on_every_kind_of_machine() {
    for features in MACHINES {
        let mut looks: BTreeMap<&str, u64> = BTreeMap::new();
        for seed in 0..2000 {
            for (_, slots, expected) in expect(&random_program(seed, &SPACE), &features).looks() {
                *looks.entry(kind(expected)).or_default() += slots;
            }
        }
        let all: u64 = looks.values().sum();
        let share = |kind| looks.get(kind).copied().unwrap_or(0) * 100 / all;
        println!("{features:?}: {looks:?}");
        assert!(share("required after a change") >= 20, "{features:?}: {looks:?}");
    }
}

fn kind(expected: &Expected) -> &'static str {
    match expected {
        // No generation is older than 0, so requiring it proves only that nothing was lost.
        Expected::Required(0) => "required unchanged",
        Expected::Required(_) => "required after a change",
        Expected::Allowed { .. } => "weak",
        Expected::Skipped => "skipped",
    }
}
