//! Runs that meet an accident: a panic, a power cut, SIGKILL, SIGINT, a full disk, a read-only disk.
//!
//! After each accident, the result of the run must be true, and the settings of the emulated host must be as they were.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use record::result::RunResult;
use record::status::Status;
use record::store;
use serde_json::Value;

const WHY: &str = "QEMU runs and the kernel is in the cache";
const RESTORED: &str = "/proc/sys/kernel/watchdog_thresh = 10";
const SHOW: &str = "show=/proc/sys/kernel/watchdog_thresh";
const RELAX: &[&str] = &["run", "relax", "--watchdog-thresh", "1", "--blocks"];

/// A call of `faultline lab` for one kernel.
struct Lab {
    results: tempfile::TempDir,
    kernel: &'static str,
    cpu: &'static str,
    append: String,
    hooks: Vec<String>,
}

/// The end of one emulated host, and the files that it left.
struct Ended {
    _results: tempfile::TempDir,
    code: Option<i32>,
    printed: String,
    run: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let results = tempfile::tempdir().expect("a temporary directory");
        Self { results, kernel: "debian:6.1", cpu: "max", append: String::new(), hooks: Vec::new() }
    }

    fn hook(mut self, hook: &str) -> Self {
        self.hooks.push(hook.into());
        self
    }

    fn append(mut self, arguments: &str) -> Self {
        self.append = arguments.into();
        self
    }

    fn run(self, arguments: &[&str]) -> Ended {
        let mut command = faultline();
        command.args([
            "lab",
            "--kernel",
            self.kernel,
            "--cpu",
            self.cpu,
            "--time-scale",
            "6",
            "--append",
            &self.append,
        ]);
        for hook in &self.hooks {
            command.args(["--guest-hook", hook]);
        }
        let Output { status, stdout, stderr } =
            command.arg("--results").arg(self.results.path()).arg("--").args(arguments).output().expect(WHY);
        let printed = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        let mut runs = std::fs::read_dir(self.results.path()).expect("the lab made it").flatten();
        let run = runs.next().map(|entry| entry.path()).unwrap_or_else(|| panic!("no run directory: {printed}"));
        Ended { _results: self.results, code: status.code(), printed, run }
    }
}

impl Ended {
    fn result(&self) -> RunResult {
        store::read(&self.run).unwrap_or_else(|error| panic!("{error}: {}", self.printed))
    }

    fn says(&self, part: &str) {
        // Lines are folded.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&self.printed).contains(&words(part)), "{part} is not in {}", self.printed);
    }
}

fn faultline() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "300"]).arg(root.join("target/release/faultline")).current_dir(root);
    command
}

fn relax(blocks: &str) -> Vec<&str> {
    RELAX.iter().copied().chain([blocks]).collect()
}

#[test]
#[ignore = "needs make build and QEMU"]
fn a_panic_in_a_storm_ends_with_a_verdict() {
    let ended = Lab::new().append("hugepagesz=1G hugepages=1 softlockup_panic=1").run(&relax("page,1G,thp"));
    let result = ended.result();
    assert!(result.recovered);
    let statuses: Vec<_> = result.cases.iter().map(|case| case.verdict.status).collect();
    assert_eq!(statuses, [Status::Pass, Status::Fail, Status::Skip], "{}", ended.printed);
    let reason = &result.cases[1].verdict.reason;
    for part in ["event=soft_lockup", "icache_inval_pou", "the machine died during case 1G: event=panic"] {
        assert!(reason.contains(part), "{part} is not in {reason}");
    }
    assert!(result.cases[0].times().exec.is_some(), "the finished case is whole");
    assert_eq!(ended.code, Some(1), "{}", ended.printed);
    for word in ["Kernel panic", "BUG:", "Oops", "WARNING:"] {
        assert!(!ended.printed.contains(word), "{word} in {}", ended.printed);
    }
}

#[test]
#[ignore = "needs make build and QEMU"]
fn a_power_cut_is_closed_and_recover_says_so_again() {
    let ended = Lab::new().hook("case=cut").run(&relax("page,thp"));
    let result = ended.result();
    assert!(result.recovered && result.verdict.status == Status::Error, "{}", ended.printed);
    assert!(result.verdict.reason.contains("during case page"), "{}", result.verdict.reason);
    // `recover` concludes the same from the files alone, without the end that the lab saw.
    std::fs::remove_file(ended.run.join(store::RESULT)).expect("it was there");
    let output = faultline().arg("recover").arg(&ended.run).output().expect(WHY);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("during case page; what ended it is unknown"), "{said}");
    assert_eq!(output.status.code(), Some(70));
    let again = faultline().arg("recover").arg(&ended.run).output().expect(WHY);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing to recover"));
}

#[test]
#[ignore = "needs make build and QEMU"]
fn sigkill_leaves_settings_to_the_next_start() {
    let changed = Lab::new().hook("case=9").hook(SHOW).run(&relax("page"));
    changed.says("/proc/sys/kernel/watchdog_thresh = 1\n");
    let restored = Lab::new().hook("case=9").hook("then=restore").hook(SHOW).run(&relax("page"));
    restored.says(RESTORED);
    let result = restored.result();
    assert!(result.recovered, "{}", restored.printed);
    assert!(result.verdict.reason.contains("killed by SIGKILL"), "{}", result.verdict.reason);
    // Any other command puts the settings back, too, and says so.
    let by_any = Lab::new().hook("case=9").hook("then=doctor").hook(SHOW).run(&relax("page"));
    by_any.says("put back what a dead run had changed");
    by_any.says(RESTORED);
}

#[test]
#[ignore = "needs make build and QEMU"]
fn a_killed_run_is_resumed() {
    let resume = "then=run relax --resume /results/run";
    let ended = Lab::new().hook("case=9").hook(resume).hook(SHOW).run(&relax("page,thp"));
    ended.says("page: error: the runner was killed during case page; the machine has been up all the time");
    ended.says("thp: pass: permission faults taken");
    ended.says(RESTORED);
}

#[test]
#[ignore = "needs make build and QEMU"]
fn sigint_ends_the_run_cleanly() {
    let ended = Lab::new().hook("case=2").hook(SHOW).run(&relax("page,thp"));
    ended.says(RESTORED);
    let result = ended.result();
    assert!(!result.recovered && result.verdict.reason.contains("interrupted"), "{}", ended.printed);
    assert_eq!(ended.code, Some(130));
}

#[test]
#[ignore = "needs make build and QEMU"]
fn a_small_or_read_only_disk_is_found_before_the_first_case() {
    for (mount, what) in [("mount=size=8m", "make room"), ("mount=ro", "Read-only")] {
        let ended = Lab::new().hook(mount).hook(SHOW).run(&relax("page"));
        ended.says(what);
        ended.says("--results");
        ended.says(RESTORED);
        assert!(!ended.printed.contains("relax page"), "no case was begun: {}", ended.printed);
    }
}

#[test]
#[ignore = "needs make build and QEMU"]
fn a_disk_that_fills_up_costs_no_setting_and_no_verdict() {
    let ended = Lab::new().hook("mount=size=20m").hook("case=fill").hook(SHOW).run(&relax("page,thp"));
    ended.says(RESTORED);
    let result = ended.result();
    assert!(result.verdict.status == Status::Error, "{}", ended.printed);
    assert!(result.verdict.reason.contains("No space left"), "{}", result.verdict.reason);
}

/// Runs `doctor` in the emulated host, and returns its exit code and its JSON.
fn doctor(lab: Lab) -> (Option<i32>, Value) {
    let ended = lab.run(&["doctor", "--json"]);
    let output = std::fs::read_to_string(ended.run.join("output.log")).expect("the lab keeps it");
    (ended.code, serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}")))
}

/// Returns the state and the text of the check `name`.
fn state<'a>(answer: &'a Value, name: &str) -> (&'a str, &'a str) {
    let checks = answer["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    (check["state"].as_str().expect("a word"), check["text"].as_str().expect("a text"))
}

#[test]
#[ignore = "needs make build and QEMU"]
fn doctor_is_right() {
    const FULL: &str = "hugepagesz=1G hugepages=1";
    for (kernel, idc) in [("debian:6.1", "CTR_EL0 0x8444c004"), ("debian:6.12", "CTR_EL0 0x9444c004")] {
        let (code, answer) = doctor(Lab { kernel, cpu: "neoverse-n1", ..Lab::new() }.append(FULL));
        assert_eq!((code, answer["outcome"].as_str()), (Some(0), Some("ready")), "{answer:#}");
        assert!(state(&answer, "cpu").1.contains(idc) && state(&answer, "kvm").1.starts_with("VHE"), "{answer:#}");
        assert!(state(&answer, "d-cache").1.starts_with("no FWB"), "{answer:#}");
        assert_eq!(state(&answer, "tracing").0, "ok", "{answer:#}");
    }
    let (code, answer) = doctor(Lab::new().append(&format!("{FULL} kvm-arm.mode=nvhe softlockup_panic=1")));
    assert_eq!(code, Some(0), "{answer:#}");
    assert!(state(&answer, "kvm").1.starts_with("nVHE"), "{answer:#}");
    assert!(state(&answer, "d-cache").1.starts_with("FWB"), "{answer:#}");
    assert!(state(&answer, "danger").1.contains("softlockup_panic"), "{answer:#}");
    let (code, answer) = doctor(Lab::new());
    assert_eq!((code, state(&answer, "blocks").0), (Some(1), "fix"), "{answer:#}");
    let (code, answer) = doctor(Lab::new().append(FULL).hook("uid=1000"));
    assert_eq!((code, state(&answer, "kvm").0, state(&answer, "tracing").0), (Some(1), "fix", "fix"), "{answer:#}");
    let (code, answer) = doctor(Lab::new().append(&format!("{FULL} nosoftlockup")));
    assert_eq!((code, state(&answer, "detector").0), (Some(1), "fix"), "{answer:#}");
    let (code, answer) = doctor(Lab::new().append("kvm-arm.mode=none"));
    assert_eq!((code, state(&answer, "kvm").0), (Some(4), "cannot_show"), "{answer:#}");
}

/// The machine that runs the lab is not arm64, so it cannot show the lockup.
#[test]
#[ignore = "needs make build"]
fn doctor_is_right_where_there_is_no_arm() {
    if cfg!(target_arch = "aarch64") {
        return;
    }
    let output = faultline().args(["doctor", "--json"]).output().expect(WHY);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!((output.status.code(), answer["outcome"].as_str()), (Some(4), Some("cannot_show")), "{answer:#}");
    let (kvm, text) = state(&answer, "kvm");
    assert!(kvm == "cannot_show" && text.contains("this host is ") && text.contains("emulated lab"), "{answer:#}");
}
