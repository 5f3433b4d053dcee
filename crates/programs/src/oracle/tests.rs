//! Classical sequences. The expected results are from the Arm ARM, the litmus tests and KVM's maintainers.

use abi::op::Barrier;

use crate::oracle::*;
use crate::program::{Clean, Span};
use guest::event::Event;

const SPAN: Span = Span { start: 0, stride: 64, count: 1 };
const ALL: Span = Span { start: 0, stride: 64, count: 4 };

/// Machines without IDC and DIC, with IDC alone, and with both: the columns of the published litmus tests.
const COLUMNS: [CacheFeatures; 3] = [
    CacheFeatures { idc: false, dic: false, fwb: false },
    CacheFeatures { idc: true, dic: false, fwb: false },
    CacheFeatures { idc: true, dic: true, fwb: false },
];

fn write(vcpu: usize, generation: u16) -> ProgramOp {
    ProgramOp::new(vcpu, Action::Write { span: SPAN, generation })
}

fn clean(vcpu: usize, to: Clean) -> ProgramOp {
    ProgramOp::new(vcpu, Action::CleanD { span: SPAN, to })
}

fn inval(vcpu: usize) -> ProgramOp {
    ProgramOp::new(vcpu, Action::InvalI { span: SPAN })
}

fn dsb(vcpu: usize) -> ProgramOp {
    ProgramOp::new(vcpu, Action::Barrier { barrier: Barrier::DsbIsh })
}

fn fetch(vcpu: usize) -> ProgramOp {
    ProgramOp::new(vcpu, Action::Fetch { span: SPAN })
}

fn load(vcpu: usize, mode: LoadMode) -> ProgramOp {
    ProgramOp::new(vcpu, Action::Load { span: SPAN, mode })
}

fn event(vcpu: usize, event: Event, generation: u16) -> ProgramOp {
    ProgramOp::new(vcpu, Action::Event { event, span: SPAN, generation })
}

const MEET: ProgramOp = ProgramOp::MEET;

fn sync(vcpu: usize) -> Vec<ProgramOp> {
    vec![clean(vcpu, Clean::Pou), dsb(vcpu), inval(vcpu), dsb(vcpu)]
}

/// Returns the older generations that the last op may see, in each column.
fn older(ops: &[ProgramOp]) -> [Vec<u16>; 3] {
    let program = Program { vcpus: 3, ops: ops.to_vec() };
    COLUMNS.map(|features| match expect(&program, &features).at(ops.len() - 1, 0) {
        Some(Expected::Required(_)) => vec![],
        Some(Expected::Allowed { older, .. }) => older.clone(),
        other => panic!("{other:?}"),
    })
}

/// Returns F if old code is forbidden and A if it is allowed, for each column.
fn verdicts(ops: &[ProgramOp]) -> String {
    older(ops).map(|older| if older.is_empty() { 'F' } else { 'A' }).iter().collect()
}

#[test]
fn one_pe_with_all_maintenance_or_a_part() {
    let full = [vec![write(0, 1)], sync(0), vec![fetch(0)]].concat();
    assert_eq!(verdicts(&full), "FFF", "SM.B+cachesync-isb");
    assert_eq!(verdicts(&[write(0, 1), fetch(0)]), "AAF", "SM.B+dsb.ish-isb: the fetch's own fence");
    assert_eq!(verdicts(&[write(0, 1), clean(0, Clean::Pou), dsb(0), fetch(0)]), "AAF", "SM.B+dc.cvau-dsb.ish-isb");
    assert_eq!(verdicts(&[write(0, 1), dsb(0), inval(0), dsb(0), fetch(0)]), "AFF", "SM.B+dsb.ish-ic.ivau-dsb.ish-isb");
    let ic_first = [write(0, 1), inval(0), dsb(0), clean(0, Clean::Pou), dsb(0), fetch(0)];
    assert_eq!(verdicts(&ic_first), "AFF", "SM.B+badcachesync-isb");
    let no_dsb_between = [write(0, 1), clean(0, Clean::Pou), inval(0), dsb(0), fetch(0)];
    assert_eq!(verdicts(&no_dsb_between), "AFF", "the invalidation may refill before the clean is done");
    let dmb = ProgramOp::new(0, Action::Barrier { barrier: Barrier::DmbIsh });
    assert_eq!(verdicts(&[write(0, 1), clean(0, Clean::Pou), dmb, inval(0), dsb(0), fetch(0)]), "AFF", "DMB is no DSB");
    let deeper = [write(0, 1), clean(0, Clean::PocInvalidate), dsb(0), inval(0), dsb(0), fetch(0)];
    assert_eq!(verdicts(&deeper), "FFF", "clean to the PoC passes the PoU");
    let all = ProgramOp::new(0, Action::InvalIAll);
    assert_eq!(verdicts(&[write(0, 1), clean(0, Clean::Pou), dsb(0), all, dsb(0), fetch(0)]), "FFF");
}

#[test]
fn barriers_that_the_fence_of_a_fetch_contains() {
    // This test calls the model itself, without that fence.
    let run = |barriers: &dyn Fn(&mut Model)| {
        COLUMNS.map(|features| {
            let mut model = Model::new(features, 1, None);
            model.write(0, 1);
            barriers(&mut model);
            if model.fetch(0).older.is_empty() { 'F' } else { 'A' }
        })
    };
    assert_eq!(run(&|m| m.isb(0)), ['A', 'A', 'A'], "SM.B+isb");
    assert_eq!(run(&|m| m.dsb(0)), ['A', 'A', 'A'], "SM.B+dsb.ish");
    let sync = |m: &mut Model| {
        m.clean(0, Clean::Pou);
        m.dsb(0);
        m.invalidate(0, Rule::Invalidate);
        m.dsb(0);
    };
    assert_eq!(run(&|m| sync(m)), ['A', 'A', 'A'], "no ISB");
    let isb_too_early = |m: &mut Model| {
        m.clean(0, Clean::Pou);
        m.dsb(0);
        m.invalidate(0, Rule::Invalidate);
        m.isb(0);
        m.dsb(0);
    };
    assert_eq!(run(&isb_too_early), ['A', 'A', 'F'], "an ISB before the invalidation is done; DIC needs none");
    let all = |m: &mut Model| {
        sync(m);
        m.isb(0);
    };
    assert_eq!(run(&all), ['F', 'F', 'F']);
}

#[test]
fn one_vcpu_synchronises_and_another_fetches() {
    let full = [vec![write(0, 1)], sync(0), vec![MEET, fetch(1)]].concat();
    assert_eq!(verdicts(&full), "FFF", "MP.RF+cachesync+ctrlisb");
    assert_eq!(verdicts(&[write(0, 1), MEET, fetch(1)]), "AAF", "MP.RF+dmb.st+ctrlisb");
    let three = [write(0, 1), clean(0, Clean::Pou), dsb(0), MEET, inval(1), dsb(1), MEET, fetch(2)];
    assert_eq!(verdicts(&three), "FFF", "ISA2.F+dc+ic+ctrl-isb");
    let ic_unfinished = [write(0, 1), clean(0, Clean::Pou), dsb(0), inval(0), MEET, dsb(1), fetch(1)];
    assert_eq!(verdicts(&ic_unfinished), "AAF", "only the issuer's DSB completes it");
    let by_the_fetcher = [vec![write(0, 1), MEET], sync(1), vec![fetch(1)]].concat();
    assert_eq!(verdicts(&by_the_fetcher), "FFF", "MP.RF+dmb.st+dmb.ld-dc-dsb-ic-dsb-isb, and stronger");
}

#[test]
fn a_vcpu_does_not_rely_on_ops_that_no_meeting_orders() {
    let unordered = [write(0, 1), MEET, clean(0, Clean::Pou), dsb(0), inval(1), dsb(1), MEET, fetch(2)];
    assert_eq!(verdicts(&unordered), "AFF", "the clean may come after the invalidation");
}

#[test]
fn maintenance_removes_only_the_generations_before_it() {
    let two = [vec![write(0, 1)], sync(0), vec![write(0, 2), write(0, 3), fetch(0)]].concat();
    assert_eq!(older(&two), [vec![2, 1], vec![2, 1], vec![]]);
    let back = [write(0, 1), write(0, 0), fetch(0)];
    assert_eq!(older(&back), [vec![1], vec![1], vec![]], "a generation that was written again is the newest");
}

#[test]
fn cacheable_loads_are_coherent_and_other_loads_see_the_poc() {
    assert_eq!(verdicts(&[write(0, 1), load(0, LoadMode::Cacheable)]), "FFF");
    assert_eq!(verdicts(&[write(0, 1), MEET, load(1, LoadMode::Cacheable)]), "FFF");
    assert_eq!(verdicts(&[write(0, 1), load(0, LoadMode::NonCacheable)]), "AAA");
    assert_eq!(verdicts(&[write(0, 1), clean(0, Clean::Pou), dsb(0), load(0, LoadMode::CachesOff)]), "AAA");
    assert_eq!(verdicts(&[write(0, 1), clean(0, Clean::Poc), dsb(0), load(0, LoadMode::CachesOff)]), "FFF");
    assert_eq!(verdicts(&[write(0, 1), clean(0, Clean::Poc), dsb(0), MEET, load(1, LoadMode::NonCacheable)]), "FFF");
    let program =
        Program { vcpus: 1, ops: vec![write(0, 1), load(0, LoadMode::NonCacheable), load(0, LoadMode::Cacheable)] };
    let forced = expect(&program, &CacheFeatures { fwb: true, ..COLUMNS[1] });
    assert_eq!((forced.at(1, 0), forced.at(2, 0)), (Some(&Expected::Skipped), Some(&Expected::Required(1))));
}

#[test]
fn kvm_promises_host_writes_across_an_unmap_and_nothing_else() {
    assert_eq!(verdicts(&[event(0, Event::Rewrite, 1), fetch(0)]), "AAF", "no unmap, no promise");
    assert_eq!(verdicts(&[event(0, Event::SecondVm, 1), fetch(0)]), "AAF");
    assert_eq!(verdicts(&[event(0, Event::Rewrite, 1), load(0, LoadMode::Cacheable)]), "FFF");
    let unmapped = [event(0, Event::Rewrite, 1), event(0, Event::Unmap, 0), MEET, fetch(1)];
    assert_eq!(verdicts(&unmapped), "FFF");
    let looked = [event(0, Event::Rewrite, 1), event(0, Event::SlotMove, 0), load(0, LoadMode::NonCacheable)];
    assert_eq!(verdicts(&looked), "FFF");
    for copied in [Event::Discard, Event::Remap, Event::CopyOnWrite, Event::Userfault] {
        assert_eq!(verdicts(&[event(0, copied, 1), fetch(0)]), "FFF", "{copied:?}");
    }
    assert_eq!(verdicts(&[write(0, 1), event(0, Event::Unmap, 0), fetch(0)]), "AAF", "the guest's own duty");
    assert_eq!(verdicts(&[write(0, 1), event(0, Event::Migrate, 0), fetch(0)]), "FFF", "the host has copied it");
    let kept = [event(0, Event::Rewrite, 1), event(0, Event::DirtyLogOn, 0), event(0, Event::MoveVcpu, 0), fetch(0)];
    assert_eq!(verdicts(&kept), "AAF");
    let own = [vec![event(0, Event::Rewrite, 1)], sync(0), vec![fetch(0)]].concat();
    assert_eq!(verdicts(&own), "FFF", "the guest's own maintenance has the same effect");
    let later = [event(0, Event::Discard, 1), write(0, 2), event(0, Event::Unmap, 0), fetch(0)];
    assert_eq!(older(&later), [vec![1], vec![1], vec![]], "the host's write hides the generations before it");
}

#[test]
fn expectations_follow_the_history_of_each_slot() {
    let ops = [vec![write(0, 1)], sync(0), vec![ProgramOp::new(0, Action::Fetch { span: ALL })]].concat();
    let last = ops.len() - 1;
    let expected = expect(&Program { vcpus: 1, ops }, &COLUMNS[0]);
    assert_eq!(expected.at(last, 0), Some(&Expected::Required(1)));
    assert_eq!(expected.at(last, 192), Some(&Expected::Required(0)));
    assert_eq!((expected.at(last, 256), expected.at(0, 0)), (None, None));
    assert_eq!(expected.looks().map(|(_, slots, _)| slots).sum::<u64>(), 4);
}

#[test]
fn each_rule_forbids_something() {
    let migrated = [write(0, 1), event(0, Event::Migrate, 0), fetch(0)];
    let by_all = ProgramOp::new(0, Action::InvalIAll);
    let programs: [(Rule, &[ProgramOp], usize); 10] = [
        (Rule::HostClean, &[event(0, Event::Discard, 1), load(0, LoadMode::NonCacheable)], 0),
        (Rule::HostInvalidate, &[event(0, Event::Discard, 1), fetch(0)], 1),
        (Rule::HostInvalidate, &migrated, 0),
        (Rule::OldFramesGone, &[event(0, Event::Discard, 1), load(0, LoadMode::Cacheable)], 2),
        (Rule::Coherent, &[write(0, 1), load(0, LoadMode::Cacheable)], 2),
        (Rule::Clean, &[write(0, 1), clean(0, Clean::Poc), dsb(0), load(0, LoadMode::CachesOff)], 0),
        (Rule::Invalidate, &[write(0, 1), inval(0), dsb(0), fetch(0)], 1),
        (Rule::InvalidateAll, &[write(0, 1), by_all, dsb(0), fetch(0)], 1),
        (Rule::Broadcast, &[write(0, 1), inval(0), dsb(0), MEET, fetch(1)], 1),
        (Rule::Dic, &[write(0, 1), fetch(0)], 2),
    ];
    let possible = |ops: &[ProgramOp], column: usize, without| {
        let program = Program { vcpus: 2, ops: ops.to_vec() };
        let mut last = Possible { newest: 0, older: vec![], anything: false };
        walk(&program, &Slots::of(&program), &COLUMNS[column], without, |_, _, look| last = look.possible());
        last
    };
    for (rule, ops, column) in programs {
        assert!(possible(ops, column, None).older.is_empty(), "{rule:?}");
        assert_eq!(possible(ops, column, Some(rule)).older, [0], "{rule:?}");
    }
    assert_eq!(possible(&[write(0, 1), fetch(0)], 2, Some(Rule::Idc)).older, [0]);
    assert_eq!(possible(&[write(0, 1), fetch(0)], 2, Some(Rule::Synchronise)).older, [0]);
    assert!(possible(&[event(0, Event::Unmap, 0), fetch(0)], 0, Some(Rule::ContentsKept)).anything);
}
