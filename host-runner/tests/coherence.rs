//! Tests coherence end to end under QEMU: host events on real KVM, judged by the oracle, random programs, and program
//! files. `make test` runs them after `make build`.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{faultline, lab, stderr, stdout, stored};

/// Runs the lab on both kernels, on a CPU without FWB: looks past the caches count, and KVM maintains both sides.
fn on_both(results: &Path, run: &[&str]) -> Vec<Value> {
    let mut command = faultline(600);
    command.args(["lab", "--kernel", "debian:6.1,debian:6.12", "--results"]).arg(results);
    let output =
        command.args(["--nodes", "2", "--swap", "256M", "--", "run"]).args(run).output().expect("timeout(1) is there");
    let text = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{text}");
    let read = |path: PathBuf| std::fs::read(path.join("result.json")).expect("the run has a result");
    let paths = stored(&output).into_iter();
    let found: Vec<Value> = paths.map(|path| serde_json::from_slice(&read(path)).expect("results are JSON")).collect();
    assert_eq!(found.len(), 2, "{text}");
    found
}

fn events(result: &Value) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let cases = result["cases"].as_array().expect("cases").iter();
    let of = |case: &Value| {
        (text(&case["findings"]["event"]), text(&case["verdict"]["status"]), case["findings"]["combinations"].clone())
    };
    cases.map(of).collect()
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn events_that_unmap_are_maintained_and_others_promise_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let wanted =
        ["rewrite", "unmap", "discard", "remap", "migrate", "slot-delete", "dirty-log-on", "fork", "swap", "userfault"];
    for result in on_both(directory.path(), &["coherence", "--blocks", "page", "--events", &wanted.join(",")]) {
        let events = events(&result);
        assert_eq!(events.iter().map(|(event, ..)| event.as_str()).collect::<Vec<_>>(), wanted);
        for (event, status, combinations) in &events {
            assert_eq!(status, "pass", "{event}: {combinations}");
            combinations.as_array().expect("combinations").iter().for_each(|one| assert_holds(event, one));
        }
        // KVM promises nothing for a rewrite without an unmap, or for a guest that leaves its own invalidation out.
        assert!(newest_where_older_is_allowed(&events, &["rewrite"], "host") > 0);
        assert_eq!(newest_where_older_is_allowed(&events, &["unmap"], "host"), 0);
        assert!(newest_where_older_is_allowed(&events, &wanted, "careless") > 0);
    }
}

/// Checks one combination: nothing is forbidden, and after an unmap each of the 64 pages has a fault
/// and its maintenance.
fn assert_holds(event: &str, one: &Value) {
    assert_eq!((&one["seen"]["forbidden"], &one["seen"]["unjudged"]), (&0.into(), &0.into()), "{one}");
    let calls = |side: &str| one["host"][side]["calls"].as_u64().expect("a probe");
    if event == "unmap" {
        assert!(calls("dcache") >= 64 && (one["look"] != "fetch" || calls("icache") >= 64), "{one}");
        assert_eq!(one["seen"]["skipped"], 0, "without FWB looks past the caches show something: {one}");
    }
}

/// Counts the fetches that saw the newest code although older code was allowed.
fn newest_where_older_is_allowed(events: &[(String, String, Value)], names: &[&str], writer: &str) -> u64 {
    let named = events.iter().filter(|(event, ..)| names.contains(&event.as_str()));
    let all = named.flat_map(|(.., combinations)| combinations.as_array().expect("combinations"));
    let fetches = all.filter(|one| one["writer"] == writer && one["look"] == "fetch");
    fetches.map(|one| one["seen"]["newest"].as_u64().expect("a count")).sum()
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn random_programs_pass_and_repeat_for_the_same_seed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = |name: &str| {
        let results = directory.path().join(name);
        let (output, found) = lab(&results, &[], &["run", "random", "--seed", "7", "--programs", "100", "--quiet"]);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        found.first().expect("a result")["cases"][0]["findings"].clone()
    };
    let (once, again) = (run("once"), run("again"));
    assert_eq!(once["programs"], 100);
    assert!(once["seen"]["required"].as_u64().is_some_and(|count| count > 100), "{once}");
    for field in ["ops", "events", "seen"] {
        assert_eq!(once[field], again[field]);
    }
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_program_file_runs_and_an_unjudgeable_one_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let replay = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).expect("writable");

        lab(&directory.path().join("results"), &[], &["run", &file.to_string_lossy()]).0
    };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/unmap.toml");
    let text = std::fs::read_to_string(example).expect("the example is there");
    let output = replay("unmap.toml", &text);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    // Without the meeting, vCPU 1 fetches while vCPU 0 writes.
    let racy = text.replace("do = \"meet\"", "vcpu = 0\ndo = \"inval-i-all\"");
    let output = replay("racy.toml", &racy);
    assert_eq!(output.status.code(), Some(64), "{}{}", stdout(&output), stderr(&output));
    assert!(format!("{}{}", stdout(&output), stderr(&output)).contains("no meeting between"), "{}", stderr(&output));
}

/// Runs a program in the lab that fetches code before and after these events. Returns the exit code and all output.
fn fetch_around(backing: &str, events: &[&str], options: &[&str]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("events.toml");
    let span = "start = 0\nstride = 4096\ncount = 8\n";
    let fetch = format!("\n[[op]]\ndo = \"fetch\"\n{span}");
    let event = |name: &&str| format!("\n[[op]]\ndo = \"event\"\nevent = \"{name}\"\n{span}generation = 1\n");
    let events: String = events.iter().map(event).collect();
    let text = format!("failed = \"\"\nvcpus = 1\nbacking = \"{backing}\"\n{fetch}{events}{fetch}");
    std::fs::write(&file, text).expect("writable");
    let output = lab(&directory.path().join("results"), options, &["run", &file.to_string_lossy()]).0;
    (output.status.code(), format!("{}{}", stdout(&output), stderr(&output)))
}

/// A transparent huge page moves to another node with its first page; the kernel answers EBUSY for the others.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_huge_page_migrates() {
    let (code, text) = fetch_around("thp", &["migrate"], &["--nodes", "2"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("PASS"), "{text}");
}

/// The kernel needs a spare page to serve a hugetlb page. The guest would read zeros where it has none, which is no
/// fault of KVM.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_page_that_cannot_be_served_is_a_skip() {
    let pool = ["--append", "hugepagesz=1G hugepages=2"];
    let (code, text) = fetch_around("1G", &["userfault", "move-vcpu"], &pool);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("UFFDIO_COPY"), "{text}");
}

#[test]
#[ignore = "needs make build and QEMU"]
fn a_wrong_event_is_reported_with_the_valid_ones() {
    let output =
        faultline(60).args(["run", "coherence", "--events", "nonsense"]).output().expect("timeout(1) is there");
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("userfault"), "{}", stderr(&output));
}
