//! Tests of the litmus tests: their published verdicts, and their code on a machine that executes one instruction at a
//! time.

mod machine;

use std::collections::BTreeSet;

use abi::OpCode;

use crate::litmus::compile::{DoorbellWrite, DoorbellWrites};
use crate::litmus::event::RaceEvent;
use crate::litmus::layout::{Alignment, PAGE_BYTES, Placed, Placement, place};
use crate::litmus::races::Case;
use crate::litmus::test::{Code, MachineClass, Position, Published};
use crate::litmus::{Test, tests};
use guest::spec::Backing;
use machine::{Fetches, Machine, Thread};

/// Names, published verdicts for DIC0-IDC0, DIC0-IDC1 and DIC1-IDC1, and outcomes of interest. `A` means allowed, `F`
/// means forbidden, and `-` means not published.
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
    let letter = |published: Published| match published {
        Published::Allowed => 'A',
        Published::Forbidden => 'F',
        Published::Unpublished => '-',
    };
    let ours: Vec<_> = tests()
        .map(|test| {
            let verdicts: String = test.published.into_iter().map(letter).collect();
            format!("{:<40}{verdicts}  {}", test.name, test.condition())
        })
        .collect();
    assert_eq!(ours.join("\n"), PUBLISHED.trim());
    let classes =
        [(false, false), (true, false), (true, true), (false, true)].map(|(idc, dic)| MachineClass::of(idc, dic));
    let wanted = [MachineClass::Neither, MachineClass::Idc, MachineClass::IdcDic, MachineClass::Neither];
    assert_eq!(classes, wanted);
    let test = tests().find(|test| test.name == "S.RF-dsb-iccvau-dsb-isb").expect("it is there");
    assert_eq!(classes.map(|class| letter(test.published_for(class))), ['A', 'F', 'F', 'A']);
}

/// An outcome meets the condition if and only if it has all terms of the condition.
#[test]
fn outcomes_meet_a_condition_only_with_all_its_terms() {
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

fn placement(alignment: Alignment) -> Placement {
    Placement { code: 1 << 32, data: 2 << 32, alignment, line_bytes: 64 }
}

/// Returns the outcomes of many interleavings.
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
            // A thread executes one instruction or many before the next thread is chosen.
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

/// On a machine on which fetches see the last write, in program order, no outcome of interest occurs. If threads race,
/// more than one outcome occurs.
#[test]
fn a_strong_machine_has_no_outcome_of_interest() {
    for test in tests() {
        for alignment in [Alignment::Lines, Alignment::LineEnds, Alignment::Packed, Alignment::Pages] {
            let placed = place(test, placement(alignment), &DoorbellWrites::default());
            let seen = outcomes(test, &placed, Fetches::Coherent);
            let described: Vec<_> = seen.iter().map(|outcome| test.describe(*outcome)).collect();
            assert!(!seen.iter().any(|outcome| test.is_met(*outcome)), "{}: {described:?}", test.name);
            assert!(seen.len() > 1 || test.threads.len() == 1, "{}: {described:?}", test.name);
        }
    }
}

/// On a machine whose fetches never see new code, every outcome of interest occurs that needs only old instructions.
#[test]
fn old_instructions_meet_the_conditions() {
    let mut met = 0;
    for test in tests() {
        let placed = place(test, placement(Alignment::Lines), &DoorbellWrites::default());
        let seen = outcomes(test, &placed, Fetches::Stale);
        let condition = test.condition();
        // An outcome of interest is possible if all its fetched versions are old.
        let new_code = ["f=1", "f=2", "g=1", "f≠2"].iter().any(|new| condition.contains(new))
            && !condition.contains("[f]=1 1:f=0");
        let switch = test.position(Code::F) == Some(Position::Switch);
        let possible = (!new_code || switch) && !test.name.starts_with("MP.R.RF");
        let described: Vec<_> = seen.iter().map(|outcome| test.describe(*outcome)).collect();
        assert_eq!(seen.iter().any(|outcome| test.is_met(*outcome)), possible, "{}: {described:?}", test.name);
        met += usize::from(possible);
    }
    assert!(met > 25, "{met}");
}

#[test]
fn code_has_the_alignment_that_was_asked_for() {
    for test in tests() {
        let modified = |alignment| place(test, placement(alignment), &DoorbellWrites::default()).addresses.code;
        let used = |code: &Code| test.position(*code).is_some();
        // If a thread has two modified instructions, only one of them is aligned.
        let aligned = |addresses: [u64; 2], remainder: u64, modulus: u64| {
            Code::ALL.into_iter().filter(used).any(|code| addresses[code as usize] % modulus == remainder)
        };
        assert!(aligned(modified(Alignment::LineEnds), 60, 64), "{}", test.name);
        assert!(aligned(modified(Alignment::Pages), 0, PAGE_BYTES), "{}", test.name);
    }
}

fn case(test: &Test, event: RaceEvent, vcpus: u64) -> Case<'_> {
    Case {
        test,
        event,
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
fn contents_do_not_overlap_and_programs_have_their_events() {
    for test in tests() {
        for event in RaceEvent::ALL {
            let case = case(test, event, 4);
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
            // The event ops that the code asks for come after the program's end.
            let program = &spec.programs[0];
            let end = program.iter().position(|op| *op == abi::Op::end()).expect("programs end");
            let events = program[end + 1..].iter().filter(|op| op.code == OpCode::Event as u16).count();
            assert_eq!((events as u64, program.len() - end - 1), (event.host_events(), events));
        }
    }
}

/// The code writes the doorbell in the order of the ops. The last write comes after the first write of code.
#[test]
fn code_asks_for_its_events() {
    let write = |value| DoorbellWrite { address: 0x0a00_0000, value };
    let doorbell = DoorbellWrites {
        before_init: vec![write(7), write(8)],
        before_race: vec![write(9)],
        during_race: Some(write(10)),
    };
    let test = tests().find(|test| test.name == "MP.RF+dmb.st+ctrlisb").expect("it is there");
    let placed = place(test, placement(Alignment::Pages), &doorbell);
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
