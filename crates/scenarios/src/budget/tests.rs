use guest::event::{Event, RoundEvent};
use hostfacts::trace::{GuestFault, Maintenance, Step};
use record::budget::Budget;
use record::maintenance::{Access, FaultKind};

use crate::budget::marks::{HostMark, Marked};
use crate::budget::monitor::{Monitor, Surroundings};
use crate::budget::rules::Rule;

const BASE: u64 = 0x8000_0000;
const VA: u64 = 0x7f00_0000_0000;
const TRANSLATION: FaultKind = FaultKind::Translation;
const PERMISSION: FaultKind = FaultKind::Permission;

/// Kind of an access: fetch, write, read.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Fetch,
    Write,
    Read,
}
use Of::{Fetch, Read, Write};

fn fault(vcpu: u64, of: Of, kind: FaultKind, level: u8, page: u64) -> Step {
    let access = if of == Fetch { Access::Fetch } else { Access::Data };
    let (ipa, pid) = (BASE + page * 4096, 100 + vcpu as u32);
    Step::Fault(GuestFault { ts_ns: 0, pid, ipa, kind, level, access, write: of == Write })
}

fn call(vcpu: u64) -> Maintenance {
    Maintenance { ts_ns: 0, duration_ns: 1, size: 4096, pid: 100 + vcpu as u32 }
}

fn event(event: Event) -> [Step; 2] {
    HostMark::around(Marked::Event(event), 0).map(|mark| Step::Mark(mark.text()))
}

/// Steps of one MMU notifier for this many pages.
fn unmap(page: u64, pages: u64) -> Step {
    Step::Unmap(VA + page * 4096..VA + (page + pages) * 4096)
}

fn surroundings(block_bytes: u64, is_hugetlb: bool) -> Surroundings {
    Surroundings {
        page_bytes: 4096,
        block_bytes,
        is_hugetlb,
        region: BASE..BASE + (4 << 20),
        host_va: Some(VA),
        threads: (0..4).map(|vcpu| (100 + vcpu, u64::from(vcpu))).collect(),
        ..Surroundings::default()
    }
}

fn judge(surroundings: Surroundings, steps: &[Step]) -> Budget {
    let mut monitor = Monitor::new(surroundings);
    monitor.push(steps);
    monitor.finish(0, None)
}

/// Returns the rules that the steps break on base pages.
fn on_pages(steps: &[Step]) -> Vec<String> {
    rules(&judge(surroundings(4096, false), steps))
}

/// Returns the rules that the steps break on hugetlb pages of 2 MiB.
fn on_blocks(steps: &[Step]) -> Vec<String> {
    rules(&judge(surroundings(2 << 20, true), steps))
}

fn rules(budget: &Budget) -> Vec<String> {
    budget.surplus.iter().map(|surplus| format!("{}×{}", surplus.count, surplus.rule)).collect()
}

#[test]
fn execution_lost_at_a_write_fault() {
    let mut steps: Vec<_> = (0..8).map(|page| fault(0, Fetch, TRANSLATION, 3, page)).collect();
    steps.extend(event(Event::DirtyLogOn));
    steps.extend((0..8).map(|page| fault(0, Write, PERMISSION, 3, page)));
    assert_eq!(on_pages(&steps), [""; 0], "dirty logging takes W");
    steps.extend((0..8).map(|page| fault(0, Fetch, PERMISSION, 3, page)));
    let budget = judge(surroundings(4096, false), &steps);
    let expected = "budget: 8 fetch permission faults after dirty-log-on, 0 needed: X was lost (B2; level 3, first at IPA 0x80000000)";
    assert_eq!((budget.failure().as_deref(), budget.faults), (Some(expected), 24));
}

#[test]
fn each_right_is_granted_once_for_each_vcpu() {
    let first =
        [fault(0, Read, TRANSLATION, 1, 0), fault(0, Write, PERMISSION, 3, 0), fault(0, Fetch, PERMISSION, 3, 0)];
    assert_eq!(on_pages(&first), [""; 0]);
    let again = |step: Step| on_pages(&[first.as_slice(), &[fault(0, Read, TRANSLATION, 3, 9), step]].concat());
    assert_eq!(again(fault(0, Read, TRANSLATION, 3, 0)), ["1×B1"]);
    assert_eq!(again(fault(0, Write, PERMISSION, 3, 0)), ["1×B3"]);
    assert_eq!(again(fault(0, Fetch, PERMISSION, 3, 0)), ["1×B2"]);
    assert_eq!(again(fault(0, Fetch, FaultKind::AccessFlag, 3, 0)), ["1×B5"]);
    assert_eq!(again(fault(1, Fetch, PERMISSION, 3, 0)), [""; 0], "another vCPU's TLB may hold the old entry");
    assert_eq!(again(fault(0, Fetch, TRANSLATION, 3, 1)), [""; 0]);
}

#[test]
fn a_notifier_takes_the_mapping() {
    let mapped = fault(0, Fetch, TRANSLATION, 3, 600);
    let other = fault(0, Fetch, TRANSLATION, 3, 0);
    assert_eq!(on_pages(&[mapped.clone(), other.clone(), mapped.clone()]), ["1×B1"]);
    assert_eq!(on_pages(&[mapped.clone(), other.clone(), unmap(600, 1), mapped.clone()]), [""; 0]);
    let elsewhere = [mapped.clone(), other.clone(), unmap(0, 1), other.clone(), fault(0, Fetch, TRANSLATION, 3, 1)];
    assert_eq!(on_pages(&[elsewhere.as_slice(), std::slice::from_ref(&mapped)].concat()), ["1×B1"]);
    let retried = [mapped.clone(), unmap(2000, 1), mapped.clone(), mapped.clone()];
    let budget = judge(surroundings(4096, false), &retried);
    assert_eq!((rules(&budget), budget.raced), (vec![], 2), "KVM tries again after any notifier");
    let aged = [mapped, Step::Age(VA..VA + (4 << 20)), fault(0, Fetch, FaultKind::AccessFlag, 3, 600)];
    assert_eq!(on_pages(&aged), [""; 0]);
}

#[test]
fn events_that_keep_the_mapping_cause_no_fault() {
    for (kept, expected) in [(Event::MoveVcpu, 1), (Event::Rewrite, 1), (Event::DirtyLogOn, 1), (Event::SlotDelete, 0)]
    {
        let mut steps = vec![fault(0, Fetch, TRANSLATION, 3, 0), fault(0, Fetch, TRANSLATION, 3, 1)];
        steps.extend(event(kept));
        steps.push(fault(0, Fetch, TRANSLATION, 3, 0));
        assert_eq!(on_pages(&steps).len(), expected, "{kept:?}");
    }
    let [begin, end] = HostMark::around(Marked::Round(RoundEvent::Unmap), 0).map(|mark| Step::Mark(mark.text()));
    let fetch = fault(0, Fetch, TRANSLATION, 3, 0);
    assert_eq!(on_pages(&[fetch.clone(), begin, end, fetch]), [""; 0]);
}

#[test]
fn a_block_is_split_only_under_dirty_logging() {
    let block = [fault(0, Write, TRANSLATION, 2, 0), fault(0, Fetch, PERMISSION, 2, 0)];
    assert_eq!(on_blocks(&block), [""; 0]);
    let split = |event: &[Step], step: Step| on_blocks(&[&block, event, &[step]].concat());
    assert_eq!(split(&[], fault(0, Read, TRANSLATION, 3, 7)), ["1×B4"]);
    assert_eq!(split(&event(Event::MoveVcpu), fault(0, Fetch, PERMISSION, 2, 9)), ["1×B2"]);
    let logging = event(Event::DirtyLogOn);
    let write = [&logging[..], &[fault(0, Write, PERMISSION, 2, 0)]].concat();
    assert_eq!(split(&write, fault(0, Read, TRANSLATION, 3, 7)), [""; 0]);
    assert_eq!(split(&write, fault(0, Fetch, PERMISSION, 3, 0)), [""; 0], "the new page has no X");
    assert_eq!(split(&logging, fault(0, Fetch, PERMISSION, 2, 0)), ["1×B2"]);
    let eager = Surroundings { eager_split: true, ..surroundings(2 << 20, true) };
    let after = |step| rules(&judge(eager.clone(), &[&block, &logging[..], &[step]].concat()));
    assert_eq!(after(fault(0, Write, PERMISSION, 3, 7)), [""; 0]);
    assert_eq!(after(fault(0, Fetch, PERMISSION, 3, 0)), ["1×B2"], "an eager split keeps X");
}

#[test]
fn a_collapse_has_the_rights_of_its_fault() {
    let mut steps = event(Event::DirtyLogOn).to_vec();
    steps.extend([fault(0, Fetch, TRANSLATION, 1, 0), fault(0, Write, PERMISSION, 3, 0)]);
    steps.extend(event(Event::DirtyLogOff));
    steps.push(fault(0, Write, TRANSLATION, 3, 1));
    steps.push(fault(0, Fetch, PERMISSION, 2, 0));
    assert_eq!(on_blocks(&steps), [""; 0]);
}

#[test]
fn races_explain_repeated_faults() {
    let fetch = |vcpu| fault(vcpu, Fetch, TRANSLATION, 2, 0);
    let budget = judge(surroundings(2 << 20, true), &[fetch(0), fetch(1), fetch(1), fetch(1)]);
    assert_eq!((rules(&budget), budget.raced), (vec![], 2), "vCPU 0 may have locked the entry");
    let alone = judge(surroundings(2 << 20, true), &[fetch(0), fetch(0)]);
    assert_eq!(rules(&alone), ["1×B1"]);
    let [begin, end] = event(Event::Unmap);
    let during = [fetch(1), begin, fetch(1), fetch(1), end, fetch(1)];
    assert_eq!(on_blocks(&during), [""; 0]);
    assert_eq!(on_blocks(&[&during[..], &[fetch(1)]].concat()), ["1×B1"]);
}

#[test]
fn a_vcpu_waits_for_one_that_faulted_before() {
    // The order of a real trace: vCPU 1 is still at work on page 9 when vCPU 0 comes there from another page.
    let of = |vcpu: u64, page: u64| fault(vcpu, Fetch, TRANSLATION, 3, page);
    assert_eq!(on_pages(&[of(1, 9), of(0, 1), of(0, 9), of(0, 9)]), [""; 0]);
    assert_eq!(on_pages(&[of(1, 8), of(0, 1), of(0, 9), of(0, 9)]), ["1×B1"]);
}

#[test]
fn a_fetch_loses_a_race_against_a_store() {
    // The order of a real trace of the smallest program: vCPU 1 fetches the page that vCPU 0 writes.
    let store = fault(0, Write, TRANSLATION, 3, 0);
    let fetch = [fault(1, Fetch, TRANSLATION, 3, 0), fault(1, Fetch, PERMISSION, 3, 0)];
    assert_eq!(on_pages(&[&[store], &fetch[..]].concat()), [""; 0]);
    assert_eq!(on_pages(&fetch), ["1×B2"]);
}

#[test]
fn other_memory_of_the_guest_is_not_judged() {
    let outside = |page: u64| fault(0, Write, TRANSLATION, 3, 0x10_0000 + page);
    let clean = Step::Dcache(call(0));
    let steps =
        [fault(0, Fetch, TRANSLATION, 3, 0), clean.clone(), outside(0), clean.clone(), outside(1), outside(1), clean];
    assert_eq!(on_pages(&steps), [""; 0]);
}

#[test]
fn maintenance_needs_a_fault() {
    let (i, d) = (Step::Icache(call(0)), Step::Dcache(call(0)));
    let fetch = fault(0, Fetch, TRANSLATION, 3, 0);
    let write = fault(0, Write, PERMISSION, 3, 0);
    assert_eq!(on_pages(&[i.clone(), fetch.clone(), d.clone(), i.clone(), write.clone()]), [""; 0]);
    assert_eq!(on_pages(&[fetch.clone(), i.clone(), i.clone()]), ["1×B6"]);
    assert_eq!(on_pages(&[fetch.clone(), write.clone(), i.clone()]), ["1×B6"], "each write fault invalidates");
    assert_eq!(on_pages(&[fetch, write, d.clone()]), ["1×B7"]);
    let copy =
        [fault(0, Fetch, TRANSLATION, 3, 0), fault(0, Write, PERMISSION, 3, 0), unmap(0, 1), d.clone(), d.clone()];
    assert_eq!(on_pages(&copy), [""; 0], "a write fault that breaks copy-on-write");
    let [begin, end] = event(Event::DirtyLogOn);
    assert_eq!(on_blocks(&[begin, end, fault(0, Write, PERMISSION, 2, 0), d]), [""; 0], "a split maps a page");
}

#[test]
fn a_gap_in_the_trace_leaves_it_unjudged() {
    let fetch = fault(0, Fetch, TRANSLATION, 3, 0);
    let unjudged = |surroundings, lost, gap| {
        let mut monitor = Monitor::new(surroundings);
        monitor.push(&[fetch.clone(), fetch.clone()]);
        let budget = monitor.finish(lost, gap);
        assert_eq!((budget.failure(), budget.faults), (None, 0));
        budget.unjudged.expect("a reason")
    };
    let complete = surroundings(4096, false);
    assert_eq!(unjudged(complete.clone(), 9, None), "9 trace records were lost");
    assert_eq!(unjudged(complete.clone(), 0, Some("no trace")), "no trace");
    unjudged(Surroundings { host_va: None, ..complete.clone() }, 0, None);
    unjudged(Surroundings { threads: [].into(), ..complete }, 0, None);
}

#[test]
fn faults_of_others_do_not_count() {
    let strange = Step::Fault(GuestFault {
        ts_ns: 0,
        pid: 7,
        ipa: BASE,
        kind: TRANSLATION,
        level: 3,
        access: Access::Data,
        write: true,
    });
    assert_eq!(judge(surroundings(4096, false), &[strange.clone(), strange]).faults, 0);
}

#[test]
fn the_documentation_has_every_rule() {
    let page = include_str!("../../../../docs/budgets.md");
    for rule in Rule::ALL {
        for cell in [rule.text(), rule.source()] {
            let row = format!("| {} | {cell} |", rule.id());
            assert!(page.contains(&row), "{row}");
        }
    }
}
