//! Tests nightly plans, baselines, retention and bisection in the lab. `make test` runs these tests after `make build`.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use support::bisect::first_bad;
use support::{faultline, stderr, stdout, stored};

/// A small plan with both kinds of step names: that of the scenario, and one that the plan gives.
const PLAN: &str = r#"
about = "a night for a test"
[[step]]
run = "relax --blocks page,thp"
[[step]]
name = "race"
run = "storm --blocks thp --racers 1,2"
"#;

/// Runs the plan on `kernel` and returns the output and the plan's directory.
fn night(results: &Path, kernel: &str) -> (Output, PathBuf) {
    let plan = results.join("night.toml");
    std::fs::write(&plan, PLAN).expect("writable");
    let mut command = faultline(300);
    command.args(["lab", "--kernel", kernel, "--cpu", "max", "--mem", "2048", "--time-scale", "4"]);
    command.arg("--results").arg(results).args(["--", "run"]).arg(&plan).args(["--label", "nightly"]);
    let output = command.output().expect("timeout(1) is there");
    let text = stdout(&output);
    let directory = stored(&output).pop().unwrap_or_else(|| panic!("{text}{}", stderr(&output)));
    assert!(directory.join("summary.json").is_file(), "{text}{}", stderr(&output));
    (output, directory)
}

fn run(arguments: &[&str], path: &Path) -> Output {
    faultline(60).args(arguments).arg(path).output().expect("timeout(1) is there")
}

fn nights(results: &Path) -> usize {
    let entries = std::fs::read_dir(results).expect("readable").flatten();
    entries.filter(|entry| entry.path().join("summary.json").is_file()).count()
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn the_second_night_is_slower_and_every_format_says_so() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let results = directory.path();
    let (output, first) = night(results, "debian:6.12");
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(!stdout(&output).contains("regression"), "there is no baseline yet");
    let baseline = results.join("baseline.json");
    let set = run(&["baseline", "set", "--baseline", &baseline.to_string_lossy()], &first);
    assert!(set.status.success(), "{}", stderr(&set));

    let (output, same) = night(results, "debian:6.12");
    assert_eq!(output.status.code(), Some(0), "the same kernel is not slower: {}", stdout(&output));
    assert!(stdout(&output).contains("regression.relax.thp: pass"), "{}", stdout(&output));

    let (output, slower) = night(results, "debian:6.1");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(&output));
    assert!(text.contains("regression.relax.thp: fail: worse than the baseline: "), "{text}");
    let read = |name: &str| std::fs::read_to_string(slower.join(name)).expect(name);
    for (file, expected) in [
        ("results.ktap", "not ok 3 regression"),
        ("results.ktap", "not ok 2 regression.relax.thp"),
        ("junit.xml", "<testcase name=\"regression.race.thp\""),
        ("kcidb.json", "\"path\": \"faultline.regression.relax.thp\""),
        ("result.txt", "regression.relax.thp fail"),
        ("faultline.prom", "faultline_regression{case=\"regression.relax.thp\"} 1"),
        ("summary.json", "\"name\": \"regression.relax.thp\""),
    ] {
        assert!(read(file).contains(expected), "{file} has no {expected:?}: {}", read(file));
    }
    let lava = run(&["show", "--format", "lava"], &slower);
    assert!(stdout(&lava).contains("TEST_CASE_ID=regression.relax.thp RESULT=fail>"), "{}", stdout(&lava));

    let compared = faultline(60).arg("compare").arg(&first).arg(&slower).output().expect("timeout(1) is there");
    assert_eq!(compared.status.code(), Some(1));
    assert!(stdout(&compared).contains("race.thp"), "{}", stdout(&compared));
    let listed = stdout(&run(&["list"], results));
    assert_eq!(listed.lines().count(), 3 * 3, "{listed}");
    let pruned = run(&["prune", "--keep", "1", "--results"], results);
    let kept = nights(results) == 3 && slower.is_dir() && same.is_dir();
    assert!(pruned.status.success() && kept, "the baseline's, the last that passed and the last that failed stay");
}

/// Runs both scripts of the systemd unit, with the lab in place of the machine.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn the_units_script_runs_a_night_and_keeps_the_newest() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let results = path("results");
    for name in ["bin", "textfiles"] {
        std::fs::create_dir(path(name)).expect("fresh");
    }
    std::fs::write(path("night.toml"), "[[step]]\nrun = \"boot\"\n").expect("writable");
    let faultline = support::root().join("target/release/faultline");
    let lab = format!("{} lab --kernel debian:6.12 --cpu max --results {}", faultline.display(), results.display());
    let stand_in = format!("#!/bin/sh\n[ $1 = run ] && exec {lab} -- \"$@\"\nexec {} \"$@\"\n", faultline.display());
    std::fs::write(path("bin/faultline"), stand_in).expect("writable");
    std::fs::set_permissions(path("bin/faultline"), PermissionsExt::from_mode(0o755)).expect("ours");
    let night = |plan: &Path| {
        let search = format!("{}:{}", path("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut script = support::limited(120, support::root().join("lab/systemd/nightly"));
        script.arg(&results).env("PATH", &search).env("FAULTLINE_PLAN", plan);
        let ran = script.output().expect("timeout(1) is there");
        let mut end = support::limited(60, support::root().join("lab/systemd/nightly-end"));
        end.arg(&results).env("PATH", search).env("FAULTLINE_KEEP", "1").env("FAULTLINE_TEXTFILES", path("textfiles"));
        end.env("SERVICE_RESULT", if ran.status.success() { "success" } else { "exit-code" });
        let ended = end.output().expect("timeout(1) is there");
        assert!(ended.status.success(), "{}", stderr(&ended));
        ran
    };
    let first = night(&path("night.toml"));
    assert_eq!(first.status.code(), Some(0), "{}{}", stdout(&first), stderr(&first));
    assert_eq!(nights(&results), 1);
    let textfiles = || std::fs::read_dir(path("textfiles")).expect("readable").flatten().map(|entry| entry.file_name());
    assert_eq!(textfiles().collect::<Vec<_>>(), ["faultline.prom"]);
    let first_prom = std::fs::read_to_string(path("textfiles/faultline.prom")).expect("it is there");
    let second = night(&path("night.toml"));
    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    assert_eq!(nights(&results), 1, "the first is gone");
    let kept = stored(&second).pop().expect("the night's directory");
    let new = std::fs::read_to_string(path("textfiles/faultline.prom")).expect("it is there");
    assert!(kept.is_dir() && new != first_prom && new.contains("boot"), "{new}");
    let wrong = night(&path("nowhere.toml"));
    assert_eq!(wrong.status.code(), Some(64), "the exit code is the plan's: {}", stderr(&wrong));
    let told = std::fs::read_to_string(path("textfiles/faultline.prom")).expect("it is there");
    assert!(
        new.contains("\nfaultline_last_attempt_success 1\n") && told.contains("\nfaultline_last_attempt_success 0\n")
    );
}

/// A failed step has no effect on the next one, which boots its own kernel.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_step_that_fails_has_no_effect_on_the_others() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let plan = directory.path().join("night.toml");
    let steps = "[[step]]\nrun = \"boot --payload /nothing-here\"\n[[step]]\nname = \"again\"\nrun = \"boot\"\n";
    std::fs::write(&plan, steps).expect("writable");
    let results = directory.path().join("results");
    let mut command = faultline(200);
    command.args(["lab", "--kernel", "debian:6.12", "--cpu", "max", "--results"]).arg(&results);
    let output = command.args(["--", "run"]).arg(&plan).output().expect("timeout(1) is there");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(70), "{text}{}", stderr(&output));
    assert!(text.contains("== boot: error") && text.contains("== again: pass"), "{text}");
    assert!(text.contains("night: error: boot: ") && text.contains("nothing-here"), "{text}");
    // Leaves what a plan leaves that is killed at its end.
    let night = stored(&output).pop().expect("the night's directory");
    std::fs::remove_file(night.join("summary.json")).expect("it was there");
    assert!(stdout(&run(&["list"], &results)).starts_with("died"));
    let recovered = run(&["recover"], &results);
    assert_eq!(recovered.status.code(), Some(70), "{}", stderr(&recovered));
    assert!(night.join("summary.json").is_file());
}

/// `--bisect` returns the exit codes that `git bisect run` expects.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn exit_codes_for_bisecting() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nothing = directory.path().join("Image");
    std::fs::write(&nothing, "no kernel").expect("writable");
    let nothing = nothing.to_string_lossy().into_owned();
    let locks_up = ["relax", "--blocks", "1G", "--hugepages", "--watchdog-thresh", "1", "--format", "json"];
    for (kernel, run, code) in [
        ("debian:6.12", &locks_up[..], 0),
        ("debian:6.1", &locks_up[..], 1),
        ("debian:6.12", &["relax", "--blocks", "1G"][..], 125),
        (&*nothing, &locks_up[..], 125),
    ] {
        let mut command = faultline(200);
        command.args(["lab", "--bisect", "--kernel", kernel, "--cpu", "max", "--time-scale", "6"]);
        let pool = if code == 125 { "" } else { "hugepagesz=1G hugepages=1" };
        command.args(["--append", pool, "--results"]).arg(directory.path().join("results"));
        let output = command.args(["--", "run"]).args(run).output().expect("timeout(1) is there");
        let printed = stdout(&output) + &stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{kernel}: {printed}");
        assert_eq!(printed.contains("\"soft_lockup\""), code == 1, "{kernel}: {printed}");
        for word in ["BUG:", "WARNING:", "Oops", "Kernel panic"] {
            assert!(!printed.contains(word), "{kernel}: {word} would fail a lab's job: {printed}");
        }
    }
}

/// `git bisect run` finds the first commit that locks up, in a history with a commit that cannot be tested.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn git_bisect_finds_the_first_kernel_that_locks_up() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (good, bad) = ("debian:6.12", "debian:6.1");
    // What a build that failed may leave.
    let damaged = directory.path().join("Image");
    std::fs::write(&damaged, "no kernel").expect("writable");
    let damaged = damaged.to_string_lossy();
    let lab = "--cpu max --time-scale 6 --append 'hugepagesz=1G hugepages=1' -- \
               run relax --blocks 1G --hugepages --watchdog-thresh 1";
    let (printed, found) = first_bad(directory.path(), &[good, good, good, &damaged, good, bad, bad], lab);
    assert_eq!(found, Some(5), "{printed}");
    assert!(printed.contains("git bisect skip"), "the untestable one was met: {printed}");
}
