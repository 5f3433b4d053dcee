//! The oracle against this machine: it accepts all that a correct one does, and finds what is planted.
#![cfg(test)]

use std::collections::BTreeMap;

use abi::op::{Barrier, MISMATCH_CAP};

use crate::compile::{Options, compile};
use crate::diagnose::Diagnosis;
use crate::fake::{Fault, LINE_BYTES, run};
use crate::generate::{self, Space};
use crate::judge::{Outcomes, judge};
use crate::legal::Limits;
use crate::oracle::{Expectations, Expected, Geometry, Rule, expect};
use crate::program::{Act, Clean, Program, Span, Step};
use crate::replay::Replay;
use crate::shrink::shrink;
use guest::event::Event;

const BASE: u64 = 0x1_0000_0000;
const LIMITS: Limits = Limits { region_bytes: 1 << 20, line_bytes: LINE_BYTES };
const SPACE: Space<'_> = Space { limits: LIMITS, vcpus: 4, steps: 20, events: &Event::ALL };

/// FWB implies IDC.
const GEOMETRIES: [Geometry; 6] = [
    Geometry { idc: false, dic: false, fwb: false },
    Geometry { idc: true, dic: false, fwb: false },
    Geometry { idc: false, dic: true, fwb: false },
    Geometry { idc: true, dic: true, fwb: false },
    Geometry { idc: true, dic: false, fwb: true },
    Geometry { idc: true, dic: true, fwb: true },
];

fn outcomes(program: &Program, geometry: Geometry, fault: Option<Fault>, seed: u64) -> (Expectations, Outcomes) {
    let expectations = expect(program, &geometry);
    let compiled = compile(program, &Options::new(BASE));
    let records = run(program, &compiled, geometry, fault, seed);
    let room = (0..program.vcpus).all(|vcpu| records[vcpu].len() as u64 <= compiled.records_needed(vcpu));
    assert!(room, "more records than promised");
    let outcomes = judge(program, &expectations, &compiled, &records).unwrap_or_else(|error| panic!("{error}"));
    (expectations, outcomes)
}

fn geometry(seed: u64) -> Geometry {
    GEOMETRIES[(seed % GEOMETRIES.len() as u64) as usize]
}

#[test]
fn a_correct_machine_never_fails() {
    let (mut required, mut weak, mut newest, mut all) = (0, 0, 0, 0);
    for seed in 0..100_000 {
        let program = generate::program(seed, &SPACE);
        let (_, outcomes) = outcomes(&program, geometry(seed), None, seed ^ 0x5eed);
        let first = outcomes.forbidden().next();
        let odd = outcomes.total(|step| step.unpredictable + step.unjudged);
        assert!(!outcomes.failed() && odd == 0, "seed {seed}, {:?}: {first:?} in {program:#?}", geometry(seed));
        required += outcomes.total(|step| step.required);
        weak += outcomes.weak();
        newest += outcomes.total(|step| step.newest);
        all += outcomes.total(|step| step.slots);
    }
    // Not in vain: something is required of most looks, and the machine is as stale as it may be.
    assert!(required * 2 > all, "required {required} of {all}");
    assert!(weak * 4 > weak + newest, "weak {weak}, newest {newest}");
    println!("{all} looks: {required} required, {newest} newest though older were allowed, {weak} weak");
}

/// Each fault, the rule it breaks, and the programs within which it is found.
const PLANTED: [(Fault, Rule, u64); 14] = [
    (Fault::NoClean, Rule::Clean, 500),
    (Fault::CleanEverySecond, Rule::Clean, 500),
    (Fault::NoInvalidate, Rule::Invalidate, 500),
    (Fault::InvalidateEverySecond, Rule::Invalidate, 500),
    (Fault::NoInvalidateAll, Rule::InvalidateAll, 500),
    (Fault::ForgottenCpu, Rule::Broadcast, 500),
    (Fault::NoIsb, Rule::Synchronise, 500),
    (Fault::HostNoClean, Rule::HostClean, 500),
    (Fault::HostNoInvalidate, Rule::HostInvalidate, 500),
    (Fault::HostInvalidateEverySecond, Rule::HostInvalidate, 500),
    (Fault::ContentsLost, Rule::ContentsKept, 500),
    (Fault::OldFrames, Rule::OldFramesGone, 500),
    (Fault::IdcUntrue, Rule::Idc, 500),
    (Fault::DicUntrue, Rule::Dic, 500),
];

/// Programs over which the broken rule is told from others.
const DIAGNOSED: u64 = 2000;

/// A machine's staleness is random: tries a few.
fn fails(program: &Program, geometry: Geometry, fault: Fault) -> bool {
    (0..64).any(|seed| outcomes(program, geometry, Some(fault), seed).1.failed())
}

#[test]
fn planted_faults_are_found_named_and_shrunk() {
    for (fault, rule, within) in PLANTED {
        let mut diagnosis = Diagnosis::default();
        let mut first = None;
        for seed in 0..DIAGNOSED {
            let program = generate::program(seed, &SPACE);
            let (expectations, outcomes) = outcomes(&program, geometry(seed), Some(fault), seed);
            diagnosis.add(&program, &expectations, &outcomes);
            if outcomes.failed() {
                first.get_or_insert((seed, program));
            }
        }
        assert_eq!(diagnosis.suspects().first(), Some(&rule), "{fault:?}: {diagnosis:?}");
        let (seed, program) = first.unwrap_or_else(|| panic!("{fault:?} was not found"));
        assert!(seed < within, "{fault:?} took {seed} programs");
        let geometry = geometry(seed);
        let small = shrink(&program, LIMITS, |program| fails(program, geometry, fault));
        assert!(small.steps.len() <= 8, "{fault:?}: {small:#?}");
        let failure = (0..64).map(|seed| outcomes(&small, geometry, Some(fault), seed).1).find(Outcomes::failed);
        let failure = failure.unwrap_or_else(|| panic!("{fault:?}: the smallest does not fail"));
        let suspects: Vec<_> = failure.forbidden().flat_map(|forbidden| &forbidden.suspects).map(|s| s.rule).collect();
        assert!(suspects.contains(&rule), "{fault:?}: {failure:?}");
        println!("{fault:?}: program {seed}, {} steps, suspects {suspects:?}", small.steps.len());
    }
}

#[test]
fn a_planted_failure_fails_again_from_its_file() {
    let (seed, program, geometry) = (0..)
        .map(|seed| (seed, generate::program(seed, &SPACE), geometry(seed)))
        .find(|(_, program, geometry)| fails(program, *geometry, Fault::HostNoInvalidate))
        .expect("one of many");
    let program = shrink(&program, LIMITS, |program| fails(program, geometry, Fault::HostNoInvalidate));
    let replay = Replay { failed: "K2".into(), seed: Some(seed), backing: None, program };
    let again = Replay::parse("failed.toml", &replay.to_toml(), LIMITS).expect("what was just written");
    assert_eq!(again, replay);
    assert!(fails(&again.program, geometry, Fault::HostNoInvalidate));
    assert!((0..64).all(|seed| !outcomes(&again.program, geometry, None, seed).1.failed()));
}

const SPAN: Span = Span { start: 0, stride: 64, count: 2 };

fn steps(acts: &[Act]) -> Program {
    Program { vcpus: 1, steps: acts.iter().map(|&act| Step { vcpu: 0, act }).collect() }
}

/// Runs a program on many correct machines and counts what the last step saw: newest, weak, anything worse.
fn histogram(program: &Program, geometry: Geometry) -> (u64, u64, u64) {
    let mut seen = (0, 0, 0);
    for seed in 0..500 {
        let (_, outcomes) = outcomes(program, geometry, None, seed);
        let last = outcomes.steps.last().expect("a step that looks");
        seen.0 += last.newest + last.required;
        seen.1 += last.weak.iter().sum::<u64>();
        seen.2 += last.unpredictable + last.unjudged + last.forbidden.len() as u64;
    }
    seen
}

#[test]
fn what_the_guest_leaves_out_is_weak_and_no_fault() {
    const FETCH: Act = Act::Fetch { span: SPAN };
    const WRITE: Act = Act::Write { span: SPAN, generation: 1 };
    const CLEAN: Act = Act::CleanD { span: SPAN, to: Clean::Pou };
    const INVAL: Act = Act::InvalI { span: SPAN };
    const DSB: Act = Act::Barrier { barrier: Barrier::DsbIsh };
    let rewrite = Act::Event { event: Event::Rewrite, span: SPAN, generation: 1 };
    let neither = GEOMETRIES[0];
    let leaves_out: [&[Act]; 4] = [
        &[FETCH, WRITE, CLEAN, DSB, FETCH],
        &[FETCH, WRITE, DSB, INVAL, DSB, FETCH],
        &[FETCH, rewrite, FETCH],
        &[FETCH, WRITE, Act::Event { event: Event::DirtyLogOn, span: SPAN, generation: 0 }, FETCH],
    ];
    for acts in leaves_out {
        let (newest, weak, worse) = histogram(&steps(acts), neither);
        assert!(newest > 0 && weak > 0 && worse == 0, "{acts:?}: {newest} {weak} {worse}");
    }
    let whole: [&[Act]; 2] = [
        &[FETCH, WRITE, CLEAN, DSB, INVAL, DSB, FETCH],
        &[FETCH, rewrite, Act::Event { event: Event::Unmap, span: SPAN, generation: 0 }, FETCH],
    ];
    for acts in whole {
        assert_eq!(histogram(&steps(acts), neither), (1000, 0, 0), "{acts:?}");
    }
}

/// More than an op lists of them; of loads it would be too little to judge by.
#[test]
fn many_stale_fetches_are_as_open_as_few() {
    let span = Span { count: 4 * MISMATCH_CAP, ..SPAN };
    let acts = [Act::Fetch { span }, Act::Write { span, generation: 1 }, Act::Fetch { span }];
    let stale = |seed| {
        let (_, outcomes) = outcomes(&steps(&acts), GEOMETRIES[0], None, seed);
        assert!(!outcomes.failed() && outcomes.total(|step| step.unjudged) == 0);
        outcomes.total(|step| step.unlisted)
    };
    assert!((0..20).any(|seed| stale(seed) > 0), "no machine saw that many");
}

#[test]
fn something_is_required_on_every_kind_of_machine() {
    for geometry in GEOMETRIES {
        let mut looks: BTreeMap<&str, u64> = BTreeMap::new();
        for seed in 0..2000 {
            for (_, slots, expected) in expect(&generate::program(seed, &SPACE), &geometry).looks() {
                *looks.entry(kind(expected)).or_default() += slots;
            }
        }
        let all: u64 = looks.values().sum();
        let share = |kind| looks.get(kind).copied().unwrap_or(0) * 100 / all;
        println!("{geometry:?}: {looks:?}");
        assert!(share("required after a change") >= 20, "{geometry:?}: {looks:?}");
    }
}

fn kind(expected: &Expected) -> &'static str {
    match expected {
        // Of generation 0 nothing older can be seen: requiring it proves that nothing was lost, and no more.
        Expected::Required(0) => "required unchanged",
        Expected::Required(_) => "required after a change",
        Expected::Allowed { .. } => "weak",
        Expected::Skipped => "skipped",
    }
}
