//! Tests the scenarios storm, policy and dside on kernels that differ by one rule, under QEMU. `make test-long` builds
//! these kernels and runs the tests.

#![allow(clippy::print_stdout, reason = "says which test was skipped, and why")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::bisect::first_bad;
use support::{faultline, stderr, stdout, stored};

/// Runs the lab on `kernels` and returns its output and the result of each kernel, in their order.
fn lab(results: &Path, kernels: &[&str], options: &[&str], run: &[&str]) -> (Output, Vec<Value>) {
    let mut command = faultline(900);
    command.args(["lab", "--kernel", &kernels.join(",")]);
    if !options.contains(&"--append") {
        command.args(["--append", "hugepagesz=1G hugepages=1"]);
    }
    command.arg("--results").arg(results).args(options).args(["--", "run"]).args(run);
    command.args(["--watchdog-thresh", "1", "--hugepages"]);
    let output = command.output().expect("timeout(1) is there");
    let text = stdout(&output);
    let read = |path: PathBuf| std::fs::read(path.join("result.json"));
    let parse = |path| read(path).map(|json| serde_json::from_slice(&json).expect("results are JSON"));
    let found: Result<Vec<Value>, _> = stored(&output).into_iter().map(parse).collect();
    let found = found.unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(&output)));
    assert_eq!(found.len(), kernels.len(), "{text}{}", stderr(&output));
    (output, found)
}

/// Returns true, with a note, if the lab could not get a QEMU that has CPU models with DIC.
fn no_qemu_10(output: &Output) -> bool {
    let printed = stderr(output);
    let missing = printed.contains("no QEMU 10 or newer");
    if missing {
        println!("skipped: {printed}");
    }
    missing
}

fn results() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Returns the number of soft lockups in a result that are attributed to `side`.
fn lockups(result: &Value, side: &str) -> usize {
    let complaints = result["cases"].as_array().into_iter().flatten().flat_map(|case| case["complaints"].as_array());
    let of_side = |c: &&Value| c["attributions"].as_array().is_some_and(|all| all.iter().any(|a| a["side"] == side));
    complaints.flatten().filter(|c| c["event"]["kind"] == "soft_lockup").filter(of_side).count()
}

/// Runs `reproduce-patch` and returns its output and every result, without the parts in which two equal runs differ.
fn reproduce_patch() -> (String, Vec<Value>) {
    let directory = results();
    let mut command = faultline(2400);
    let output = command.args(["reproduce-patch", "--results"]).arg(directory.path()).output().expect("timeout(1)");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    let read = |path: PathBuf| {
        let json = std::fs::read(path.join("result.json")).expect("the run has a result");
        let mut result: Value = serde_json::from_slice(&json).expect("results are JSON");
        result["run"].take();
        result["provenance"].take();
        result
    };
    let found = stored(&output).into_iter().map(read).collect();
    (text, found)
}

#[test]
#[ignore = "needs make build and QEMU"]
fn the_patch_alone_is_reproduced_and_twice_the_same() {
    let (text, found) = reproduce_patch();
    assert_eq!(text.matches("\nREPRODUCED").count(), 2, "{text}");
    assert!(text.contains("fails as \"no maintenance\"") && !text.contains("FAILED"), "{text}");
    assert_eq!(found.len(), 4, "{text}");
    let growth = |result: &Value| result["cases"][2]["findings"]["growth"].as_f64().expect("one racer ran, too");
    assert!(growth(&found[0]) >= 3.5 && found[1..].iter().all(|fixed| growth(fixed) < 1.5), "{text}");
    let (again, others) = reproduce_patch();
    assert_eq!(text, again);
    assert!(found == others, "two equal runs differ");
}

/// Small blocks lock up, too, if 16 vCPUs fault at once.
#[test]
#[ignore = "needs make build and QEMU"]
fn small_blocks_lock_up_as_well() {
    let directory = results();
    let mut command = faultline(2400);
    command.args(["reproduce-patch", "--plan", "small-blocks", "--results"]).arg(directory.path());
    let output = command.output().expect("timeout(1)");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert_eq!(text.matches("\nREPRODUCED").count(), 2, "{text}");
}

/// With the kernels swapped, the command must not claim a reproduction.
#[test]
#[ignore = "needs make build and QEMU"]
fn a_fixed_kernel_in_place_of_the_bug_reproduces_nothing() {
    let directory = results();
    let mut command = faultline(2400);
    command.args([
        "reproduce-patch",
        "--by-line",
        "policy:upton",
        "--fixed",
        "policy:by-line",
        "--none",
        "policy:shan",
    ]);
    let output = command.arg("--results").arg(directory.path()).output().expect("timeout(1)");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(&output));
    assert!(!text.contains("\nREPRODUCED") && text.contains("FAILED: policy:shan: not shown"), "{text}");
}

#[test]
#[ignore = "needs make build and QEMU"]
fn each_policy_is_named() {
    let kernels = ["policy:by-line", "policy:upton", "policy:shan", "policy:none", "debian:6.1", "debian:6.12"];
    let classes = ["by_line", "capped", "capped", "none", "by_line", "capped"];
    for trace in [&[][..], &["--no-trace"]] {
        let directory = results();
        let run: Vec<_> = ["policy", "--blocks", "page,thp,1G"].iter().chain(trace).copied().collect();
        let (output, found) = lab(directory.path(), &kernels, &["--cpu", "max", "--time-scale", "4"], &run);
        let named: Vec<_> = found.iter().map(|result| &result["conclusion"]["class"]).collect();
        assert_eq!(named, classes, "{trace:?}");
        assert_eq!(found[3]["verdict"]["status"], "fail");
        assert_eq!(output.status.code(), Some(1), "none fails");
    }
}

/// With 64K pages, the cost of one page is large enough to distinguish all three policies by time.
#[test]
#[ignore = "needs make build and QEMU"]
fn each_policy_is_named_on_64k_pages() {
    let kernels = ["policy:by-line+64k", "policy:upton+64k", "policy:none+64k"];
    let options = ["--cpu", "max", "--time-scale", "4", "--append", "hugepagesz=512M hugepages=1"];
    let counting: Vec<_> = options.iter().chain(&["--count"]).copied().collect();
    for (options, trace) in [(&options[..], &[][..]), (&counting, &[]), (&options, &["--no-trace"])] {
        let directory = results();
        let run: Vec<_> = ["policy", "--blocks", "page,512M"].iter().chain(trace).copied().collect();
        let (_, found) = lab(directory.path(), &kernels, options, &run);
        let named: Vec<_> = found.iter().map(|result| &result["conclusion"]["class"]).collect();
        assert_eq!(named, ["by_line", "capped", "none"], "{options:?} {trace:?}");
    }
}

/// Tracing must add little to a long fault.
#[test]
#[ignore = "needs make build and QEMU"]
fn tracing_costs_little_where_it_matters() {
    for (kernel, block) in [("policy:by-line", "1G"), ("policy:by-line+16k", "32M"), ("policy:by-line+64k", "512M")] {
        let directory = results();
        let append = format!("hugepagesz={block} hugepages=1");
        let options = ["--cpu", "max", "--time-scale", "4", "--append", &append];
        let (_, found) = lab(directory.path(), &[kernel], &options, &["relax", "--blocks", block]);
        let cost = &found[0]["cases"][0]["times"]["tracing_cost"];
        let [untraced, traced] = ["untraced_ns", "traced_ns"].map(|name| cost[name].as_f64().expect("it was measured"));
        let percent = (traced / untraced - 1.0) * 100.0;
        println!("{kernel} {block}: tracing adds {percent:.2} % to a fault of {:.1} ms", untraced / 1e6);
        assert!(percent <= 5.0, "{kernel} {block}: {cost}");
    }
}

/// The I-cache of this CPU model is VIPT, so only counted operations could show the policy.
#[test]
#[ignore = "needs make build and QEMU"]
fn an_aliasing_cache_cannot_be_told() {
    let directory = results();
    let options = ["--cpu", "a64fx", "--time-scale", "4"];
    let (output, found) = lab(directory.path(), &["debian:6.12"], &options, &["policy", "--blocks", "page,thp"]);
    assert_eq!(found[0]["conclusion"]["class"], "cannot_tell", "{}", stdout(&output));
    assert_eq!(output.status.code(), Some(4));
}

#[test]
#[ignore = "needs make build and QEMU"]
fn the_control_does_not_multiply() {
    let directory = results();
    let options = ["--cpu", "max", "--smp", "4", "--time-scale", "4"];
    let run = ["storm", "--order", "exec-first", "--racers", "1,4", "--blocks", "thp"];
    let (_, found) = lab(directory.path(), &["policy:by-line"], &options, &run);
    let races = found[0]["cases"][1]["findings"]["traced"].as_array().expect("it was traced");
    assert!(!races.is_empty() && races.iter().all(|race| race["invalidations"] == 1), "{races:?}");
}

/// Lockups of both sides in one run are attributed correctly.
#[test]
#[ignore = "needs make build and QEMU"]
fn both_sides_are_told_apart() {
    let directory = results();
    let options = ["--cpu", "neoverse-n1", "--smp", "4", "--time-scale", "6"];
    let run = ["storm", "--racers", "4", "--blocks", "1G"];
    let (_, found) = lab(directory.path(), &["policy:by-line", "policy:upton"], &options, &run);
    assert!(lockups(&found[0], "i_side") > 0 && lockups(&found[0], "d_side") > 0);
    assert!(lockups(&found[1], "i_side") == 0 && lockups(&found[1], "d_side") > 0);
    let directory = results();
    let (output, found) = lab(directory.path(), &["policy:upton"], &options, &["dside", "--blocks", "1G"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(lockups(&found[0], "d_side") > 0 && lockups(&found[0], "i_side") == 0);
}

/// With DIC, KVM grants execution at the first fault and invalidates nothing.
#[test]
#[ignore = "needs make build, QEMU and QEMU 10, which is fetched"]
fn a_cpu_with_dic_cannot_show_it_and_doctor_says_so() {
    let directory = results();
    let mut command = faultline(300);
    command.args(["lab", "--qemu", "10", "--kernel", "debian:6.12", "--cpu", "neoverse-v1", "--time-scale", "6"]);
    command.args(["--append", "hugepagesz=1G hugepages=1"]).arg("--results").arg(directory.path());
    let output = command.args(["--", "doctor", "--json"]).output().expect("timeout(1) is there");
    if no_qemu_10(&output) {
        return;
    }
    assert_eq!(output.status.code(), Some(4), "{}{}", stdout(&output), stderr(&output));
    let text = stdout(&output);
    let (_, json) = text.split_once('{').expect("JSON was printed");
    let mut answers = serde_json::Deserializer::from_str(&text[text.len() - json.len() - 1..]).into_iter::<Value>();
    let answer = answers.next().expect("an answer").expect("it is JSON");
    assert_eq!(answer["outcome"], "cannot_show", "{answer:#}");
    let checks = answer["checks"].as_array().expect("a list");
    let check = |name: &str| checks.iter().find(|check| check["name"] == name).expect("it is looked at").clone();
    assert!(check("cpu")["text"].as_str().is_some_and(|text| text.contains("DIC 1")), "{answer:#}");
    assert_eq!(check("i-cache")["state"], "cannot_show", "{answer:#}");
    let others = checks.iter().filter(|check| check["name"] != "i-cache");
    assert!(others.clone().all(|check| check["state"] != "cannot_show"), "nothing else stands in the way: {answer:#}");
}

/// With DIC both kernels behave alike: the cells are skipped, and nothing is invalidated.
#[test]
#[ignore = "needs make build, QEMU and QEMU 10, which is fetched"]
fn cells_with_dic_skip_for_that_reason() {
    let directory = results();
    let mut command = faultline(600);
    let output = command.args(["matrix", "--cpus", "neoverse-v1", "--results"]).arg(directory.path()).output();
    let output = output.expect("timeout(1) is there");
    let table = std::fs::read_to_string(directory.path().join("matrix.md")).unwrap_or_default();
    assert_eq!(output.status.code(), Some(4), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).lines().all(|line| line.chars().count() <= 80), "{}", stdout(&output));
    let cells: Vec<_> = table.lines().filter(|line| line.starts_with("| neoverse-v1 |")).collect();
    assert_eq!(cells.len(), 2, "{table}");
    if table.contains("no QEMU 10 or newer") {
        println!("skipped: {table}");
        return;
    }
    assert!(cells.iter().all(|cell| cell.contains("| skip | DIC: ")), "{table}");
    let runs = std::fs::read_dir(directory.path()).expect("it was made").flatten();
    let counted: Vec<Value> = runs
        .filter_map(|run| std::fs::read(run.path().join("result.json")).ok())
        .map(|json| serde_json::from_slice(&json).expect("results are JSON"))
        .collect();
    assert_eq!(counted.len(), 2);
    for case in counted.iter().flat_map(|run| run["cases"].as_array().expect("cases")) {
        assert_eq!(case["counted"]["ic_ivau"], 0, "{case:#}");
    }
}

/// With a QEMU whose `max` CPU has DIC, `reproduce` chooses another CPU model.
#[test]
#[ignore = "needs make build, QEMU and QEMU 10, which is fetched"]
fn reproduce_takes_a_cpu_without_dic() {
    let directory = results();
    let (output, _) = support::reproduce(directory.path(), &["--qemu", "10"]);
    if no_qemu_10(&output) {
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).lines().any(|line| line.starts_with("REPRODUCED: ")), "{}", stdout(&output));
}

/// `git bisect run` finds the commit that removed the cap, among kernels that differ by one rule.
#[test]
#[ignore = "needs make build and QEMU"]
fn git_bisect_finds_the_patch() {
    let directory = results();
    let history = ["policy:upton", "policy:shan", "policy:upton", "policy:by-line", "policy:by-line", "policy:by-line"];
    let lab = "--cpu max --time-scale 6 --append 'hugepagesz=1G hugepages=1' -- \
               run relax --blocks 1G --hugepages --watchdog-thresh 1";
    let (printed, found) = first_bad(directory.path(), &history, lab);
    assert_eq!(found, Some(3), "{printed}");
}

/// The same with no option but the kernel: by answers.
#[test]
#[ignore = "needs make build and QEMU"]
fn git_bisect_finds_the_patch_by_answers() {
    let directory = results();
    let history = ["policy:upton", "policy:upton", "policy:by-line", "policy:by-line", "policy:by-line"];
    let (printed, found) = first_bad(directory.path(), &history, "-- check");
    assert_eq!(found, Some(2), "{printed}");
}

/// Runs `check` and returns its exit code, its answer and the remedy.
fn check(kernel: &str, options: &[&str]) -> Option<(Option<i32>, Value, Value)> {
    let directory = results();
    let mut command = faultline(300);
    command.args(["lab", "--json", "--kernel", kernel]).args(options).arg("--results").arg(directory.path());
    let output = command.args(["--", "check"]).output().expect("timeout(1) is there");
    if no_qemu_10(&output) {
        return None;
    }
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    Some((output.status.code(), said["answer"].clone(), said["runs"][0]["result"]["conclusion"]["remedy"].clone()))
}

#[test]
#[ignore = "needs make build, QEMU and QEMU 10, which is fetched"]
fn check_has_an_answer_for_each_kind_of_kernel() {
    let answer = |kernel: &str, options: &[&str]| check(kernel, options).map(|(code, answer, _)| (code, answer));
    assert_eq!(answer("policy:none", &[]), Some((Some(1), "broken".into())));
    assert_eq!(answer("policy:shan", &[]), Some((Some(0), "not_affected".into())));
    assert_eq!(answer("policy:by-line+64k", &["--mem", "2048"]), Some((Some(1), "affected".into())));
    let with_dic = answer("debian:6.12", &["--qemu", "10", "--cpu", "neoverse-n2"]);
    assert!(with_dic.is_none_or(|found| found == (Some(0), "not_affected".into())));
    // No block of 512 MiB fits into this memory.
    let (code, said, remedy) = check("policy:by-line+64k", &["--mem", "512"]).expect("no other QEMU is needed");
    assert_eq!((code, said), (Some(4), "cannot_tell".into()));
    assert!(remedy.as_str().is_some_and(|command| command.starts_with("echo madvise > ")), "{remedy}");
}

/// Another name, and another packing, of the same Image change emulated times by little.
#[test]
#[ignore = "needs make build and QEMU"]
fn the_same_image_is_the_same_under_any_name() {
    use std::io::Write;
    let directory = results();
    let at = |name: &str| directory.path().join(name);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("set")).join(".cache"));
    let image = std::fs::read(cache.join("faultline/kernels/debian-6.12/Image")).expect("make test fetched it");
    let gzip = at("Image.gz");
    let mut packer = std::process::Command::new("gzip");
    let mut packing = packer
        .arg("-1c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::fs::File::create(&gzip).expect("writable"))
        .spawn()
        .expect("gzip is part of every Debian");
    packing.stdin.take().expect("a pipe").write_all(&image).expect("it reads");
    assert!(packing.wait().expect("it ends").success());
    let names = ["a", "the-kernel", "a-name-that-is-much-longer-than-the-others", "b.Image", "k"];
    let mut kernels = vec![gzip];
    for name in names {
        std::fs::write(at(name), &image).expect("writable");
        kernels.push(at(name));
    }
    let runs: Vec<PathBuf> = kernels
        .iter()
        .map(|kernel| {
            let mut command = faultline(300);
            command.args(["lab", "--cpu", "max", "--time-scale", "6", "--append", "hugepagesz=1G hugepages=1"]);
            command.arg("--kernel").arg(kernel).arg("--results").arg(at("results"));
            let output = command.args(["--", "run", "relax", "--blocks", "page,thp,1G"]).output().expect("timeout(1)");
            assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
            stored(&output).pop().expect("it is stored")
        })
        .collect();
    let mut compared = 0;
    for (before, after) in runs.iter().flat_map(|one| runs.iter().map(move |other| (one, other))) {
        let output = faultline(60).arg("compare").args([before, after]).output().expect("timeout(1) is there");
        assert!(output.status.success() && stdout(&output).starts_with("SAME: "), "{}", stdout(&output));
        compared += 1;
    }
    assert_eq!(compared, 36);
}

/// Under TCG, a guest sees the right tokens even on a kernel that does no maintenance. The counts make the run fail.
#[test]
#[ignore = "needs make build and QEMU"]
fn coherence_fails_a_kernel_without_maintenance() {
    let directory = results();
    let run = ["coherence", "--blocks", "page", "--events", "unmap,rewrite"];
    let (output, found) = lab(directory.path(), &["policy:none"], &[], &run);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    let verdicts: Vec<_> = found[0]["cases"].as_array().expect("cases").iter().map(|case| &case["verdict"]).collect();
    assert!(
        verdicts.iter().any(|verdict| verdict["reason"].as_str().is_some_and(|why| why.contains("no maintenance")))
    );
}
