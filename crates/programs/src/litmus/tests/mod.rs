//! The tests as published, and their code on a machine that runs one instruction at a time.

mod machine;

use std::collections::BTreeSet;

use abi::OpCode;

use crate::litmus::compile::Ring;
use crate::litmus::event::Across;
use crate::litmus::layout::{Alignment, PAGE_BYTES, Placed, Rings, Room, place};
use crate::litmus::races::Case;
use crate::litmus::test::{Code, Ruling, Shape, Variant};
use crate::litmus::{Test, tests};
use guest::spec::Backing;
use machine::{Fetches, Machine, Thread};

/// Name, published verdicts for DIC0-IDC0, DIC0-IDC1 and DIC1-IDC1, and the outcome of interest. `A` allowed, `F`
/// forbidden, `-` not published.
const PUBLISHED: &str = "
CoFF                                    A--  1:f=1 1:f'=0
CoFR                                    FFF  1:f=1 1:[f]=0
CoRF+ctrl-isb                           A--  1:[f]=1 1:f=0
SM                                      A--  0:f=0
SM+cachesync-isb                        FFF  0:f=0
MP.RF+dmb+ctrl-isb                      A--  1:x=1 1:f=0
MP.RF+cachesync+ctrl-isb                FFF  1:x=1 1:f=0
MP.FR+dmb+fpo-fe                        FFF  1:f=1 1:x=0
MP.FF+dmb+fpo                           A--  1:g=1 1:f=0
MP.FF+cachesync+fpo                     FFF  1:g=1 1:f=0
ISA2.F+dc+ic+ctrl-isb                   FFF  1:x=1 2:y=1 2:f=0
SM.F+ic                                 A--  1:f=1 0:x=1 0:f=0
FOW                                     A--  1:x=1 1:f=1 2:x=1 2:f=0
MP.RF+dc+ctrl-isb-isb                   A--  1:x=1 1:f=2 1:f'=1 1:f''=0
MP.R.RF+addr-cachesync+dmb+ctrl-isb     FFF  0:y=1 1:[f]=1 2:x=1 2:f≠2
MP.RF+dmb+addr-cachesync                A--  1:x=1 1:f=0
SM.B+isb                                AAA  0:f=0
SM.B+dsb.ish                            AAA  0:f=0
SM.B+dsb.ish-isb                        AAF  0:f=0
SM.B+dc.cvau-dsb.ish-isb                AAF  0:f=0
SM.B+dsb.ish-ic.ivau-dsb.ish-isb        AFF  0:f=0
SM.B+badcachesync-isb                   AFF  0:f=0
SM.B+cachesync-isb                      FFF  0:f=0
SM.B+dc.cvau-dsb.ish-ic.vau-dsb.ish     FFF  0:f=0
SM.BLR+cachesync-isb                    FFF  0:f=0
2SM.B+dsb.ish-ic.vau-dsb.ish            AFF  1:[f]=1 1:f=0
2SM.B+cachesync-isb                     FFF  1:[f]=1 1:f=0
S.RF-dsb-iccvau-dsb-isb                 AFF  1:[f]=1 1:f=0
coFW-1                                  FFF  0:f=1
coFW-2                                  FFF  0:f=1
coFF                                    AAF  1:f=1 1:f'=0
coFF+cachesync                          FFF  1:f=2 1:f'=0
MP.RF+dc-dsb-ic-dsb+addr                AAA  1:x=1 1:f=0
MP.RF+cachesync+switch-ctrl             AAA  1:f=1
MP.RF+dmb.st+ctrlisb                    AAF  1:x=1 1:f=0
MP.RF+dmb.st+dsb.ish-isb                AAF  1:x=1 1:f=0
MP.RF+dmb.st+ctrlisb-ic-dsb-isb         AFF  1:x=1 1:f=0
MP.RF+dsb-ic-dsb+ctrlisb                AFF  1:x=1 1:f=0
MP.RF+dmb.st+dmb.ld-dc-dsb-ic-dsb-isb   AFF  1:x=1 1:f=0
MP.RF+cachesync+ctrlisb                 FFF  1:x=1 1:f=0
MP.RF+cachesync+dsb-isb                 FFF  1:x=1 1:f=0
MP.RF+dc-dsb+ctrlisb-ic-dsb-isb         FFF  1:x=1 1:f=0
dcc2                                    FFF  1:x=1 1:f=0
icc2                                    FFF  1:x=1 1:f=0
MP.FF+dmb.st+po                         AAF  1:g=1 1:f=0
MP.FF+dsb.ish+po                        AAF  1:g=1 1:f=0
MP.FF+dc.cvau-dsb.ish+po                AAF  1:g=1 1:f=0
MP.FF+dmb.st+cachesync                  AAF  1:g=1 1:f=0
MP.FF+dmb.st+ic-dsb-isb                 AFF  1:g=1 1:f=0
MP.FF+dmb.st+cachesync-isb              FFF  1:g=1 1:f=0
MP.FR+dmb.st+ctrlisb                    FFF  1:f=1 1:x=0
MP.FR+dmb.st+isb                        FFF  1:f=1 1:x=0
MP.FR+dmb.st+po                         FFF  1:f=1 1:x=0
MP.FR+dsb.ish+cachesync                 FFF  1:f=1 1:x=0
MP.FR+dsb.ish+dsb.ish                   FFF  1:f=1 1:x=0
MP.FR+dsb.ish+po                        FFF  1:f=1 1:x=0
MP.FW+dmb.st+po                         FFF  1:f=1 x=1
WRC-inst                                AAF  1:f=1 2:x=1 2:f=0
WRC-inst+ctrlisb                        AAF  1:f=1 2:x=1 2:f=0
WRC-inst+dsb.ish                        AAA  1:f=1 2:x=1 2:f=0
WRC-inst+dsb.ish-isb                    AAF  1:f=1 2:x=1 2:f=0
WRC-inst+cachesync+ctrlisb              AAF  1:f=1 2:x=1 2:f=0
WRC-inst+po+dsb-iccvau-dsb-isb          AFF  1:f=1 2:x=1 2:f=0
dcc3                                    FFF  1:x=1 1:f=1 2:y=1 2:f=0
icc3                                    FFF  1:x=1 1:f=1 2:y=1 2:f=0
SB.RF+dmb+dmb.st-cachesync-isb          AFF  0:x=0 1:f=0
SB-bnop-cachesyncs1-reordered           AAF  0:g=0 1:f=0
";

#[test]
fn verdicts_and_conditions_are_the_published_ones() {
    let letter = |ruling: Ruling| match ruling {
        Ruling::Allowed => 'A',
        Ruling::Forbidden => 'F',
        Ruling::Unpublished => '-',
    };
    let ours: Vec<_> = tests()
        .map(|test| {
            let rulings: String = test.rulings.into_iter().map(letter).collect();
            format!("{:<40}{rulings}  {}", test.name, test.condition())
        })
        .collect();
    assert_eq!(ours.join("\n"), PUBLISHED.trim());
    let variants = [(false, false), (true, false), (true, true), (false, true)].map(|(idc, dic)| Variant::of(idc, dic));
    assert_eq!(variants, [Variant::Neither, Variant::Idc, Variant::IdcDic, Variant::Neither]);
    let test = tests().find(|test| test.name == "S.RF-dsb-iccvau-dsb-isb").expect("it is there");
    assert_eq!(variants.map(|variant| letter(test.ruling(variant))), ['A', 'F', 'F', 'A']);
}

/// Every outcome that has all terms, and no other.
#[test]
fn conditions_are_met_by_nothing_else() {
    for test in tests() {
        let terms = test.condition();
        for outcome in 0..256_u64 {
            let values = test.describe(outcome);
            let has = |term: &str| match term.split_once('≠') {
                Some((name, value)) => !values.split(' ').any(|v| v == format!("{name}={value}")),
                None => values.split(' ').any(|v| v == term),
            };
            assert_eq!(test.is_met(outcome), terms.split(' ').all(has), "{} {values}", test.name);
        }
    }
}

fn room(alignment: Alignment) -> Room {
    Room { code: 1 << 32, data: 2 << 32, alignment, line_bytes: 64 }
}

/// Every outcome of many interleavings.
fn outcomes(test: &Test, placed: &Placed, fetches: Fetches) -> BTreeSet<u64> {
    let fresh = Machine::new(placed, fetches);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut seen = BTreeSet::new();
    for _ in 0..400 {
        let mut machine = fresh.clone();
        let bodies = &placed.setup.bodies[..test.threads.len()];
        let mut threads: Vec<_> = bodies.iter().map(|body| Thread::at(*body)).collect();
        while threads.iter().any(|thread| !thread.is_done()) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Long runs of one thread as well as single steps.
            let (chosen, steps) = (random as usize % threads.len(), 1 + (random >> 32) % (1 << ((random >> 40) % 6)));
            for _ in 0..steps {
                if !threads[chosen].is_done() {
                    machine.step(&mut threads[chosen]);
                }
            }
        }
        let last = if placed.setup.finish == 0 { 0 } else { machine.call(placed.setup.finish) };
        seen.insert(threads.iter().fold(last, |outcome, thread| outcome | thread.result()));
    }
    seen
}

/// On a machine on which fetches see what was written last, in program order, no outcome of interest comes; but more than
/// one outcome does, where threads race.
#[test]
fn nothing_weak_comes_of_a_strong_machine() {
    for test in tests() {
        for alignment in [Alignment::Lines, Alignment::LineEnds, Alignment::Packed, Alignment::Pages] {
            let placed = place(test, room(alignment), &Rings::default());
            let seen = outcomes(test, &placed, Fetches::Coherent);
            let described: Vec<_> = seen.iter().map(|outcome| test.describe(*outcome)).collect();
            assert!(!seen.iter().any(|outcome| test.is_met(*outcome)), "{}: {described:?}", test.name);
            assert!(seen.len() > 1 || test.threads.len() == 1, "{}: {described:?}", test.name);
        }
    }
}

/// On a machine that never sees new code, every outcome of interest with nothing but old instructions comes.
#[test]
fn old_instructions_meet_the_conditions() {
    let mut met = 0;
    for test in tests() {
        let placed = place(test, room(Alignment::Lines), &Rings::default());
        let seen = outcomes(test, &placed, Fetches::Stale);
        let condition = test.condition();
        // Both values that SB-bnop and SM observe, and what others observe besides the flag, are old.
        let new_code = ["f=1", "f=2", "g=1", "f≠2"].iter().any(|new| condition.contains(new))
            && !condition.contains("[f]=1 1:f=0");
        let switch = test.shape(Code::F) == Some(Shape::Switch);
        let possible = (!new_code || switch) && !test.name.starts_with("MP.R.RF");
        let described: Vec<_> = seen.iter().map(|outcome| test.describe(*outcome)).collect();
        assert_eq!(seen.iter().any(|outcome| test.is_met(*outcome)), possible, "{}: {described:?}", test.name);
        met += usize::from(possible);
    }
    assert!(met > 25, "{met}");
}

#[test]
fn alignments_are_what_they_say() {
    for test in tests() {
        let changed = |alignment| place(test, room(alignment), &Rings::default()).addresses.code;
        let used = |code: &Code| test.shape(*code).is_some();
        // A thread with two changed instructions has one of them aligned.
        let aligned = |addresses: [u64; 2], remainder: u64, modulus: u64| {
            Code::ALL.into_iter().filter(used).any(|code| addresses[code as usize] % modulus == remainder)
        };
        assert!(aligned(changed(Alignment::LineEnds), 60, 64), "{}", test.name);
        assert!(aligned(changed(Alignment::Pages), 0, PAGE_BYTES), "{}", test.name);
    }
}

fn case(test: &Test, across: Across, vcpus: u64) -> Case<'_> {
    Case {
        test,
        across,
        vcpus,
        iterations: 100,
        limit_ticks: 0,
        seed: 1,
        traced: true,
        line_bytes: 64,
        backing: Backing::Pages,
        doorbell: 0x0a00_0000,
    }
}

#[test]
fn guests_are_sound() {
    for test in tests() {
        for across in Across::ALL {
            let case = case(test, across, 4);
            let spec = case.guest();
            assert_eq!(spec.programs.len() as u64, case.racing_vcpus());
            assert_eq!(spec.regions[0].bytes, case.code_bytes());
            let mut ends: Vec<_> = spec
                .contents
                .iter()
                .map(|contents| (contents.ipa, contents.ipa + contents.bytes.len() as u64))
                .collect();
            ends.sort_unstable();
            assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{} overlaps", test.name);
            let inside = |(start, end): &(u64, u64)| {
                spec.regions.iter().any(|region| {
                    (region.ipa..region.ipa + region.bytes).contains(start) && *end <= region.ipa + region.bytes
                })
            };
            assert!(ends.iter().all(inside), "{}", test.name);
            // Behind the program's end stand the events that code rings for, and nowhere else.
            let program = &spec.programs[0];
            let end = program.iter().position(|op| *op == abi::Op::end()).expect("programs end");
            let events = program[end + 1..].iter().filter(|op| op.code == OpCode::Event as u16).count();
            assert_eq!((events as u64, program.len() - end - 1), (across.events(), events));
        }
    }
}

/// The doorbell is rung in the order of the ops, the last time behind the first write.
#[test]
fn code_rings_for_its_events() {
    let ring = |value| Ring { doorbell: 0x0a00_0000, value };
    let rings = Rings { before: vec![ring(7), ring(8)], after: vec![ring(9)], during: Some(ring(10)) };
    let test = tests().find(|test| test.name == "MP.RF+dmb.st+ctrlisb").expect("it is there");
    let placed = place(test, room(Alignment::Pages), &rings);
    assert_eq!(placed.setup.prime, 0);
    let mut machine = Machine::new(&placed, Fetches::Coherent);
    assert_eq!(machine.peek(0x0a00_0000), 9);
    let mut writer = Thread::at(placed.setup.bodies[0]);
    let f = placed.addresses.code[Code::F as usize];
    let old = machine.peek(f);
    while machine.peek(0x0a00_0000) != 10 {
        machine.step(&mut writer);
    }
    assert_ne!(machine.peek(f), old);
    assert_eq!(machine.peek(placed.addresses.data[0]), 0, "the flag comes later");
}
