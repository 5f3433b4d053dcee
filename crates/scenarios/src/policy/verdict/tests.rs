use crate::policy::verdict::*;

/// The lab: 16 ns an instruction, the counter at 62.5 MHz.
const LAB: CostModel = CostModel {
    page_bytes: 4096,
    line_bytes: 64,
    aliasing: false,
    dic: false,
    resolution_ns: 16,
    instruction_ns: Some(16),
};
const HARDWARE: CostModel = CostModel { resolution_ns: 40, instruction_ns: None, ..LAB };
const PAGE_64K: CostModel = CostModel { page_bytes: 64 << 10, ..LAB };

/// What a fault takes besides maintenance.
const FAULT: u64 = 57_000;

/// A block that takes `maintenance_ns`.
fn point(mapped_bytes: u64, maintenance_ns: u64) -> Findings {
    Findings {
        mapped_bytes,
        permission_ns: FAULT + maintenance_ns,
        resident_ns: 48,
        by_load_ns: FAULT + 9_000,
        by_fetch_ns: FAULT + 9_320 + maintenance_ns,
        grants: 2,
        ..Findings::default()
    }
}

fn probed(point: Findings, calls: u64) -> Findings {
    Findings { probe_calls: Some(calls), ..point }
}

/// Measures page, 2 MiB and 1 GiB under a rule from lines to ns.
fn blocks(rule: impl Fn(u64) -> u64) -> Vec<Findings> {
    [4 << 10, 2 << 20, 1 << 30].map(|bytes| point(bytes, rule(bytes / 64))).to_vec()
}

fn by_line(lines: u64) -> u64 {
    lines * 64
}

fn capped(lines: u64) -> u64 {
    if lines > 512 { 160 } else { by_line(lines) }
}

fn class(points: &[Findings], geometry: &CostModel) -> Class {
    infer(points, geometry).class
}

#[test]
fn by_time_alone() {
    assert_eq!(class(&blocks(by_line), &LAB), Class::ByLine);
    assert_eq!(class(&blocks(capped), &LAB), Class::Capped);
    assert_eq!(class(&blocks(|_| 0), &LAB), Class::None);
}

#[test]
fn a_cap_is_bracketed_and_shared() {
    let conclusion = infer(&blocks(capped), &LAB);
    assert_eq!(conclusion.cap, Some(Cap { by_line_up_to: 64, all_from: 32_768 }));
    assert!(conclusion.cannot.iter().any(|line| line.contains("one class")), "{conclusion:?}");
    let with_32_byte_lines = CostModel { line_bytes: 32, ..LAB };
    let cap = infer(&blocks(capped), &with_32_byte_lines).cap.expect("capped");
    assert_eq!((cap.by_line_up_to, cap.all_from), (128, 65_536));
}

#[test]
fn no_maintenance_fails_and_names_the_probe() {
    let points: Vec<_> = blocks(|_| 0).into_iter().map(|p| probed(p, 0)).collect();
    let conclusion = infer(&points, &LAB);
    assert_eq!(conclusion.class, Class::None);
    let verdict = judge(&conclusion);
    assert_eq!(verdict.status, Status::Fail);
    assert!(verdict.reason.starts_with("no maintenance: probe: 1G"), "{}", verdict.reason);
}

#[test]
fn a_probe_that_saw_no_fault_shows_nothing() {
    let points: Vec<_> = blocks(capped).into_iter().map(|p| Findings { grants: 0, ..probed(p, 0) }).collect();
    assert_eq!(class(&points, &LAB), Class::Capped);
}

#[test]
fn a_function_that_is_called_is_not_none() {
    let points: Vec<_> = blocks(|_| 0).into_iter().map(|p| probed(p, 2)).collect();
    assert_eq!(class(&points, &LAB), Class::CannotTell);
}

#[test]
fn aliasing_needs_counts() {
    let vipt = CostModel { aliasing: true, line_bytes: 256, ..LAB };
    let conclusion = infer(&blocks(|_| 0), &vipt);
    assert_eq!(conclusion.class, Class::CannotTell);
    assert!(judge(&conclusion).reason.contains("always all or none, cannot be told"));
    let counted = Some(Counted { blocks: 2, ic_ivau: 0, ic_ialluis: 2 });
    let points: Vec<_> = blocks(|_| 0).into_iter().map(|p| Findings { counted, ..p }).collect();
    assert_eq!(class(&points, &vipt), Class::AlwaysAll);
}

#[test]
fn counts_decide_alone() {
    let counted = |rule: fn(u64) -> (u64, u64)| -> Vec<Findings> {
        let count = |p: Findings| {
            let (ic_ivau, ic_ialluis) = rule(p.mapped_bytes / 64);
            Findings { counted: Some(Counted { blocks: 1, ic_ivau, ic_ialluis }), ..p }
        };
        blocks(|_| 0).into_iter().map(count).collect()
    };
    assert_eq!(class(&counted(|lines| (lines, 0)), &LAB), Class::ByLine);
    assert_eq!(class(&counted(|lines| if lines > 512 { (0, 1) } else { (lines, 0) }), &LAB), Class::Capped);
    assert_eq!(class(&counted(|_| (0, 0)), &LAB), Class::None);
    assert_eq!(class(&counted(|lines| (lines / 2, 0)), &LAB), Class::CannotTell);
}

/// Altra Max: 579 ms for 512 MiB by line, 8 µs for a page of 64 KiB, 71 µs for all.
#[test]
fn figures_of_the_report() {
    let altra = CostModel { page_bytes: 64 << 10, ..HARDWARE };
    let page = || point(64 << 10, 8_000);
    assert_eq!(class(&[page(), point(512 << 20, 579_000_000)], &altra), Class::ByLine);
    let conclusion = infer(&[page(), point(512 << 20, 71_000)], &altra);
    assert_eq!(conclusion.class, Class::Capped);
    assert_eq!(conclusion.cap, Some(Cap { by_line_up_to: 1024, all_from: 8_388_608 }));
    let none = [point(64 << 10, 0), point(512 << 20, 0)].map(|p| Findings { by_fetch_ns: p.by_load_ns + 20, ..p });
    assert_eq!(class(&none, &altra), Class::None);
    let always = [point(64 << 10, 71_000), point(512 << 20, 71_000)];
    assert_eq!(class(&always, &altra), Class::AlwaysAll);
}

/// 64 lines may take as little as the counter's noise: no conclusion from time alone.
#[test]
fn small_pages_on_hardware() {
    let faint =
        |rule: fn(u64) -> u64| blocks(rule).into_iter().map(|p| Findings { by_fetch_ns: p.by_load_ns + 40, ..p });
    let conclusion = infer(&faint(|_| 0).collect::<Vec<_>>(), &HARDWARE);
    assert_eq!(conclusion.class, Class::CannotTell);
    assert!(conclusion.cannot.iter().any(|line| line.contains("the counter resolves 40 ns")), "{conclusion:?}");
}

/// 2 MiB in 71 µs may be 32,768 fast lines or one slow IC IALLUIS; 1 GiB in the same time decides.
#[test]
fn a_second_block_decides() {
    let altra_4k = |large: &[u64]| {
        let mut points = vec![point(4096, 4_400)];
        points.extend(large.iter().map(|bytes| point(*bytes, 71_000)));
        infer(&points, &HARDWARE)
    };
    assert_eq!(altra_4k(&[2 << 20]).class, Class::CannotTell);
    assert_eq!(altra_4k(&[2 << 20, 1 << 30]).class, Class::Capped);
}

/// Where the mapping survived, nothing was measured, and cheap is not "none".
#[test]
fn a_fetch_without_a_fault_says_nothing() {
    let points: Vec<_> = blocks(|_| 0).into_iter().map(|p| Findings { permission_ns: p.resident_ns, ..p }).collect();
    assert_eq!(class(&points, &LAB), Class::CannotTell);
}

#[test]
fn what_was_not_measured_is_said() {
    assert_eq!(class(&[], &LAB), Class::CannotTell);
    assert_eq!(class(&blocks(by_line), &CostModel { dic: true, ..LAB }), Class::CannotTell);
    let page_only = infer(&[point(4096, 4096)], &LAB);
    assert!(page_only.cannot.iter().any(|line| line.contains("no block beyond the cap")), "{page_only:?}");
    assert_eq!(class(&[point(64 << 10, by_line(1024)), point(512 << 20, 160)], &PAGE_64K), Class::Capped);
}
