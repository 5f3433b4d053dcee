use crate::icache::classify::*;

/// The lab, with 16 ns for each instruction and a counter at 62.5 MHz.
const LAB: CostModel = CostModel {
    page_bytes: 4096,
    line_bytes: 64,
    aliasing: false,
    dic: false,
    resolution_ns: 16,
    instruction_ns: Some(16),
    protected: false,
};
const HARDWARE: CostModel = CostModel { resolution_ns: 40, instruction_ns: None, ..LAB };
const PAGE_64K: CostModel = CostModel { page_bytes: 64 << 10, ..LAB };

/// Time of a fault without maintenance, in ns.
const FAULT: u64 = 57_000;

/// Returns the measurement of a block size whose maintenance takes `maintenance_ns`.
fn point(mapped_bytes: u64, maintenance_ns: u64) -> Measurement {
    Measurement {
        mapped_bytes,
        permission_ns: FAULT + maintenance_ns,
        resident_ns: 48,
        by_load_ns: FAULT + 9_000,
        by_fetch_ns: FAULT + 9_320 + maintenance_ns,
        grants: 2,
        ..Measurement::default()
    }
}

fn probed(point: Measurement, calls: u64) -> Measurement {
    Measurement { probe_calls: Some(calls), ..point }
}

/// Returns measurements of a page, 2 MiB and 1 GiB. `rule` gives the time of the maintenance for a number of lines.
fn blocks(rule: impl Fn(u64) -> u64) -> Vec<Measurement> {
    [4 << 10, 2 << 20, 1 << 30].map(|bytes| point(bytes, rule(bytes / 64))).to_vec()
}

fn by_line(lines: u64) -> u64 {
    lines * 64
}

fn capped(lines: u64) -> u64 {
    if lines > 512 { 160 } else { by_line(lines) }
}

fn class(points: &[Measurement], cost: &CostModel) -> Class {
    classify(points, cost).class
}

#[test]
fn time_alone_gives_the_class() {
    assert_eq!(class(&blocks(by_line), &LAB), Class::ByLine);
    assert_eq!(class(&blocks(capped), &LAB), Class::Capped);
    assert_eq!(class(&blocks(|_| 0), &LAB), Class::None);
    let protected = CostModel { protected: true, ..LAB };
    assert_eq!(class(&blocks(|_| 0), &protected), Class::CannotTell);
    assert_eq!(class(&blocks(capped), &protected), Class::Capped, "time shows it at EL2, too");
}

#[test]
fn cap_is_bracketed_and_fits_two_rules() {
    let classification = classify(&blocks(capped), &LAB);
    assert_eq!(classification.cap, Some(Cap { by_line_up_to: 64, all_from: 32_768 }));
    assert!(classification.cannot.iter().any(|line| line.contains("one class")), "{classification:?}");
    let with_32_byte_lines = CostModel { line_bytes: 32, ..LAB };
    let cap = classify(&blocks(capped), &with_32_byte_lines).cap.expect("capped");
    assert_eq!((cap.by_line_up_to, cap.all_from), (128, 65_536));
}

#[test]
fn no_maintenance_fails_and_names_the_probe() {
    let points: Vec<_> = blocks(|_| 0).into_iter().map(|p| probed(p, 0)).collect();
    let classification = classify(&points, &LAB);
    assert_eq!(classification.class, Class::None);
    assert!(classification.evidence[0].starts_with("probe: 1G"), "{classification:?}");
}

#[test]
fn probe_without_a_fault_shows_nothing() {
    let points: Vec<_> = blocks(capped).into_iter().map(|p| Measurement { grants: 0, ..probed(p, 0) }).collect();
    assert_eq!(class(&points, &LAB), Class::Capped);
}

#[test]
fn called_maintenance_is_not_none() {
    let points: Vec<_> = blocks(|_| 0).into_iter().map(|p| probed(p, 2)).collect();
    assert_eq!(class(&points, &LAB), Class::CannotTell);
}

#[test]
fn aliasing_needs_counts() {
    let vipt = CostModel { aliasing: true, line_bytes: 256, ..LAB };
    let classification = classify(&blocks(|_| 0), &vipt);
    assert_eq!(classification.class, Class::CannotTell);
    assert!(classification.cannot.iter().any(|line| line.contains("always all or none, cannot be told")));
    let counted = Some(ICacheCounts { blocks: 2, ic_ivau: 0, ic_ialluis: 2 });
    let points: Vec<_> = blocks(|_| 0).into_iter().map(|p| Measurement { counted, ..p }).collect();
    assert_eq!(class(&points, &vipt), Class::AlwaysAll);
}

#[test]
fn counts_decide_alone() {
    let counted = |rule: fn(u64) -> (u64, u64)| -> Vec<Measurement> {
        let count = |p: Measurement| {
            let (ic_ivau, ic_ialluis) = rule(p.mapped_bytes / 64);
            Measurement { counted: Some(ICacheCounts { blocks: 1, ic_ivau, ic_ialluis }), ..p }
        };
        blocks(|_| 0).into_iter().map(count).collect()
    };
    assert_eq!(class(&counted(|lines| (lines, 0)), &LAB), Class::ByLine);
    assert_eq!(class(&counted(|lines| if lines > 512 { (0, 1) } else { (lines, 0) }), &LAB), Class::Capped);
    assert_eq!(class(&counted(|_| (0, 0)), &LAB), Class::None);
    assert_eq!(class(&counted(|lines| (lines / 2, 0)), &LAB), Class::CannotTell);
}

/// Altra Max takes 579 ms for 512 MiB by line, 8 µs for a page of 64 KiB, and 71 µs for the whole cache.
#[test]
fn figures_of_the_report() {
    let altra = CostModel { page_bytes: 64 << 10, ..HARDWARE };
    let page = || point(64 << 10, 8_000);
    assert_eq!(class(&[page(), point(512 << 20, 579_000_000)], &altra), Class::ByLine);
    let classification = classify(&[page(), point(512 << 20, 71_000)], &altra);
    assert_eq!(classification.class, Class::Capped);
    assert_eq!(classification.cap, Some(Cap { by_line_up_to: 1024, all_from: 8_388_608 }));
    let none = [point(64 << 10, 0), point(512 << 20, 0)].map(|p| Measurement { by_fetch_ns: p.by_load_ns + 20, ..p });
    assert_eq!(class(&none, &altra), Class::None);
    let always = [point(64 << 10, 71_000), point(512 << 20, 71_000)];
    assert_eq!(class(&always, &altra), Class::AlwaysAll);
}

/// 64 lines can take as little time as the noise of the counter.
#[test]
fn time_of_a_small_page_on_hardware_shows_nothing() {
    let faint =
        |rule: fn(u64) -> u64| blocks(rule).into_iter().map(|p| Measurement { by_fetch_ns: p.by_load_ns + 40, ..p });
    let classification = classify(&faint(|_| 0).collect::<Vec<_>>(), &HARDWARE);
    assert_eq!(classification.class, Class::CannotTell);
    assert!(classification.cannot.iter().any(|line| line.contains("the counter resolves 40 ns")), "{classification:?}");
}

/// 71 µs for 2 MiB can be 32,768 fast lines or one slow IC IALLUIS. The time of 1 GiB decides.
#[test]
fn second_block_size_decides() {
    let altra_4k = |large: &[u64]| {
        let mut points = vec![point(4096, 4_400)];
        points.extend(large.iter().map(|bytes| point(*bytes, 71_000)));
        classify(&points, &HARDWARE)
    };
    assert_eq!(altra_4k(&[2 << 20]).class, Class::CannotTell);
    assert_eq!(altra_4k(&[2 << 20, 1 << 30]).class, Class::Capped);
}

/// Maintenance by line takes 2.3 ms for 2 MiB on an Altra Max with pages of 4 KiB: longer than any known IC IALLUIS, and
/// as long for each line as for a page. A page on which the whole cache was invalidated cannot vouch for that.
#[test]
fn a_page_vouches_for_the_lines_of_a_block() {
    let of = |page_ns, block_ns| classify(&[point(4096, page_ns), point(2 << 20, block_ns)], &HARDWARE).class;
    assert_eq!(of(4_400, 2_260_000), Class::ByLine);
    assert_eq!(of(4_400, 400_000), Class::CannotTell, "few lines, or an IC IALLUIS of an unknown machine");
    assert_eq!(of(71_000, 2_260_000), Class::CannotTell, "much less for each line than for a page");
}

/// Measured on Debian's 6.12 with pages of 16 KiB. The block's mapping by a fetch took as much more as the page's, because
/// of something else.
#[test]
fn counted_time_of_a_page_is_known() {
    let lab = CostModel { page_bytes: 16 << 10, instruction_ns: Some(64), ..LAB };
    let of = |mapped_bytes, permission_ns, by_load_ns, by_fetch_ns| Measurement {
        permission_ns,
        by_load_ns,
        by_fetch_ns,
        ..point(mapped_bytes, 0)
    };
    let sizes = [of(16 << 10, 297_152, 251_648, 321_536), of(32 << 20, 220_672, 236_736, 304_576)];
    assert_eq!(class(&sizes, &lab), Class::Capped);
}

/// A fetch is as cheap without a fault as with a fault that does no maintenance.
#[test]
fn fetch_without_a_fault_shows_nothing() {
    let points: Vec<_> = blocks(|_| 0).into_iter().map(|p| Measurement { permission_ns: p.resident_ns, ..p }).collect();
    assert_eq!(class(&points, &LAB), Class::CannotTell);
}

#[test]
fn missing_measurements_are_named() {
    assert_eq!(class(&[], &LAB), Class::CannotTell);
    assert_eq!(class(&blocks(by_line), &CostModel { dic: true, ..LAB }), Class::CannotTell);
    let page_only = classify(&[point(4096, 4096)], &LAB);
    assert!(page_only.cannot.iter().any(|line| line.contains("no block beyond the cap")), "{page_only:?}");
    assert_eq!(class(&[point(64 << 10, by_line(1024)), point(512 << 20, 160)], &PAGE_64K), Class::Capped);
}
