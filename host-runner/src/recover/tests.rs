use record::maintenance::Predicted;
use record::memory::MemoryKind;
use units::size::Size;

use crate::recover::*;

const G1: MemoryKind = MemoryKind::Hugetlb(Size(1 << 30));

/// The directory of a run that died during the case 1G, after the case page and before the case thp.
struct DeadRun(tempfile::TempDir);

fn case(kind: MemoryKind) -> CaseResult {
    CaseResult::on(kind, 2)
}

fn tool() -> Tool {
    Tool { version: "1".into(), commit: "c".into(), peak_resident_kib: None }
}

fn head(command: Vec<String>) -> Head {
    Head {
        started: "2026-01-01T00:00:00Z".into(),
        tool: tool(),
        command,
        provenance: Provenance::default(),
        under_test: UnderTest {
            label: Some("night".into()),
            git_commit_hash: Some("0".repeat(40)),
            ..Default::default()
        },
        scenario: Some("relax".into()),
        step: Some("small".into()),
    }
}

fn entries(boot_id: &str) -> Vec<Entry> {
    let done = CaseResult {
        verdict: Verdict::new(Status::Pass, "permission faults"),
        predicted: Some(Predicted { by_line: 64, capped: 64 }),
        ..case(MemoryKind::Page)
    };
    let command = ["run", "relax"].map(String::from).to_vec();
    vec![
        Entry::Begin { head: Box::new(head(command)), boot_id: boot_id.into(), release: "6.1.0".into() },
        Entry::Ready { detector: Detector::unknown() },
        Entry::Cases { names: ["page", "1G", "thp"].map(String::from).to_vec() },
        Entry::Case { name: "page".into(), before: Box::new(case(MemoryKind::Page)) },
        Entry::CaseDone { name: "page".into(), status: Status::Pass, result: Box::new(done), vcpus: Vec::new() },
        Entry::Case { name: "1G".into(), before: Box::new(case(G1)) },
    ]
}

impl DeadRun {
    fn with(entries: &[Entry]) -> Self {
        let dead = Self(tempfile::tempdir().expect("a temporary directory"));
        let text: String =
            entries.iter().map(|entry| serde_json::to_string(entry).expect("plain data") + "\n").collect();
        dead.put(record::journal::FILE, &text);
        dead.put(store::ENVIRONMENT, &serde_json::to_string(&Machine::unknown("6.1.0")).expect("plain data"));
        dead
    }

    fn new() -> Self {
        Self::with(&entries("another boot"))
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("writable");
    }

    fn close(&self) -> RunResult {
        let result = close(self.0.path(), &WitnessedEnd::default()).expect("it can be closed");
        assert_eq!(store::read(self.0.path()).expect("it is on disk"), result);
        assert!(result.recovered);
        result
    }
}

const LOCKUP: &str = "\
[   20.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 3s! [vcpu-0:77]
[   20.000001] CPU: 1 PID: 77 Comm: vcpu-0 Not tainted 6.1.0 #1
[   20.000002] pc : icache_inval_pou+0x24/0x44
[   20.000003] Call trace:
[   20.000004]  icache_inval_pou+0x24/0x44
[   20.000005]  stage2_attr_walker+0xb8/0x120
[   20.000006]  kvm_pgtable_stage2_relax_perms+0x8c/0xe0
[   20.000007]  user_mem_abort+0x60c/0xa30
[   20.000008] Kernel panic - not syncing: softlockup: hung tasks
";

#[test]
fn a_panic_in_the_console_names_case_and_lockup() {
    let dead = DeadRun::new();
    dead.put("console.log", &format!("[   10.0] faultline run: case 1G begins\n{LOCKUP}"));
    dead.put("kmsg.raw", "4,7,10000000,-;faultline run: case 1G begins\n");
    let result = dead.close();
    assert_eq!(result.verdict.status, Status::Fail);
    for part in ["1G", "soft_lockup", "icache_inval_pou", "the machine died during case 1G", "softlockup: hung tasks"] {
        assert!(result.verdict.reason.contains(part), "{part} is not in {}", result.verdict.reason);
    }
    assert!(!result.verdict.reason.contains("Kernel panic"), "{}", result.verdict.reason);
    let statuses: Vec<_> = result.cases.iter().map(|case| case.verdict.status).collect();
    assert_eq!(statuses, [Status::Pass, Status::Fail, Status::Skip]);
    let own = head(Vec::new());
    assert_eq!((&result.under_test, &result.step), (&own.under_test, &own.step), "the crash is the tested kernel's");
    assert_eq!(result.scenario, "relax");
    assert_eq!(result.cases[0].predicted.map(|predicted| predicted.by_line), Some(64), "a finished case is kept whole");
}

#[test]
fn messages_before_the_case_are_not_its_own() {
    let dead = DeadRun::new();
    dead.put("console.log", &format!("{LOCKUP}[   30.0] faultline run: case 1G begins\n"));
    let result = dead.close();
    assert_eq!((result.cases[1].verdict.status, result.cases[1].complaints.len()), (Status::Error, 0));
}

#[test]
fn a_log_without_the_mark_counts_as_a_whole() {
    let dead = DeadRun::new();
    let lines =
        LOCKUP.lines().zip(0..).filter_map(|(line, n)| Some(format!("0,{n},{n},-;{}\n", line.split_once("] ")?.1)));
    dead.put("kmsg.raw", &lines.collect::<String>());
    let result = dead.close();
    assert_eq!(result.verdict.status, Status::Fail, "{}", result.verdict.reason);
    assert!(result.evidence.notes.iter().any(|note| note.contains("all of it counts")), "{:?}", result.evidence.notes);
}

#[test]
fn an_existing_result_is_not_replaced() {
    let dead = DeadRun::new();
    let first = dead.close();
    let again = close(dead.0.path(), &WitnessedEnd { cause: Some("other".into()), ..WitnessedEnd::default() });
    assert_eq!(again.expect("it is there").verdict, first.verdict);
}

#[test]
fn an_end_without_evidence_is_unknown() {
    let dead = DeadRun::new();
    let result = dead.close();
    assert_eq!(result.verdict.status, Status::Error);
    assert!(result.verdict.reason.contains("says why"), "{}", result.verdict.reason);
    assert!(result.evidence.absent.iter().any(|part| part.starts_with("kmsg.raw")), "{:?}", result.evidence.absent);
    let bare = DeadRun::with(&[]);
    fs::remove_file(bare.0.path().join(store::ENVIRONMENT)).expect("it was there");
    let result = bare.close();
    assert_eq!((result.verdict.status, result.cases.len()), (Status::Error, 0));
    assert_eq!(result.detector, Detector::unknown());
    assert!(result.verdict.reason.contains("unknown"), "{}", result.verdict.reason);
}

#[test]
fn the_same_boot_means_that_only_the_runner_died() {
    let here = boot_id().expect("Linux has one");
    let result = DeadRun::with(&entries(&here)).close();
    assert!(result.verdict.reason.contains("the runner was killed during case 1G"), "{}", result.verdict.reason);
}

#[test]
fn the_runners_own_reason_outweighs_the_witness() {
    let mut entries = entries("another boot");
    let dead = DeadRun::with(&entries);
    let witness = WitnessedEnd { cause: Some("QEMU failed: signal 9".into()), ..WitnessedEnd::default() };
    let result = close(dead.0.path(), &witness).expect("it can be closed");
    assert!(result.verdict.reason.ends_with("QEMU failed: signal 9"), "{}", result.verdict.reason);
    entries.push(Entry::Failed { reason: "the disk is full".into() });
    let result = DeadRun::with(&entries).close();
    assert!(result.verdict.reason.contains("the disk is full"), "{}", result.verdict.reason);
}

#[test]
fn only_dead_runs_are_found_and_closed() {
    let results = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| results.path().join(name);
    let alive = store::RunDir::create(results.path(), "alive").expect("writable");
    for name in ["dead", "whole", "other"] {
        fs::create_dir(path(name)).expect("writable");
    }
    for name in ["dead", "whole"] {
        fs::write(path(name).join(record::journal::FILE), "").expect("writable");
    }
    fs::write(path("whole").join(store::RESULT), "{}").expect("writable");
    assert_eq!(dead_runs(results.path()).expect("readable"), [path("alive"), path("dead")]);
    assert_eq!(dead_runs(&path("dead")).expect("readable"), [path("dead")]);
    assert!(dead_runs(&path("whole")).expect("readable").is_empty());
    assert!(matches!(close(alive.path(), &WitnessedEnd::default()), Err(Error::Alive(_))));
    assert!(matches!(close(&path("other"), &WitnessedEnd::default()), Err(Error::NoRun(_))));
    close(&path("dead"), &WitnessedEnd::default()).expect("it can be closed");
    let (before, left) = runs::read_dead(&path("dead")).expect("it is closed");
    assert!(before.recovered && left.is_empty());
}

#[test]
fn a_closed_run_can_be_resumed() {
    let dead = DeadRun::new();
    dead.close();
    let (before, left) = runs::read_dead(dead.0.path()).expect("it is closed");
    assert_eq!((before.cases.len(), left), (3, vec!["thp".to_owned()]));
}
