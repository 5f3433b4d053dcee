//! Tests the conventions of all commands: answers in JSON, colour only for a terminal, exit codes, errors that name the
//! next step. None of these tests needs QEMU.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::{root, stderr, stdout};

const PROGRAM: &str = env!("CARGO_BIN_EXE_faultline");
const ESCAPE: char = '\u{1b}';

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.env("FAULTLINE_GUEST_RUNNER", directory.join(RUNNER));
    command.args(arguments).current_dir(directory).output().expect("cargo built it")
}

/// Name of a file that the lab accepts as a static arm64 program. It is never executed.
const RUNNER: &str = "arm64-program";

/// Writes the header of an ELF file that has no segments.
fn write_runner(directory: &Path) {
    const EXECUTABLE: u16 = 2;
    const AARCH64: u16 = 183;
    const HEADER_BYTES: u16 = 64;
    let mut header = [0; HEADER_BYTES as usize];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (offset, value) in [(16, EXECUTABLE), (18, AARCH64), (20, 1), (52, HEADER_BYTES), (54, 56), (58, 64)] {
        header[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }
    std::fs::write(directory.join(RUNNER), header).expect("writable");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for entry in std::fs::read_dir(from).expect("it is there").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a plain file");
    }
}

/// Makes a directory with the files that the examples of the documents name: stored runs of Debian's 6.1 and 6.12.
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
    let lockup = root().join("crates/record/tests/runs/debian-6.1/kmsg.raw");
    std::fs::copy(lockup, directory.path().join("lockup.txt")).expect("it is stored");
    std::fs::create_dir(directory.path().join("none")).expect("fresh");
    write_runner(directory.path());
    directory
}

/// Commands for people, with the exit codes that they may have. None of them needs QEMU or KVM.
const FOR_PEOPLE: [(&str, &[i32]); 18] = [
    ("list", &[0]),
    ("show RUN", &[0]),
    ("show results", &[0]),
    ("dmesg dmesg.txt", &[0]),
    ("dmesg lockup.txt", &[0]),
    ("project --ns-per-line 69", &[0]),
    ("compare before after", &[0]),
    ("compare after before", &[1]),
    ("compare --format markdown before after", &[0]),
    ("show --format markdown RUN", &[0]),
    ("baseline set RUN", &[0]),
    ("prune --dry-run --keep 1", &[0]),
    ("recover none", &[0]),
    ("restore", &[0]),
    ("doctor", &[0, 1, 4]),
    ("check", &[4]),
    ("run relax", &[70]),
    ("report RUN --output page.html", &[0]),
];

#[test]
fn every_answer_is_available_as_json() {
    let directory = with_runs();
    let here = directory.path();
    // Each command line with a key of its answer and its possible exit codes.
    let cases: [(&str, &str, &[i32]); 11] = [
        ("check --json", "/answer", &[4]),
        ("list --json", "/runs/0/status", &[0]),
        ("show --json RUN", "/verdict/status", &[0]),
        ("dmesg --json dmesg.txt", "/events", &[0]),
        ("project --json --ns-per-line 69", "/headroom/locks_up_from/0/racers", &[0]),
        ("compare --json before after", "/headline", &[0, 1]),
        ("baseline set --json RUN", "/set", &[0]),
        ("prune --json --dry-run --keep 1", "/removed", &[0]),
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

/// Returns the words of `faultline` and of each command below it that print its help.
fn helps() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut next = 0;
    while let Some(command) = found.get(next).cloned() {
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let text = stdout(&run(&root(), &words));
        let names = text.lines().skip_while(|line| !["Commands:", "Scenarios:"].contains(line)).skip(1);
        let names = names.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        found.extend(names.map(|name| command.iter().cloned().chain([name.to_owned()]).collect()));
        next += 1;
    }
    found.into_iter().map(|command| command.into_iter().chain(["--help".to_owned()]).collect()).collect()
}

#[test]
fn every_line_fits_80_columns() {
    let directory = with_runs();
    let commands = FOR_PEOPLE.map(|(line, _)| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let helps = helps();
    assert!(helps.len() > 20, "the commands and the scenarios: {helps:?}");
    let mut wide = Vec::new();
    for words in commands.into_iter().chain(helps) {
        let output = run(directory.path(), &words.iter().map(String::as_str).collect::<Vec<_>>());
        // An error is one line, however long, so that scripts can search in it.
        let printed = stdout(&output);
        let lines = printed.lines().filter(|line| line.chars().count() > 80);
        wide.extend(lines.map(|line| format!("{}: {line}", words.join(" "))));
    }
    assert!(wide.is_empty(), "{} lines:\n{}", wide.len(), wide.join("\n"));
}

/// A reader such as `head` ends before the command does. That is no failure, and changes no exit code.
#[test]
fn a_closed_pipe_ends_quietly() {
    let directory = with_runs();
    let json = ["list --json", "show --json RUN", "compare --json before after", "check --json", "--help"];
    let json = json.map(|line| (line, &[0, 4][..]));
    for (line, codes) in FOR_PEOPLE.into_iter().chain(json) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(PROGRAM);
        command.args(line.split(' ')).current_dir(directory.path()).stdout(writer);
        let output = command.stderr(std::process::Stdio::piped()).output().expect("cargo built it");
        let printed = stderr(&output);
        assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{line}: {:?}", output.status);
        assert!(!printed.contains("panicked") && !printed.contains("Broken pipe"), "{line}: {printed}");
    }
}

#[test]
fn the_version_names_the_commit() {
    let printed = stdout(&run(&root(), &["--version"]));
    let commit = printed.trim().strip_prefix(concat!("faultline ", env!("CARGO_PKG_VERSION"), " (")).expect(&printed);
    // A change that is not committed makes another program.
    let commit = commit.trim_end_matches(')').trim_end_matches("-dirty");
    assert!(commit.len() == 12 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{printed}");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    Unset,
    /// The variable NO_COLOR is set.
    Refused,
}

/// Runs a command on a pseudo-terminal and returns its output.
fn on_a_terminal(arguments: &str, colour: Colour) -> String {
    let mut script = Command::new("script");
    script.args(["-qec", &format!("{PROGRAM} {arguments}"), "/dev/null"]).env("TERM", "xterm");
    script.env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE");
    if colour == Colour::Refused {
        script.env("NO_COLOR", "1");
    }
    stdout(&script.stdin(std::process::Stdio::null()).output().expect("script is part of every Debian"))
}

#[test]
fn colour_is_printed_only_to_terminals() {
    for arguments in ["--help", "nonsense", "run relax --help"] {
        assert!(
            on_a_terminal(arguments, Colour::Unset).contains(ESCAPE),
            "{arguments}: there is no colour on a terminal"
        );
        let printed = on_a_terminal(arguments, Colour::Refused);
        assert!(!printed.is_empty() && !printed.contains(ESCAPE), "{arguments}: {printed:?}");
        let output = run(&root(), &arguments.split(' ').collect::<Vec<_>>());
        let printed = stdout(&output) + &stderr(&output);
        assert!(!printed.is_empty() && !printed.contains(ESCAPE), "{arguments}: {printed:?}");
    }
}

#[test]
fn errors_say_what_to_do_next() {
    let directory = with_runs();
    let lab = ["lab", "--results", "out", "--kernel"];
    let inside = ["--", "run", "boot"];
    let cases: [(Vec<&str>, i32, &str); 20] = [
        (vec!["recovr"], 64, "recover"),
        (vec!["list", "nowhere"], 64, "name the directory of your runs"),
        (vec!["recover", "nowhere"], 64, "name the directory of your runs"),
        (vec!["show", "nowhere"], 64, "name its id, a run directory"),
        (vec!["report", "nowhere"], 64, "name its id, a run directory"),
        (vec!["report", "--fleet", "nowhere"], 64, "nowhere"),
        (vec!["compare", "before"], 64, "name the runs before and after"),
        (vec!["compare", "before", "nowhere"], 64, "name its id, a run directory"),
        (vec!["dmesg", "nowhere"], 64, "name a saved kernel log"),
        (vec!["prune"], 64, "--keep"),
        (vec!["prune", "--keep", "3", "--results", "nowhere"], 64, "name the directory of your runs"),
        (vec!["baseline", "set", "nowhere"], 64, "name its id, a run directory"),
        (vec!["run", "nonsense"], 64, "name one of check, relax"),
        ([&lab[..], &["debian:nonsense"], &inside].concat(), 64, "give debian:VERSION"),
        ([&lab[..], &["nowhere/Image"], &inside].concat(), 64, "nowhere/Image"),
        ([&lab[..], &["nowhere/Image", "--dry-run"], &inside].concat(), 64, "nowhere/Image"),
        ([&lab[..], &["policy:upton@7"], &inside].concat(), 64, "with @7.3 for another source"),
        (vec!["kernels", "nonsense", "--cached"], 64, "give debian:VERSION"),
        (vec!["sweep", "--kernels", "debian:6.1", "--", "doctor"], 64, "run SCENARIO"),
        (vec!["sweep", "--", "run", "boot"], 64, "--kernels"),
    ];
    for (arguments, code, hint) in cases {
        let output = run(directory.path(), &arguments);
        let printed = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
        assert!(printed.contains(hint) && !printed.contains("panicked"), "{arguments:?}: no '{hint}' in: {printed}");
        assert!(output.stdout.is_empty(), "{arguments:?}: errors go to standard error");
    }
}

/// `git bisect run` takes every code below 128 for a verdict, or skips the commit, each time after a build.
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

/// Runs the steps of LAVA's test definition like its shell. The fetched program is `program`, or cannot be fetched. Returns
/// the test cases that the steps report themselves.
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
fn a_lava_job_fails_if_the_program_did_not_run() {
    let failed = "faultline --result fail\n";
    assert_eq!(lava_job(None), failed);
    assert_eq!(lava_job(Some("#!/nowhere/sh")), failed);
    assert_eq!(lava_job(Some("#!/bin/sh\nexit 70")), failed);
    assert_eq!(lava_job(Some("#!/bin/sh\nexit 1")), "");
    assert_eq!(lava_job(Some("#!/bin/sh\necho \"$@\"")), "run relax --label lava-job --format lava\n");
}

/// Returns the examples in the documents that run quickly: those that read stored runs or look at this machine.
fn examples() -> Vec<Vec<String>> {
    let cheap = ["compare", "report", "show", "list", "dmesg", "doctor", "project", "prune", "baseline"];
    let pages = glob::glob(&root().join("docs/*.md").to_string_lossy()).expect("a pattern").flatten();
    let texts = pages.chain([root().join("README.md")]).map(|page| std::fs::read_to_string(page).expect("a text"));
    let lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let typed = lines.iter().filter_map(|line| line.trim_start().trim_start_matches("$ ").strip_prefix("faultline "));
    let words = typed.filter_map(shlex::split).filter(|words| cheap.contains(&words[0].as_str()));
    // Leaves out examples with variables, placeholders or absolute paths.
    let is_open = |word: &String| word.contains(['$', '…']) || word.starts_with('/');
    words.filter(|words| !words.iter().any(is_open)).collect()
}

#[test]
fn examples_in_documents_run() {
    let directory = with_runs();
    let examples = examples();
    assert!(examples.len() >= 6, "{examples:?}");
    for words in examples {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let output = run(directory.path(), &words);
        let (code, printed) = (output.status.code(), stderr(&output));
        // A verdict such as "worse" is an answer, too.
        assert!(matches!(code, Some(0 | 1 | 4)) && printed.is_empty(), "{words:?}: {code:?}: {printed}");
        assert!(!output.stdout.is_empty() || words[0] == "prune", "{words:?} says nothing");
    }
}
