use std::fs;
use std::path::Path;

use clap::ValueEnum;
use record::answer::Answer;
use record::format::Format;
use record::journal::WitnessedEnd;
use record::result::{RunId, RunResult, UnderTest};
use record::status::Status;
use record::store::{self, RunDir};
use record::summary::{PLAN, SUMMARY, Step, Summary};
use report::compare::Options;
use report::compare::baseline::Baseline;
use report::formats;

use crate::plan::file::parse;
use crate::plan::regression;
use crate::plan::runner::{self, FinishedPlan, StepEnd, StepRunner};
use crate::plan::summary::{begin, close, dead, subject};

/// Returns a stored run. Its times are exact, and that of 6.1 locks up on 1G.
fn stored(name: &str) -> RunResult {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/record/tests/runs").join(name);
    store::read(&path).expect("the reference run is a result")
}

/// Runner whose steps leave these results, one after another, or no run.
struct StoredRuns(Vec<Option<RunResult>>);

impl StepRunner for StoredRuns {
    fn directory(&mut self, _: &Step) -> Option<String> {
        None
    }

    fn run(&mut self, plan: &Path, step: &Step) -> StepEnd {
        let Some(result) = self.0.remove(0) else { return StepEnd::NoRun("it did not begin".into()) };
        let name = format!("run-{}", step.name);
        let run = RunDir::create(plan, &name).expect("writable");
        let id = RunId { id: name.clone(), ..result.run.clone() };
        let own = (step.name != step.words[0]).then(|| step.name.clone());
        let result = RunResult { run: id, step: own, ..result };
        run.write(store::RESULT, &result).expect("writable");
        StepEnd::Run { directory: name, witness: WitnessedEnd::default() }
    }
}

fn night(results: &Path, id: &str, plan: &str, runs: Vec<Option<RunResult>>) -> FinishedPlan {
    let plan = parse("night.toml", plan).expect("a plan");
    let run = RunId { id: id.into(), started: "2026-01-01T00:00:00Z".into(), finished: String::new() };
    let summary = begin(run, &plan, vec!["run".into()], UnderTest::default());
    runner::run(summary, results, None, &mut StoredRuns(runs)).expect("it has somewhere to write")
}

const ONE: &str = "[[step]]\nrun = \"relax\"\n";
const TWO: &str = "[[step]]\nrun = \"relax\"\n[[step]]\nname = \"again\"\nrun = \"relax\"\n";

#[test]
fn the_worst_step_decides_and_all_are_in_every_file() {
    let results = tempfile::tempdir().expect("a temporary directory");
    let done = night(results.path(), "1", TWO, vec![Some(stored("debian-6.12")), Some(stored("debian-6.1"))]);
    assert_eq!(done.stored.summary.verdict.status, Status::Fail);
    assert!(done.stored.summary.verdict.reason.starts_with("again: 1G"), "{:?}", done.stored.summary.verdict);
    for name in ["results.ktap", "junit.xml", "kcidb.json", "result.txt", "faultline.prom"] {
        let text = fs::read_to_string(done.directory.join(name)).expect(name);
        assert!(text.contains("relax.1G") && text.contains("again.1G"), "{name}: {text}");
    }
    let prom = fs::read_to_string(done.directory.join("faultline.prom")).expect("written");
    let mut helped: Vec<_> = prom.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
    helped.sort_unstable();
    assert!(helped.windows(2).all(|pair| pair[0] != pair[1]), "a gauge stands twice: {prom}");
    let again = record::summary::read(&done.directory).expect("a summary");
    assert_eq!(again.summary, done.stored.summary);
    assert_eq!(record::runs::directories(results.path()).len(), 2);
    assert_eq!(record::runs::load(&done.directory.to_string_lossy()).map(|runs| runs.len()).ok(), Some(2));
}

#[test]
fn a_step_without_a_run_is_an_error_in_every_format() {
    let results = tempfile::tempdir().expect("a temporary directory");
    let done = night(results.path(), "1", TWO, vec![None, Some(stored("debian-6.12"))]);
    assert_eq!(done.stored.summary.verdict.status, Status::Error);
    let ktap = fs::read_to_string(done.directory.join("results.ktap")).expect("written");
    assert!(ktap.starts_with("KTAP version 1\n1..2\nnot ok 1 relax # ERROR it did not begin\n"), "{ktap}");
    let junit = fs::read_to_string(done.directory.join("junit.xml")).expect("written");
    assert!(junit.contains("it did not begin"), "{junit}");
}

#[test]
fn an_expected_answer_fails_no_night() {
    let results = tempfile::tempdir().expect("a temporary directory");
    let mut affected = stored("debian-6.1");
    affected.facts.insert(record::answer::FACT.into(), Answer::Affected.name().into());
    let mut baseline = Baseline::default();
    let mut status = |name: &str, expected| {
        baseline.set(vec![affected.clone()], expected).expect("it answers that");
        let text = serde_json::to_vec(&baseline).expect("plain data");
        fs::write(results.path().join(report::compare::baseline::FILE), text).expect("writable");
        night(results.path(), name, ONE, vec![Some(affected.clone())]).stored.summary.steps[0].verdict.clone()
    };
    assert_eq!(status("1", None).status, Status::Fail);
    let known = status("2", Some(Answer::Affected));
    assert!(known.status == Status::Pass && known.reason.ends_with("as the baseline expects"), "{known:?}");
}

#[test]
fn a_regression_is_named_in_every_format() {
    let results = tempfile::tempdir().expect("a temporary directory");
    let first = night(results.path(), "1", ONE, vec![Some(stored("debian-6.12"))]);
    assert_eq!((first.stored.summary.verdict.status, &first.stored.summary.regression), (Status::Pass, &None));
    let mut baseline = Baseline::default();
    baseline.set(first.stored.runs.clone(), None).expect("nothing is expected");
    let text = serde_json::to_vec(&baseline).expect("plain data");
    fs::write(results.path().join(report::compare::baseline::FILE), text).expect("writable");
    let same = night(results.path(), "2", ONE, vec![Some(stored("debian-6.12"))]);
    assert_eq!(same.stored.summary.verdict.status, Status::Pass, "{:?}", same.stored.summary.regression);
    // Changes the times alone, so that the verdict of the run itself cannot show the regression.
    let mut slower = stored("debian-6.12");
    for timing in slower.cases.iter_mut().filter_map(|case| case.times.as_mut()?.exec.as_mut()) {
        (timing.ns.p50, timing.ns.max) = (timing.ns.p50 * 9, timing.ns.max * 9);
    }
    let worse = night(results.path(), "3", ONE, vec![Some(slower)]);
    let verdict = &worse.stored.summary.verdict;
    assert_eq!(verdict.status.exit_code(), 1);
    assert!(verdict.reason.starts_with("regression: regression.relax."), "{verdict:?}");
    for &format in Format::value_variants() {
        let mut out = Vec::new();
        formats::print(&mut out, format, &subject(&worse.stored)).expect("memory");
        let text = String::from_utf8(out).expect("text");
        let expected = match format {
            Format::Human => "regression.relax.1G: fail: worse than the baseline: exec_max +",
            Format::Markdown => "\n- regression.relax.1G: fail: worse than the baseline:",
            Format::Json => "\"name\": \"regression.relax.1G\"",
            Format::Ktap => "\n  not ok 3 regression.relax.1G\n",
            Format::Lava => "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=regression.relax.1G RESULT=fail>",
            Format::Junit => "<testcase name=\"regression.relax.1G\" classname=\"faultline.regression\">",
            Format::Kcidb => "\"path\": \"faultline.regression.relax.1G\"",
            Format::Linaro => "\nregression.relax.1G fail\n",
            Format::Prom => "\nfaultline_regression{case=\"regression.relax.1G\"} 1\n",
        };
        assert!(text.contains(expected), "{format:?}: no {expected:?} in {text}");
    }
}

#[test]
fn one_bad_night_does_not_make_the_next_ones_bad() {
    let on_hardware = |name: &str, id: &str| {
        let mut run = stored(name);
        (run.machine.platform, run.machine.lab) = (record::machine::Platform::Hardware, None);
        run.machine.kernel_release = "6.12".into();
        run.machine.kernel_version = "#1".into();
        run.run.id = id.into();
        run
    };
    let mut baseline = Baseline::default();
    baseline.set(vec![on_hardware("debian-6.12", "baseline")], None).expect("nothing is expected");
    let check = |tonight: RunResult, earlier: &[RunResult]| {
        regression::check("baseline.json", &baseline, &[tonight], earlier, Options::default())
    };
    let (mut bad, good) = (on_hardware("debian-6.12", "bad"), |id: &str| on_hardware("debian-6.12", id));
    bad.cases[2] = on_hardware("debian-6.1", "bad").cases[2].clone();
    bad.cases[0].mismatches = 1;
    let regression = check(bad.clone(), &[good("1"), good("2")]);
    assert_eq!(regression.verdict.status, Status::Fail, "{regression:?}");
    assert!(regression.cases[2].verdict.reason.contains("in 1 of 1 runs"), "{regression:?}");
    let regression = check(good("3"), &[good("1"), bad, good("2")]);
    assert_ne!(regression.verdict.status, Status::Fail, "{regression:?}");
}

#[test]
fn a_plan_that_died_is_closed() {
    let results = tempfile::tempdir().expect("a temporary directory");
    let done = night(results.path(), "1", TWO, vec![Some(stored("debian-6.12")), Some(stored("debian-6.12"))]);
    // Leaves what a machine leaves that dies in the second step: no summary, and of this step only its directory.
    let plan = done.directory;
    fs::remove_file(plan.join(SUMMARY)).expect("it was there");
    fs::remove_file(plan.join("run-again").join(store::RESULT)).expect("it was there");
    let mut so_far = done.stored.summary;
    so_far.steps[1].directory = None;
    so_far.write(&plan, PLAN).expect("writable");
    assert_eq!(dead(results.path()).expect("readable"), std::slice::from_ref(&plan));
    let closed = close(&plan).expect("it is dead");
    assert!(closed.summary.recovered && closed.runs.len() == 2 && closed.runs[1].recovered);
    assert_eq!((closed.runs[1].title(), closed.summary.verdict.status), ("again", Status::Error));
    assert!(dead(results.path()).expect("readable").is_empty());
    assert_eq!(record::summary::read(&plan).expect("closed").summary, closed.summary);
}

#[test]
fn a_plan_of_skips_is_a_skip() {
    let results = tempfile::tempdir().expect("a temporary directory");
    let mut skipped = stored("debian-6.12");
    skipped.verdict.status = Status::Skip;
    let done = night(results.path(), "1", ONE, vec![Some(skipped.clone())]);
    assert_eq!(done.stored.summary.verdict.status.exit_code(), 4);
    let done = night(results.path(), "2", TWO, vec![Some(skipped), Some(stored("debian-6.12"))]);
    assert_eq!(done.stored.summary.verdict.status, Status::Pass);
}

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/schema/summary-v1.json");

/// If `FAULTLINE_WRITE_SCHEMA` is set, writes the file first.
#[test]
fn schema_is_the_committed_one() {
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(Summary)).expect("a schema is JSON") + "\n";
    if std::env::var_os("FAULTLINE_WRITE_SCHEMA").is_some() {
        fs::write(SCHEMA, &schema).expect("the repository can be written to");
    }
    let committed = fs::read_to_string(SCHEMA).expect("the schema is committed");
    assert!(committed == schema, "results/schema is stale: FAULTLINE_WRITE_SCHEMA=1 cargo test -p host-runner");
}
