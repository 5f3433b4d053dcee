// SPDX-License-Identifier: GPL-2.0-or-later
//! Tests of the model, each with the smallest sequence of events. The false alarms are those that earlier models had.

use super::entry::{Context, HCR_BSU_SHIFT, HCR_FB, HCR_FWB};
use super::features::Features;
use super::page::PAGE;
use super::report::{Kind, Missing, Owed};
use super::rig::{EXECUTE, FRAME, GUEST, HCR, HOST, MMFR0, READ, ROOTS, Rig, VTCR};
use super::stage1::Stage1;
use super::state::{Store, lock};
use super::text::{MOV_X9_X30, NOP};

#[test]
fn a_page_that_is_maintained_before_it_is_mapped_is_right() {
    for idc in [false, true] {
        let rig = Rig::new(idc, false);
        rig.host_fill(0, FRAME);
        rig.maintain(0, FRAME);
        rig.map(0, 5, FRAME, READ);
        rig.map(0, 5, FRAME, EXECUTE);
        rig.fetch(0, FRAME, 1);
        assert_eq!(rig.reports(), [], "idc {idc}");
        let checked = rig.shadow.written()[0].checked;
        assert_eq!((checked.published, checked.lines), (2, 128));
    }
}

/// Maintenance before a page is mapped, what it lacks, and the number of lines.
type Case<'a> = (&'a dyn Fn(&Rig), Missing, u64);

#[test]
fn missing_maintenance_is_named_with_its_lines() {
    let nothing = |_: &Rig| {};
    let half = |rig: &Rig| {
        (FRAME..FRAME + 2048).step_by(64).for_each(|at| rig.shadow.clean(0, false, at, true, true));
        rig.dsb(0);
    };
    let no_dsb = |rig: &Rig| rig.clean(0, FRAME);
    let narrow = |rig: &Rig| {
        rig.clean(0, FRAME);
        rig.shadow.barrier(0, false);
    };
    let pou = |rig: &Rig| {
        (FRAME..FRAME + PAGE).step_by(64).for_each(|at| rig.shadow.clean(0, false, at, false, false));
        rig.dsb(0);
    };
    let cases: [Case<'_>; 5] = [
        (&nothing, Missing::DClean, 64),
        (&half, Missing::DClean, 32),
        (&no_dsb, Missing::DCleanNotCompleted, 64),
        (&narrow, Missing::DCleanNotCompleted, 64),
        (&pou, Missing::DClean, 64),
    ];
    for (n, (maintain, missing, lines)) in cases.into_iter().enumerate() {
        let rig = Rig::new(true, false);
        rig.host_fill(0, FRAME);
        maintain(&rig);
        rig.map(0, 5, FRAME, READ);
        assert_eq!(rig.owed(), [(Kind::PublishedD, missing, lines)], "case {n}");
    }
}

#[test]
fn what_the_i_side_lacks_is_named() {
    let cases: [Case<'_>; 5] = [
        (&|_| {}, Missing::IInvalidation, 64),
        (&|rig| rig.invalidate(0, FRAME), Missing::INotCompleted, 64),
        (&|rig| rig.shadow.invalidate_all(0, false, true), Missing::INotCompleted, 64),
        (
            &|rig| {
                rig.shadow.invalidate_all(0, false, false);
                rig.shadow.barrier(0, false);
            },
            Missing::IOnOnePe,
            64,
        ),
        (
            &|rig| {
                rig.invalidate(0, FRAME + PAGE);
                rig.dsb(0);
            },
            Missing::IInvalidation,
            64,
        ),
    ];
    for (n, (maintain, missing, lines)) in cases.into_iter().enumerate() {
        let rig = Rig::new(true, false);
        rig.host_fill(0, FRAME);
        rig.clean(0, FRAME);
        rig.dsb(0);
        maintain(&rig);
        rig.map(0, 5, FRAME, EXECUTE);
        assert_eq!(rig.owed(), [(Kind::PublishedI, missing, lines)], "case {n}");
    }
}

#[test]
fn the_order_of_clean_and_invalidation_matters_without_idc_only() {
    for (idc, owed) in [(false, vec![(Kind::PublishedI, Missing::IBeforeDClean, 64)]), (true, vec![])] {
        let rig = Rig::new(idc, false);
        rig.host_fill(0, FRAME);
        rig.invalidate(0, FRAME);
        rig.dsb(0);
        rig.clean(0, FRAME);
        rig.dsb(0);
        rig.map(0, 5, FRAME, EXECUTE);
        assert_eq!(rig.owed(), owed);
        // No barrier between the two is as bad.
        let rig = Rig::new(idc, false);
        rig.host_fill(0, FRAME);
        rig.clean(0, FRAME);
        rig.invalidate(0, FRAME);
        rig.dsb(0);
        rig.map(0, 5, FRAME, EXECUTE);
        assert_eq!(rig.owed(), owed);
    }
}

#[test]
fn an_invalidation_of_all_counts_only_after_the_clean() {
    let rig = Rig::new(false, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.shadow.invalidate_all(1, false, true);
    rig.dsb(0);
    rig.dsb(1);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.owed(), [(Kind::PublishedI, Missing::IInvalidation, 64)]);
}

#[test]
fn maintenance_does_not_serve_a_store_that_follows_it() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.host_store(1, FRAME + 64);
    rig.dsb(0);
    rig.map(0, 5, FRAME, READ);
    assert_eq!(rig.owed(), [(Kind::PublishedD, Missing::DClean, 1)]);
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.dsb(0);
    rig.invalidate(0, FRAME);
    rig.host_store(1, FRAME + 64);
    rig.dsb(0);
    rig.clean(0, FRAME);
    rig.dsb(0);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.owed(), [(Kind::PublishedI, Missing::IInvalidation, 1)]);
}

#[test]
fn a_clean_by_the_guest_does_not_make_the_hosts_invalidation_count() {
    let rig = Rig::new(false, false);
    rig.host_fill(0, FRAME);
    (FRAME..FRAME + PAGE).step_by(64).for_each(|at| rig.shadow.clean(0, true, at, true, false));
    rig.dsb(0);
    rig.invalidate(0, FRAME);
    rig.dsb(0);
    rig.clean(0, FRAME);
    rig.dsb(0);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.owed(), [(Kind::PublishedI, Missing::IBeforeDClean, 64)]);
}

#[test]
fn an_invalidation_of_this_pe_is_named_only_if_it_came_since_the_guest_ran() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.dsb(0);
    rig.shadow.invalidate_all(0, false, false);
    rig.shadow.barrier(0, false);
    rig.enter(0, 0);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.owed(), [(Kind::PublishedI, Missing::IInvalidation, 64)]);
}

#[test]
fn maintenance_after_the_entry_is_too_late() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.map(0, 5, FRAME, EXECUTE);
    rig.maintain(0, FRAME);
    let late: Vec<_> = rig.reports().into_iter().map(|(kind, missing, late, ..)| (kind, missing, late)).collect();
    assert_eq!(late, [(Kind::PublishedI, Missing::IInvalidation, true), (Kind::PublishedD, Missing::DClean, true)]);
    // An operation that only lacked its barrier was in time.
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.dsb(0);
    rig.shadow.invalidate_all(0, false, true);
    rig.map(0, 5, FRAME, EXECUTE);
    rig.dsb(0);
    assert_eq!(rig.reports(), [(Kind::PublishedI, Missing::INotCompleted, false, Owed::Host, 64)]);
    // After the guest has run, maintenance serves something else.
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.map(0, 5, FRAME, EXECUTE);
    rig.enter(0, 0);
    rig.maintain(0, FRAME);
    assert!(rig.reports().iter().all(|(_, _, late, ..)| !late));
}

#[test]
fn with_fwb_only_the_i_side_is_owed() {
    let rig = Rig::new(true, true);
    rig.shadow.enter_guest(0, Context { hcr: HCR | HCR_FWB, vtcr: VTCR }, &HOST);
    rig.host_fill(0, FRAME);
    // With FWB, attribute 6 is Normal Write-Back.
    rig.map(0, 5, FRAME, (EXECUTE & !0x3c) | 6 << 2);
    assert_eq!(rig.owed(), [(Kind::PublishedI, Missing::IInvalidation, 64)]);
}

#[test]
fn device_memory_is_not_judged() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.map(0, 5, FRAME, READ & !0x3c);
    assert_eq!(rig.reports(), []);
}

#[test]
fn a_line_length_of_the_machine_covers_several_lines() {
    let features = Features { idc: true, dic: false, fwb: false, imin_line: 256, dmin_line: 256, mmfr0: MMFR0 };
    let rig = Rig::with(features);
    rig.host_fill(0, FRAME);
    (FRAME..FRAME + PAGE).step_by(256).for_each(|at| rig.shadow.clean(0, false, at, true, true));
    rig.dsb(0);
    (FRAME..FRAME + PAGE).step_by(256).for_each(|at| rig.shadow.invalidate(0, false, at));
    rig.dsb(0);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.reports(), []);
}

#[test]
fn redundant_maintenance_without_a_barrier_undoes_nothing() {
    let rig = Rig::new(false, false);
    rig.host_fill(0, FRAME);
    rig.maintain(0, FRAME);
    rig.clean(1, FRAME);
    rig.invalidate(1, FRAME);
    rig.shadow.invalidate_all(1, false, true);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.reports(), []);
}

#[test]
fn another_pe_that_has_not_completed_its_invalidation_does_not_matter() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.dsb(0);
    rig.shadow.invalidate_all(1, false, true);
    rig.shadow.invalidate_all(0, false, true);
    rig.dsb(0);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.reports(), []);
}

#[test]
fn of_two_that_maintain_a_line_the_publisher_counts() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.dsb(0);
    rig.invalidate(1, FRAME);
    rig.invalidate(0, FRAME);
    rig.dsb(0);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.reports(), []);
    // Also the other way round: the slower one, which began first, publishes after its own barrier.
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.clean(1, FRAME);
    rig.dsb(1);
    rig.invalidate(0, FRAME);
    rig.dsb(0);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.reports(), []);
}

#[test]
fn a_frame_in_two_guests_is_judged_in_each() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.maintain(0, FRAME);
    rig.map(0, 5, FRAME, READ);
    // In place for the first guest, owed to the second.
    rig.host_store(0, FRAME + 128);
    rig.map(0, 5, FRAME, EXECUTE);
    let weak = rig.reports();
    assert_eq!(weak, [(Kind::PublishedI, Missing::IInvalidation, false, Owed::InPlace, 1)]);
    rig.map_in(1, 0, 7, FRAME, READ);
    assert_eq!(rig.owed(), [(Kind::PublishedD, Missing::DClean, 1)]);
    rig.maintain(0, FRAME);
    rig.map_in(1, 0, 8, FRAME, EXECUTE);
    assert_eq!(rig.owed().len(), 1);
}

#[test]
fn a_vmid_that_is_used_again_has_nothing_of_its_former_guest() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.maintain(0, FRAME);
    rig.map(0, 5, FRAME, READ);
    // Another guest with VMID 1 and other tables, which map the frame after a store.
    let root = 0x4a00_0000;
    rig.shadow.load_stage2(0, 1 << 48 | root, VTCR, &HOST);
    rig.host_store(0, FRAME);
    rig.entry(0, root, (root + 0x10000) | 3);
    rig.entry(0, root + 0x10000, (root + 0x20000) | 3);
    rig.entry(0, root + 0x20000, FRAME | READ);
    assert_eq!(rig.owed(), [(Kind::PublishedD, Missing::DClean, 1)]);
    // Stores to the former tables are data.
    let published = || rig.shadow.written()[0].checked.published;
    let before = published();
    rig.entry(0, ROOTS[0] + 0x20000, (FRAME + PAGE) | READ);
    assert_eq!(published(), before);
}

#[test]
fn the_host_of_vmid_zero_publishes_nothing() {
    let rig = Rig::new(true, false);
    let root = 0x4a00_0000;
    rig.host_fill(0, FRAME);
    rig.shadow.load_stage2(0, root, VTCR, &HOST);
    rig.entry(0, root, FRAME | 0x7fd);
    assert_eq!(rig.reports(), []);
    assert_eq!(rig.shadow.written()[0].checked.published, 0);
}

#[test]
fn both_marks_of_a_locked_entry_keep_what_was_mapped() {
    for mark in [1 << 10, 1 << 60] {
        let rig = Rig::new(true, false);
        rig.host_fill(0, FRAME);
        rig.maintain(0, FRAME);
        rig.map(0, 5, FRAME, READ);
        rig.host_store(0, FRAME);
        rig.map(0, 5, 0, mark);
        rig.shadow.invalidate_tlb(0, false);
        rig.map(0, 5, FRAME, EXECUTE);
        assert_eq!(rig.reports(), [(Kind::PublishedI, Missing::IInvalidation, false, Owed::InPlace, 1)], "{mark:#x}");
    }
}

#[test]
fn a_guest_owes_its_own_stores() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.maintain(0, FRAME);
    rig.map(0, 5, FRAME, EXECUTE);
    rig.fetch(0, FRAME, 1);
    rig.guest_store(0, FRAME);
    rig.fetch(0, FRAME, 2);
    assert_eq!(rig.reports(), [(Kind::Fetch, Missing::IInvalidation, false, Owed::Guest, 1)]);
    // Its own maintenance serves it, and it may broadcast less than a host.
    let rig = Rig::new(true, false);
    rig.map(0, 5, FRAME, EXECUTE);
    rig.guest_store(0, FRAME);
    rig.shadow.invalidate(0, true, FRAME);
    rig.dsb(0);
    rig.fetch(1, FRAME, 2);
    assert_eq!(rig.reports(), []);
}

#[test]
fn a_guest_that_maintains_a_store_of_the_host_does_not_pay_its_debt() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.clean(0, FRAME);
    rig.dsb(0);
    rig.map(0, 5, FRAME, READ);
    (FRAME..FRAME + PAGE).step_by(64).for_each(|at| rig.shadow.invalidate(0, true, at));
    rig.dsb(0);
    rig.map(0, 5, FRAME, EXECUTE);
    assert_eq!(rig.owed(), [(Kind::PublishedI, Missing::IInvalidation, 64)]);
}

#[test]
fn a_fetch_on_the_pe_that_invalidated_alone_is_right_and_on_another_is_not() {
    let rig = Rig::new(true, false);
    rig.map(0, 5, FRAME, EXECUTE);
    rig.guest_store(0, FRAME);
    rig.shadow.invalidate_all(0, true, false);
    rig.shadow.barrier(0, false);
    rig.fetch(0, FRAME, 2);
    assert_eq!(rig.reports(), []);
    rig.fetch(1, FRAME, 2);
    assert_eq!(rig.reports(), [(Kind::Fetch, Missing::IOnOnePe, false, Owed::Guest, 1)]);
}

#[test]
fn the_host_may_patch_branches_while_they_run() {
    const B: u32 = 0x1400_0001;
    let rig = Rig::new(true, false);
    rig.fetch_by(HOST, 0, FRAME, NOP);
    rig.host_store(0, FRAME);
    rig.fetch_by(HOST, 0, FRAME, B);
    assert_eq!(rig.reports(), []);
    // Tracing patches a NOP to a MOV on each boot, which the architecture leaves open.
    rig.fetch_by(HOST, 0, FRAME + 64, NOP);
    rig.host_store(0, FRAME + 64);
    rig.fetch_by(HOST, 0, FRAME + 64, MOV_X9_X30);
    assert_eq!(rig.reports(), [(Kind::Fetch, Missing::IInvalidation, false, Owed::TextPatching, 1)]);
    // Anything else is owed.
    rig.fetch_by(HOST, 0, FRAME + 128, 0x8b01_0000);
    rig.host_store(0, FRAME + 128);
    rig.fetch_by(HOST, 0, FRAME + 128, 0x8b02_0000);
    assert_eq!(rig.owed(), [(Kind::Fetch, Missing::IInvalidation, 1)]);
}

#[test]
fn a_load_without_caches_needs_a_clean_to_the_point_of_coherency() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    rig.maintain(0, FRAME);
    rig.map(0, 5, FRAME, READ);
    rig.shadow.load(0, &GUEST, FRAME, || false);
    assert_eq!(rig.reports(), []);
    rig.guest_store(0, FRAME);
    rig.shadow.load(0, &GUEST, FRAME, || true);
    assert_eq!(rig.reports(), []);
    rig.shadow.load(0, &GUEST, FRAME, || false);
    assert_eq!(rig.reports(), [(Kind::Load, Missing::DClean, false, Owed::Guest, 1)]);
}

#[test]
fn memory_that_a_guest_wrote_without_caches_is_cleaned_when_it_is_unmapped() {
    for (cleans, owed) in [(true, vec![]), (false, vec![(Kind::Uncached, Missing::DClean, 1)])] {
        let rig = Rig::new(true, false);
        rig.host_fill(0, FRAME);
        rig.maintain(0, FRAME);
        rig.map(0, 5, FRAME, READ);
        let store = Store { pe: 0, place: &GUEST, site: rig.guest, pa: FRAME + 64, size: 4, uncached: true };
        rig.shadow.store(&store, || None);
        rig.unmap(0, 5);
        if cleans {
            rig.clean(0, FRAME);
            rig.dsb(0);
        }
        assert!(rig.shadow.has_unmapped(0));
        rig.shadow.return_to_user(0);
        assert!(!rig.shadow.has_unmapped(0));
        assert_eq!(rig.owed(), owed);
    }
}

#[test]
fn a_valid_entry_changes_by_break_before_make_only() {
    let rig = Rig::new(true, false);
    rig.map(0, 5, FRAME, READ);
    rig.map(0, 5, FRAME + PAGE, READ);
    assert_eq!(rig.owed(), [(Kind::Break, Missing::BreakBeforeMake, 0)]);
    let rig = Rig::new(true, false);
    rig.map(0, 5, FRAME, READ);
    rig.map(0, 5, 0, 1 << 10);
    rig.map(0, 5, FRAME + PAGE, READ);
    assert_eq!(rig.owed(), [(Kind::Break, Missing::TlbInvalidation, 0)]);
    let rig = Rig::new(true, false);
    rig.map(0, 5, FRAME, READ);
    rig.unmap(0, 5);
    rig.map(0, 5, FRAME + PAGE, READ);
    rig.map(0, 5, FRAME + PAGE, EXECUTE);
    assert_eq!(rig.reports(), []);
}

#[test]
fn a_table_that_becomes_data_is_followed_no_more() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    // A store of another size than an entry.
    rig.store(0, ROOTS[0] + 0x20000 + 64, 4, false);
    rig.map(0, 5, FRAME, READ);
    assert_eq!(rig.reports(), []);
}

#[test]
fn the_memory_type_of_a_guest_is_read_through_both_stages() {
    let rig = Rig::new(true, false);
    // The guest's table of level 3 is page 0 of its memory, and its one entry is Non-cacheable.
    let stage1 = Stage1 { tcr: 43, ttbr: [0; 2], mair: 0x44 };
    lock(&rig.ram.0).insert(FRAME, 3);
    assert!(rig.shadow.is_cacheable(0, &stage1, 0), "not mapped yet");
    rig.map(0, 0, FRAME, READ);
    assert!(!rig.shadow.is_cacheable(0, &stage1, 0));
}

#[test]
fn registers_of_a_guest_are_judged() {
    for (hcr, vtcr, missing) in [
        (HCR & !HCR_FB, VTCR, Missing::HcrFb),
        (HCR & !(3 << HCR_BSU_SHIFT), VTCR, Missing::HcrBsu),
        (HCR, VTCR & !(3 << 12), Missing::VtcrShareability),
        (HCR, VTCR & !(3 << 8), Missing::VtcrCacheability),
        (HCR, VTCR | 7 << 16, Missing::VtcrSize),
    ] {
        let rig = Rig::new(true, false);
        rig.shadow.enter_guest(0, Context { hcr, vtcr }, &HOST);
        assert_eq!(rig.owed(), [(Kind::Register, missing, 0)]);
    }
}

#[test]
fn a_table_that_is_linked_with_entries_is_judged_at_once() {
    let rig = Rig::new(true, false);
    rig.host_fill(0, FRAME);
    let child = 0x4b00_0000;
    lock(&rig.ram.0).insert(child + 8, FRAME | READ);
    rig.entry(0, ROOTS[0] + 0x10008, child | 3);
    assert_eq!(rig.owed(), [(Kind::PublishedD, Missing::DClean, 64)]);
}

#[test]
fn cases_are_told_apart() {
    let rig = Rig::new(true, false);
    rig.shadow.begin_case(1);
    rig.host_fill(0, FRAME);
    rig.map(0, 5, FRAME, READ);
    rig.shadow.begin_case(0);
    let sections = rig.shadow.written();
    let reports = |case: u64| sections.iter().filter(|s| s.case == case).map(|s| s.reports.len()).sum::<usize>();
    assert_eq!((reports(0), reports(1)), (0, 1));
}
