//! Coherence end to end under QEMU: host events on real KVM, judged by the oracle; random programs; replay. `make test`
//! runs these after `make build`.

mod support;

use std::path::Path;

use serde_json::Value;
use support::{faultline, lab, stderr, stdout};

fn events(result: &Value) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let cases = result["cases"].as_array().expect("cases").iter();
    let of = |case: &Value| {
        (text(&case["coherence"]["event"]), text(&case["verdict"]["status"]), case["coherence"]["ways"].clone())
    };
    cases.map(of).collect()
}

/// On a machine without FWB: looks past the caches count, and both sides are maintained.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn what_unmaps_is_maintained_and_what_does_not_promises_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let wanted = ["rewrite", "unmap", "discard", "remap", "slot-delete", "dirty-log-on", "fork", "userfault"];
    let run = ["run", "coherence", "--blocks", "page", "--events", &wanted.join(",")];
    let (output, found) = lab(directory.path(), &["--cpu", "neoverse-n1"], &run);
    let text = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{text}");
    let events = events(found.first().expect("a result"));
    assert_eq!(events.iter().map(|(event, ..)| event.as_str()).collect::<Vec<_>>(), wanted);
    for (event, status, ways) in &events {
        assert_eq!(status, "pass", "{event}: {text}");
        for way in ways.as_array().expect("ways") {
            let calls = |side: &str| way["host"][side]["calls"].as_u64().expect("a probe");
            let looks_past_caches =
                ["load-non-cacheable", "load-caches-off"].contains(&way["looks"].as_str().expect("how"));
            if event == "unmap" {
                assert!(calls("dcache") >= 256, "{way}");
                assert!(way["looks"] != "fetch" || calls("icache") >= 256, "{way}");
                assert_eq!(way["seen"]["skipped"], 0, "without FWB {looks_past_caches} shows something: {way}");
            }
            assert_eq!((&way["seen"]["forbidden"], &way["seen"]["unjudged"]), (&0.into(), &0.into()), "{way}");
        }
    }
    // KVM promises nothing for a rewrite without an unmap, nor for a guest that leaves its own invalidation out.
    let newest = |event: &str, writer: &str| {
        let (_, _, ways) = events.iter().find(|(name, ..)| name == event).expect("it ran");
        let ways: Vec<_> =
            ways.as_array().into_iter().flatten().filter(|way| way["writer"] == writer).cloned().collect();
        assert!(!ways.is_empty(), "{event} {writer}");
        ways.into_iter()
            .filter(|way| way["looks"] == "fetch")
            .map(|way| way["seen"]["newest"].as_u64().unwrap_or(0))
            .sum::<u64>()
    };
    assert!(newest("rewrite", "host") > 0);
    assert_eq!(newest("unmap", "host"), 0);
    assert!(newest("unmap", "careless") + newest("discard", "careless") + newest("fork", "careless") > 0);
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn random_programs_raise_nothing_and_are_the_same_for_the_same_seed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = |name: &str| {
        let results = directory.path().join(name);
        let (output, found) = lab(&results, &[], &["run", "random", "--seed", "7", "--programs", "100", "--quiet"]);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        found.first().expect("a result")["cases"][0]["random"].clone()
    };
    let (once, again) = (run("once"), run("again"));
    assert_eq!(once["programs"], 100);
    assert!(once["seen"]["required"].as_u64().is_some_and(|count| count > 100), "{once}");
    for field in ["steps", "events", "seen"] {
        assert_eq!(once[field], again[field]);
    }
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_program_in_a_file_is_run_and_one_that_cannot_be_judged_is_told() {
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
    // Nobody waits for anybody: vCPU 1 fetches what vCPU 0 writes.
    let racy = text.replace("do = \"meet\"", "vcpu = 0\ndo = \"inval-i-all\"");
    let output = replay("racy.toml", &racy);
    assert_eq!(output.status.code(), Some(64), "{}{}", stdout(&output), stderr(&output));
    assert!(format!("{}{}", stdout(&output), stderr(&output)).contains("no meeting between"), "{}", stderr(&output));
}

#[test]
#[ignore = "needs make build and QEMU"]
fn a_bad_event_is_named_with_those_that_there_are() {
    let output =
        faultline(60).args(["run", "coherence", "--events", "nonsense"]).output().expect("timeout(1) is there");
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("userfault"), "{}", stderr(&output));
}
