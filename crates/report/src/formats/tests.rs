use clap::ValueEnum;
use klog::attribution::{Attribution, Side, Stage2Path};
use record::case::AttributedComplaint;
use record::result::RunResult;
use record::sanitizer::Sanitizer;
use record::status::Status;
use record::view::Viewed;

use crate::formats::*;

/// Returns a stored run of the unfixed kernel, which passes on page and thp and locks up on 1G.
fn stored_run() -> RunResult {
    let text = include_str!("../../../record/tests/runs/debian-6.1/result.json");
    serde_json::from_str(text).expect("the reference run is a result")
}

/// A parsed line of KTAP.
#[derive(Debug, PartialEq)]
enum Line {
    Version,
    Plan(usize),
    Outcome { ok: bool, number: usize, directive: Option<String> },
}

fn parse_line(text: &str) -> Option<Line> {
    if text == "KTAP version 1" {
        return Some(Line::Version);
    }
    if let Some(plan) = text.strip_prefix("1..") {
        return Some(Line::Plan(plan.parse().expect("a number")));
    }
    if text.starts_with("# ") {
        return None;
    }
    let (ok, rest) = match text.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok ").unwrap_or_else(|| panic!("not KTAP: {text}"))),
    };
    let (number, rest) = rest.split_once(' ').expect("a name");
    let (name, directive) = match rest.split_once(" # ") {
        Some((name, directive)) => (name, Some(directive.to_owned())),
        None => (rest, None),
    };
    assert!(!name.is_empty() && !name.contains([' ', '#']), "{name}");
    Some(Line::Outcome { ok, number: number.parse().expect("a number"), directive })
}

/// Outcome of a test: true if it is ok, and its directive.
type TestOutcome = (bool, Option<String>);

/// Checks one level of KTAP strictly and returns the outcomes of its tests.
fn check_level(lines: &[&str]) -> Vec<TestOutcome> {
    let mut outcomes = Vec::new();
    let (mut version, mut plan) = (false, None);
    for line in lines.iter().filter_map(|line| parse_line(line)) {
        match line {
            Line::Version => assert!(!std::mem::replace(&mut version, true), "one version"),
            Line::Plan(n) => assert!(version && plan.replace(n).is_none(), "one plan, after the version"),
            Line::Outcome { ok, number, directive } => {
                assert_eq!(number, outcomes.len() + 1, "numbers without gaps");
                outcomes.push((ok, directive));
            }
        }
    }
    assert_eq!(plan, Some(outcomes.len()), "the plan holds");
    outcomes
}

/// Checks both levels of KTAP and returns the outcomes of the outer and of the inner level.
fn check_ktap(text: &str) -> (Vec<TestOutcome>, Vec<TestOutcome>) {
    assert!(text.ends_with('\n'));
    let (inner, outer): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("  "));
    let inner: Vec<_> = inner.iter().map(|line| &line[2..]).collect();
    (check_level(&outer), if inner.is_empty() { Vec::new() } else { check_level(&inner) })
}

#[test]
fn ktap_is_valid() {
    let mut run = stored_run();
    let (outer, inner) = check_ktap(&ktap::ktap(&Subject::from(Viewed::from(&run))));
    assert_eq!(outer, [(false, None)]);
    assert_eq!(inner.iter().map(|(ok, _)| *ok).collect::<Vec<_>>(), [true, true, false]);
    run.cases[0].verdict.status = Status::Skip;
    run.cases[1].verdict.status = Status::Timeout;
    let (_, inner) = check_ktap(&ktap::ktap(&Subject::from(Viewed::from(&run))));
    assert!(inner[0].0 && inner[0].1.as_deref().is_some_and(|d| d.starts_with("SKIP ")));
    assert!(!inner[1].0 && inner[1].1.as_deref().is_some_and(|d| d.starts_with("TIMEOUT ")));
    run.cases.clear();
    assert_eq!(check_ktap(&ktap::ktap(&Subject::from(Viewed::from(&run)))).1, []);
}

#[test]
#[should_panic(expected = "the plan holds")]
fn the_checker_finds_a_wrong_plan() {
    check_ktap("KTAP version 1\n1..2\nok 1 one\n");
}

#[test]
fn live_output_has_no_word_that_log_scanners_look_for() {
    let mut run = stored_run();
    run.cases[2].verdict.reason = "watchdog: BUG: soft lockup, Oops, Kernel panic\nWARNING: at".into();
    run.verdict.reason = run.cases[2].verdict.reason.clone();
    for format in [Format::Human, Format::Ktap, Format::Lava] {
        let mut out = Vec::new();
        print(&mut out, format, &Subject::from(Viewed::from(&run))).expect("a vector takes all");
        let out = String::from_utf8(out).expect("text");
        for word in ["BUG:", "WARNING:", "Oops", "Kernel panic"] {
            assert!(!out.contains(word), "{format:?} holds {word}:\n{out}");
        }
    }
}

#[test]
fn lava_values_have_no_special_characters() {
    let text = lava::signals(&Subject::from(Viewed::from(&stored_run())));
    assert!(text.contains("<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=relax.1G RESULT=fail>\n"), "{text}");
    for line in text.lines() {
        let inside = line.strip_prefix("<LAVA_SIGNAL_TESTCASE ").and_then(|l| l.strip_suffix('>')).expect(line);
        for field in inside.split(' ') {
            let (_, value) = field.split_once('=').expect(line);
            assert!(!value.is_empty() && !value.contains(['=', '>', '<']), "{line}");
        }
    }
}

#[test]
fn each_format_has_the_sanitizer() {
    let mut run = stored_run();
    let found = Sanitizer { owed: 3, published: 5, checked_lines: 320, ..Sanitizer::default() };
    run.cases[0].sanitizer = Some(found);
    let subject = Subject::from(Viewed::from(&run));
    assert!(ktap::ktap(&subject).contains("sanitizer: 5 mappings with 320 written lines judged"));
    assert!(linaro::linaro(&subject).contains(".sanitizer_owed pass 3\n"));
    assert!(junit::junit(&subject).expect("XML").contains("name=\"sanitizer_lines\" value=\"320\""));
    assert!(prom::prom(&subject).contains("faultline_case_sanitizer{case=\"relax.page\",count=\"mappings\"} 5"));
}

#[test]
fn linaro_lines() {
    let text = linaro::linaro(&Subject::from(Viewed::from(&stored_run())));
    assert!(text.contains("relax.1G fail\n") && text.contains("relax.page pass\n"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("relax.1G.exec_max pass ") && line.ends_with(" ns")));
}

#[test]
fn kcidb_has_no_nulls_and_distinguishes_patches() {
    fn has_null(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Null => true,
            serde_json::Value::Array(all) => all.iter().any(has_null),
            serde_json::Value::Object(all) => all.values().any(has_null),
            _ => false,
        }
    }
    let mut run = stored_run();
    let before = kcidb::kcidb(&Subject::from(Viewed::from(&run)));
    run.under_test.patchset_hash = Some("a".repeat(64));
    let after = kcidb::kcidb(&Subject::from(Viewed::from(&run)));
    assert!(!has_null(&before) && !has_null(&after));
    assert_eq!(after["checkouts"][0]["patchset_hash"], "a".repeat(64));
    assert!(before["checkouts"][0].get("patchset_hash").is_none());
    assert_ne!(before["checkouts"][0]["id"], after["checkouts"][0]["id"]);
    assert_eq!(after["tests"][0]["build_id"], after["builds"][0]["id"]);
    let ids: std::collections::BTreeSet<_> =
        after["tests"].as_array().expect("tests").iter().map(|test| test["id"].to_string()).collect();
    assert_eq!(ids.len(), after["tests"].as_array().map_or(0, Vec::len), "ids are unique");
}

#[test]
fn prom_counts_the_lockup() {
    let text = prom::prom(&Subject::from(Viewed::from(&stored_run())));
    assert!(text.contains("faultline_case_lockups{case=\"relax.1G\",side=\"i_side\"} 1\n"), "{text}");
    assert!(text.contains("faultline_case_status{case=\"relax.1G\",status=\"fail\"} 1\n"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().expect(line);
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn files_are_the_same_every_time() {
    let names = ["results.ktap", "junit.xml", "kcidb.json", "result.txt", "faultline.prom"];
    let write = || {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write_all(dir.path(), &Subject::from(Viewed::from(&stored_run()))).expect("it is writable");
        names.map(|name| std::fs::read_to_string(dir.path().join(name)).expect(name))
    };
    let first = write();
    assert_eq!(first, write());
    assert!(first[1].contains("<failure") && first[1].contains("icache_inval_pou"), "{}", first[1]);
}

#[test]
fn a_name_is_the_case_alone_and_lockups_count_once() {
    use record::measure::{lockups, named_cases};
    let mut run = stored_run();
    let twice = run.cases[2].clone();
    run.cases.push(twice);
    run.cases[1].id = "thp.4vcpus-distinct".into();
    let names: Vec<_> = named_cases(&run).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["relax.page", "relax.thp.4vcpus-distinct", "relax.1G", "relax.1G.again1"]);
    let mut case = run.cases[2].clone();
    let d_side =
        Attribution { side: Side::DSide, frame: "dcache_clean_inval_poc+0x1c/0x30".into(), path: Stage2Path::Map };
    let AttributedComplaint { attributions, .. } = &mut case.complaints[0];
    attributions.insert(0, d_side);
    assert_eq!((lockups(&case).i_side, lockups(&case).d_side), (1, 0), "the I side is in there");
}

/// Labels, models and kernel versions may contain any word.
#[test]
fn no_format_has_a_word_that_log_scanners_look_for() {
    const WORDS: &str = "BUG: WARNING: Oops Kernel panic";
    let mut run = stored_run();
    (run.machine.model, run.under_test.label) = (Some(WORDS.into()), Some(WORDS.into()));
    (run.machine.kernel_version, run.machine.command_line) = (WORDS.into(), Some(WORDS.into()));
    run.verdict.reason = WORDS.into();
    run.command.push(WORDS.into());
    for &format in Format::value_variants() {
        let mut out = Vec::new();
        print(&mut out, format, &Subject::from(Viewed::from(&run))).expect("memory");
        let text = String::from_utf8(out).expect("text");
        for word in ["BUG:", "WARNING:", "Oops", "Kernel panic"] {
            assert!(!text.contains(word), "{format:?}: {word} in {text}");
        }
    }
}
