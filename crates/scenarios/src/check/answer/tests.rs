use klog::attribution::{Attribution, Stage2Path};
use record::machine::{HugepagePool, LabFacts, Platform};
use record::maintenance::{FaultCount, HostSide};
use record::result::L1Ip;
use units::stats::timing;

use super::*;

const GIB: u64 = 1 << 30;

/// The lab, with 64 ns for each instruction.
fn machine() -> Machine {
    let pool = |page_bytes| HugepagePool { page_bytes, total: 0, free: 0 };
    Machine {
        page_bytes: 4096,
        platform: Platform::Emulated,
        lab: Some(LabFacts { time_scale: Some(6), ..LabFacts::default() }),
        hugepages: [64 << 10, 2 << 20, 32 << 20, GIB].map(pool).to_vec(),
        ..Machine::unknown("6.1")
    }
}

fn vcpu(dic: bool) -> VcpuFacts {
    VcpuFacts {
        midr_el1: 0,
        ctr_el0: 0x8444_c004,
        clidr_el1: 0,
        imin_line_bytes: 64,
        dmin_line_bytes: 64,
        idc: true,
        dic,
        l1ip: L1Ip::Pipt,
        cntfrq_hz: 62_500_000,
        resolution_ticks: 1,
        shown: None,
    }
}

fn measured(name: &str, bytes: u64, maintenance_ns: u64) -> CaseResult {
    let kind: MemoryKind = name.parse().expect("a kind");
    let found = Measurement {
        mapped_bytes: bytes,
        permission_ns: 57_000 + maintenance_ns,
        resident_ns: 640,
        by_load_ns: 60_000,
        by_fetch_ns: 60_320 + maintenance_ns,
        grants: 2,
        ..Measurement::default()
    };
    let mut case = CaseResult { verdict: Verdict::new(Status::Pass, "measured"), ..CaseResult::on(kind, 1) };
    case.memory.as_mut().expect("it has memory").block_bytes = bytes;
    let times = &mut case.times.insert(Default::default());
    times.exec = timing(vec![found.permission_ns], 1_000_000_000);
    case.findings = StoredFindings::of(&Findings(found));
    case
}

fn skipped(name: &str, why: &str) -> CaseResult {
    let kind: MemoryKind = name.parse().expect("a kind");
    CaseResult { verdict: Verdict::new(Status::Skip, why), ..CaseResult::on(kind, 1) }
}

/// Returns a page and a block of 2 MiB. `rule` gives the time of the maintenance for a number of lines.
fn sizes(rule: fn(u64) -> u64) -> Vec<CaseResult> {
    [("page", 4096), ("thp", 2 << 20)].map(|(name, bytes)| measured(name, bytes, rule(bytes / 64))).to_vec()
}

const BY_LINE: fn(u64) -> u64 = |lines| lines * 256;
const CAPPED: fn(u64) -> u64 = |lines| if lines > 512 { 640 } else { lines * 256 };
const NONE: fn(u64) -> u64 = |_| 0;

fn detector() -> Detector {
    Detector { soft: State::On, thresh_s: Some(1), ..Detector::unknown() }
}

fn concluded(machine: &Machine, dic: bool, cases: &[CaseResult]) -> Conclusion {
    let vcpu = vcpu(dic);
    conclude(&Evidence { machine, vcpu: Some(&vcpu), detector: detector(), kmsg_lost: 0, cases })
}

fn answer_to(cases: &[CaseResult]) -> Answer {
    concluded(&machine(), false, cases).answer
}

#[test]
fn the_class_gives_the_answer() {
    let answers = [BY_LINE, CAPPED, NONE].map(|rule| answer_to(&sizes(rule)));
    assert_eq!(answers, [Answer::Affected, Answer::NotAffected, Answer::Broken]);
}

#[test]
fn limits_are_for_each_block_that_kvm_maps() {
    let found = concluded(&machine(), false, &sizes(BY_LINE));
    let limits: Vec<_> = found.passed_from.iter().map(|limit| (limit.block_bytes, limit.racers)).collect();
    // 256 ns for each of 16 Mi lines is 4.3 s, and the threshold is 2 s.
    assert_eq!(limits, [(2 << 20, 237), (GIB, 1)]);
    assert!(concluded(&machine(), false, &sizes(CAPPED)).passed_from.is_empty());
}

#[test]
fn dic_needs_no_maintenance_unless_the_kernel_does_some() {
    let found = concluded(&machine(), true, &sizes(NONE));
    assert_eq!((found.answer, found.class), (Answer::NotAffected, None));
    assert!(found.evidence[0].contains("0x8444c004"), "{found:?}");
    let mut cases = sizes(BY_LINE);
    let fault = FaultCount { access: Access::Fetch, kind: FaultKind::Permission, level: 2, count: 1 };
    cases[1].host = Some(HostSide { faults: vec![fault], icache: None, dcache: None, unprobed: None });
    assert_eq!(concluded(&machine(), true, &cases).answer, Answer::Affected);
}

/// On hardware, 64 lines of a page take too little time to tell. A block of 1 GiB tells that it is not line by line, and the
/// probe that something is done for it.
#[test]
fn a_large_block_answers_where_a_page_is_too_small() {
    let hardware = Machine { platform: Platform::Hardware, lab: None, ..machine() };
    let mut cases = vec![measured("page", 4096, 20), measured("1G", GIB, 71_000)];
    let Findings(page) = cases[0].findings.get().expect("measured");
    let faint = Measurement { by_fetch_ns: page.by_load_ns + 40, ..page };
    cases[0].findings = StoredFindings::of(&Findings(faint));
    let probed = |cases: &mut Vec<CaseResult>, calls: Option<u64>, bytes| {
        let Findings(found) = cases[1].findings.get().expect("measured");
        let found = Measurement { probe_calls: calls, probe_max_bytes: Some(bytes), ..found };
        cases[1].findings = StoredFindings::of(&Findings(found));
    };
    probed(&mut cases, Some(2), GIB);
    let found = concluded(&hardware, false, &cases);
    assert_eq!((found.answer, found.class), (Answer::NotAffected, Some(Class::CannotTell)), "{found:?}");
    assert!(found.evidence.last().is_some_and(|line| line.starts_with("not told: ")), "{found:?}");
    for (calls, bytes) in [(None, GIB), (Some(0), GIB), (Some(2), 4096)] {
        probed(&mut cases, calls, bytes);
        assert_ne!(concluded(&hardware, false, &cases).answer, Answer::NotAffected, "{calls:?} {bytes}");
    }
}

#[test]
fn without_a_large_block_the_answer_names_the_command() {
    let pool = "4 free hugetlb pages of 2M needed, 0 there: echo 4 > nr_hugepages";
    let boot = "1 free hugetlb pages of 1G needed, and the kernel could free only 0: boot with hugepages=1";
    let mut cases = vec![measured("page", 4096, 64 * 256), skipped("64K", "64 needed: echo 64"), skipped("1G", boot)];
    let found = concluded(&machine(), false, &cases);
    assert_eq!((found.answer, found.remedy.as_deref()), (Answer::CannotTell, Some("boot with hugepages=1")));
    cases.push(skipped("2M", pool));
    assert_eq!(concluded(&machine(), false, &cases).remedy.as_deref(), Some("echo 4 > nr_hugepages"));
}

#[test]
fn a_page_settles_nothing() {
    let (machine, vcpu) = (machine(), vcpu(false));
    let settled = |cases: &[CaseResult]| {
        is_settled(&Evidence { machine: &machine, vcpu: Some(&vcpu), detector: detector(), kmsg_lost: 0, cases })
    };
    let all = sizes(NONE);
    assert_eq!((settled(&all[..1]), settled(&all)), (false, true));
}

#[test]
fn protected_mode_hides_the_maintenance_from_the_host() {
    let protected = Machine { kvm_mode: Some(KvmMode::Protected), ..machine() };
    let found = concluded(&protected, false, &sizes(NONE));
    assert_eq!(found.answer, Answer::CannotTell);
    assert!(found.remedy.is_some_and(|command| command.contains("--count")));
    assert_eq!(concluded(&protected, false, &sizes(BY_LINE)).answer, Answer::Affected, "time shows that at EL2, too");
}

/// Returns a lockup of a real run, with another attribution.
fn lockup(side: Side, path: Stage2Path) -> AttributedComplaint {
    let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/../record/tests/runs/debian-6.1/result.json");
    let run = record::store::read(stored.as_ref()).expect("the stored run is a result");
    let real = run.cases.into_iter().flat_map(|case| case.complaints).next().expect("it locked up");
    AttributedComplaint { attributions: vec![Attribution { side, path, frame: "some_function".into() }], ..real }
}

#[test]
fn other_stalls_are_listed_and_change_nothing() {
    let mut cases = sizes(CAPPED);
    cases[1].complaints.push(lockup(Side::DSide, Stage2Path::Fault));
    cases[1].verdict = Verdict::new(Status::Fail, "a lockup");
    let found = concluded(&machine(), false, &cases);
    assert_eq!((found.answer, found.also.len()), (Answer::NotAffected, 1));
    assert!(found.also[0].starts_with("thp: a stall of the D side"), "{found:?}");
}

#[test]
fn a_lockup_on_the_i_side_answers_whatever_the_times_are() {
    let mut cases = sizes(CAPPED);
    cases[1].complaints.push(lockup(Side::ISide, Stage2Path::RelaxPerms));
    let found = concluded(&machine(), false, &cases);
    assert_eq!((found.answer, found.also.len()), (Answer::Affected, 0));
}

#[test]
fn old_code_is_broken() {
    let mut cases = sizes(CAPPED);
    cases[0].mismatches = 1;
    let found = concluded(&machine(), false, &cases);
    assert_eq!((found.answer, found.reason.as_str()), (Answer::Broken, "the guest executed old code (1 wrong token)"));
}

#[test]
fn a_machine_that_panics_on_stalls_is_left_alone() {
    let found = refused(&["softlockup_panic".into()]);
    assert_eq!(judge(&found).status, Status::Skip);
    assert!(found.reason.contains("kernel.softlockup_panic") && found.remedy.is_some());
}
