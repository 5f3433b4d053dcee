//! What every command keeps to: answers in JSON, colour and progress only for a terminal, exit codes, errors that say what
//! to do. Nothing here needs QEMU.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::{root, stderr, stdout};

const PROGRAM: &str = env!("CARGO_BIN_EXE_faultline");
const ESCAPE: char = '\u{1b}';

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).current_dir(directory).output().expect("cargo built it")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for entry in std::fs::read_dir(from).expect("it is there").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a plain file");
    }
}

/// Makes a directory with what the documents' examples speak of: stored runs of Debian's 6.1 and 6.12.
fn with_runs() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runs = root().join("crates/record/tests/runs");
    for (kernel, place) in [
        ("debian-6.1", "before/one"),
        ("debian-6.1", "RUN"),
        ("debian-6.1", "results/20260101T000000Z-6.6.0-aa"),
        ("debian-6.12", "results/20260102T000000Z-6.12.0-bb"),
        ("debian-6.12", "after/one"),
    ] {
        copy(&runs.join(kernel), &directory.path().join(place));
    }
    std::fs::write(directory.path().join("dmesg.txt"), "[    1.0] all is well\n").expect("writable");
    directory
}

#[test]
fn answers_for_programs_are_json() {
    let directory = with_runs();
    let here = directory.path();
    std::fs::create_dir(here.join("none")).expect("fresh");
    // Each with something of its answer, and the exit codes.
    let cases: [(&str, &str, &[i32]); 10] = [
        ("list --json", "/runs/0/status", &[0]),
        ("show --json RUN", "/verdict/status", &[0]),
        ("dmesg --json dmesg.txt", "/events", &[0]),
        ("project --json --ns-per-line 69", "/headroom/locks_up_from/0/racers", &[0]),
        ("compare --json before after", "/change", &[0, 1]),
        ("baseline set --json RUN", "/set", &[0]),
        ("prune --json --dry-run --keep 1", "/removed/0", &[0]),
        ("recover --json none", "/recovered", &[0]),
        ("restore --json", "/restored", &[0]),
        ("doctor --json", "/checks/0/name", &[0, 1, 4]),
    ];
    for (line, key, codes) in cases {
        let output = run(here, &line.split(' ').collect::<Vec<_>>());
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(answer.pointer(key).is_some(), "{line}: no {key} in {answer}");
        assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{line}: {:?}", output.status);
    }
}

#[test]
fn the_version_names_the_commit() {
    let said = stdout(&run(&root(), &["--version"]));
    let commit = said.trim().strip_prefix(concat!("faultline ", env!("CARGO_PKG_VERSION"), " (")).expect(&said);
    let commit = commit.trim_end_matches(')');
    assert!(commit.len() == 12 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{said}");
}

/// Runs a command on a pseudo-terminal and returns what it wrote there.
fn on_a_terminal(arguments: &str, no_color: bool) -> String {
    let mut script = Command::new("script");
    script.args(["-qec", &format!("{PROGRAM} {arguments}"), "/dev/null"]).env("TERM", "xterm");
    script.env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE");
    if no_color {
        script.env("NO_COLOR", "1");
    }
    stdout(&script.stdin(std::process::Stdio::null()).output().expect("script is part of every Debian"))
}

#[test]
fn colour_is_for_terminals_and_for_those_who_want_it() {
    for arguments in ["--help", "nonsense", "run relax --help"] {
        assert!(on_a_terminal(arguments, false).contains(ESCAPE), "{arguments}: the test sees colour where it is");
        let said = on_a_terminal(arguments, true);
        assert!(!said.is_empty() && !said.contains(ESCAPE), "{arguments}: {said:?}");
        let output = run(&root(), &arguments.split(' ').collect::<Vec<_>>());
        let said = stdout(&output) + &stderr(&output);
        assert!(!said.is_empty() && !said.contains(ESCAPE), "{arguments}: {said:?}");
    }
}

#[test]
fn errors_say_what_to_do_next() {
    let directory = with_runs();
    let lab = ["lab", "--results", "out", "--kernel"];
    let inside = ["--", "run", "boot"];
    let cases: [(Vec<&str>, i32, &str); 15] = [
        (vec!["recovr"], 64, "recover"),
        (vec!["list", "nowhere"], 64, "name the directory of your runs"),
        (vec!["recover", "nowhere"], 64, "name the directory of your runs"),
        (vec!["show", "nowhere"], 64, "name a run directory"),
        (vec!["report", "nowhere"], 64, "name a run directory"),
        (vec!["report", "--fleet", "nowhere"], 64, "nowhere"),
        (vec!["compare", "before"], 64, "name the runs before and after"),
        (vec!["compare", "before", "nowhere"], 64, "name a run directory"),
        (vec!["dmesg", "nowhere"], 64, "name a saved kernel log"),
        (vec!["prune"], 64, "--keep"),
        (vec!["prune", "--keep", "3", "--results", "nowhere"], 64, "name the directory of your runs"),
        (vec!["baseline", "set", "nowhere"], 64, "name a run directory"),
        (vec!["run", "nonsense"], 64, "name one of relax"),
        ([&lab[..], &["debian:nonsense"], &inside].concat(), 70, "give debian:6.1"),
        ([&lab[..], &["nowhere/Image"], &inside].concat(), 70, "nowhere/Image"),
    ];
    for (arguments, code, hint) in cases {
        let output = run(directory.path(), &arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(hint) && !said.contains("panicked"), "{arguments:?}: no '{hint}' in: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}: errors go to standard error");
    }
}

/// Any code below 128 is a verdict of the commit to `git bisect run`, or has it skipped, each after a build.
#[test]
fn wrong_usage_ends_a_bisection() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let lab = ["lab", "--kernel", "debian:6.12", "--results", "out"];
    for (arguments, code) in [
        (vec!["run", "relax", "--bisect", "--ruonds", "3"], 192),
        (vec!["run", "nightli", "--bisect"], 192),
        (vec!["run", "nightly", "--bisect", "--lable", "x"], 192),
        ([&lab[..], &["--bisect", "--", "run", "nightly", "--lable", "x"]].concat(), 192),
        ([&lab[..], &["--cpus", "max", "--", "run", "relax", "--bisect"]].concat(), 192),
        (vec!["run", "relax", "--bisect", "--help"], 0),
        (vec!["run", "nightly", "--bisect", "--help"], 0),
    ] {
        let output = run(directory.path(), &arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    }
}

/// Runs the steps of LAVA's test definition as its shell does, where the fetched program is `program`, or there is none;
/// returns the test cases beside those of the program.
fn lava_job(program: Option<&str>) -> String {
    let definition = std::fs::read_to_string(root().join("lab/lava/faultline.yaml")).expect("it is there");
    let steps: Vec<_> = definition.lines().filter_map(|line| line.strip_prefix("    - ")).collect();
    let wget = program.map_or("return 4".to_owned(), |program| format!("echo '{program}' > faultline"));
    let helpers = format!("wget() {{ {wget}; }}\nlava-test-case() {{ echo \"$*\"; }}\n");
    let script = format!("set -e\n{helpers}RUNNER_URL=x SCENARIO=relax OPTIONS=\n{}\n", steps.join("\n"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut shell = Command::new("bash");
    let output = shell.args(["-c", &script]).current_dir(directory.path()).output().expect("bash is there");
    assert_eq!(output.status.success(), program.is_some(), "{}", stderr(&output));
    stdout(&output)
}

#[test]
fn a_lava_job_fails_where_the_program_did_not_run() {
    let failed = "faultline --result fail\n";
    assert_eq!(lava_job(None), failed);
    assert_eq!(lava_job(Some("#!/nowhere/sh")), failed);
    assert_eq!(lava_job(Some("#!/bin/sh\nexit 70")), failed);
    assert_eq!(lava_job(Some("#!/bin/sh\nexit 1")), "");
    assert_eq!(lava_job(Some("#!/bin/sh\necho \"$@\"")), "run relax --label lava-job --format lava\n");
}

/// Returns the examples that cost nothing: the lines of code blocks that read what is stored, or look at this machine.
fn examples() -> Vec<Vec<String>> {
    let cheap = ["compare", "report", "show", "list", "dmesg", "doctor", "project", "prune", "baseline"];
    let pages = glob::glob(&root().join("docs/*.md").to_string_lossy()).expect("a pattern").flatten();
    let texts = pages.chain([root().join("README.md")]).map(|page| std::fs::read_to_string(page).expect("a text"));
    let lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let typed = lines.iter().filter_map(|line| line.trim_start().trim_start_matches("$ ").strip_prefix("faultline "));
    let words = typed.filter_map(shlex::split).filter(|words| cheap.contains(&words[0].as_str()));
    // What the shell would put in, or what is this machine's own, is not ours to run.
    let foreign = |word: &String| word.contains(['$', '…']) || word.starts_with('/');
    words.filter(|words| !words.iter().any(foreign)).collect()
}

#[test]
fn the_documents_examples_run() {
    let directory = with_runs();
    let examples = examples();
    assert!(examples.len() >= 6, "{examples:?}");
    for words in examples {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let output = run(directory.path(), &words);
        let (code, said) = (output.status.code(), stderr(&output));
        // Worse and cannot show are answers, too.
        assert!(matches!(code, Some(0 | 1 | 4)) && said.is_empty(), "{words:?}: {code:?}: {said}");
        assert!(!output.stdout.is_empty() || words[0] == "prune", "{words:?} says nothing");
    }
}
