//! Tests the built programs on real kernels under QEMU. `make test` runs these tests after `make build`.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use support::{faultline, image, lab, limited, payload, reproduce, stderr, stdout};

/// Runs the payload alone and returns its output. QEMU must end by itself.
fn payload_alone(machine: &str, image: &std::path::Path) -> String {
    let mut qemu = limited(60, "qemu-system-aarch64");
    qemu.args(["-machine", machine, "-cpu", "cortex-a57", "-smp", "4", "-m", "2G", "-nographic", "-kernel"]).arg(image);
    let output = qemu.stdin(std::process::Stdio::null()).output().expect("timeout(1) is there");
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

fn assert_builtin_program_passes(text: &str) {
    let lines: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("@faultline ")).collect();
    assert_eq!(lines.first(), Some(&"start v1"), "{text}");
    assert_eq!(lines.last(), Some(&"end"), "{text}");
    assert!(lines.contains(&"result name=cpus status=pass value=4 unit=cpus"), "{text}");
    for cpu in 0..4 {
        for name in
            ["ctr-el0", "fetch-first", "fetch-rewritten", "fetch-after-rendezvous", "fetch-undefined", "fetch-unmapped"]
        {
            let wanted = format!("result name={name}.cpu{cpu} status=pass ");
            assert!(lines.iter().any(|line| line.starts_with(&wanted)), "no {wanted}in {text}");
        }
    }
    assert!(!text.contains("status=fail"), "{text}");
}

#[test]
#[ignore = "needs make build and QEMU"]
fn payload_alone_at_el1_and_el2() {
    for machine in ["virt", "virt,virtualization=on"] {
        assert_builtin_program_passes(&payload_alone(machine, &payload()));
    }
}

/// QEMU loads the same image elsewhere if text_offset in its header changes.
#[test]
#[ignore = "needs make build and QEMU"]
fn payload_alone_at_another_address() {
    const TEXT_OFFSET: std::ops::Range<usize> = 8..16;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut bytes = std::fs::read(payload()).expect("it exists");
    for offset in [6_u64 << 20, 514 << 20] {
        bytes[TEXT_OFFSET].copy_from_slice(&offset.to_le_bytes());
        let moved = directory.path().join("moved.img");
        std::fs::write(&moved, &bytes).expect("the directory is writable");
        assert_builtin_program_passes(&payload_alone("virt", &moved));
    }
}

/// Removes the fields in which two equal runs differ.
fn without_identity(mut result: Value) -> Value {
    result["run"].take();
    result
}

fn case<'a>(result: &'a Value, block: &Value) -> &'a Value {
    let cases = result["cases"].as_array().expect("a result has cases");
    cases.iter().find(|case| case["memory"]["kind"] == *block).expect("the case was run")
}

fn assert_valid(result: &Value) {
    let schema =
        std::fs::read_to_string(support::root().join("results/schema/result-v1.json")).expect("it is committed");
    let schema: Value = serde_json::from_str(&schema).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let errors: Vec<_> = validator.iter_errors(result).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// Returns true if the guest took the permission fault on a 1 GiB block.
fn took_the_fault(case: &Value) -> bool {
    let faults = case["host"]["faults"].as_array().expect("the case was traced");
    faults.iter().any(|f| f["access"] == "fetch" && f["kind"] == "permission" && f["level"] == 1 && f["count"] == 1)
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn the_lockup_is_there_before_and_not_after() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (output, first) = reproduce(directory.path(), &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.lines().any(|line| line.starts_with("REPRODUCED: ")), "{text}");
    assert!(text.contains("EMULATED"), "{text}");
    for word in ["BUG:", "WARNING:", "Oops", "Kernel panic"] {
        assert!(!text.contains(word) && !stderr(&output).contains(word), "lab scanners fail on {word}: {text}");
    }
    let [before, after] = first.as_slice() else { panic!("two results, not {}", first.len()) };
    let block = serde_json::json!({ "hugetlb": 1_u64 << 30 });
    let (slow, fast) = (case(before, &block), case(after, &block));
    assert_eq!(slow["predicted"]["by_line"], 16_777_216);
    assert_eq!(slow["predicted"], fast["predicted"]);
    let complaints = slow["complaints"].as_array().expect("there are some");
    let lockup = complaints.iter().find(|c| c["event"]["kind"] == "soft_lockup").expect("there is one");
    let attribution = &lockup["attributions"][0];
    assert!(attribution["frame"].as_str().is_some_and(|frame| frame.starts_with("icache_inval_pou+")), "{lockup}");
    assert_eq!((&attribution["side"], &attribution["path"]), (&"i_side".into(), &"relax_perms".into()));
    let trace = lockup["event"]["call_trace"].as_array().expect("a trace");
    assert!(
        trace.iter().any(|f| f.as_str().is_some_and(|f| f.starts_with("kvm_pgtable_stage2_relax_perms"))),
        "{lockup}"
    );
    assert!(took_the_fault(slow) && took_the_fault(fast));
    assert_eq!(fast["complaints"], serde_json::json!([]));
    assert_eq!(fast["verdict"]["status"], "pass");
    let ticks = |case: &Value| case["times"]["exec"]["ticks"]["max"].as_u64().expect("it was timed");
    // A line takes four instructions. An instruction takes 64 ns, which is four ticks of 16 ns.
    assert!(ticks(slow) > 4 * 16_777_216 && ticks(fast) < 1_000_000, "{} {}", ticks(slow), ticks(fast));
    first.iter().for_each(assert_valid);

    let (_, second) = reproduce(directory.path(), &[]);
    for (one, two) in first.iter().zip(&second) {
        assert_ne!(one["run"]["id"], two["run"]["id"]);
        assert!(without_identity(one.clone()) == without_identity(two.clone()), "two equal runs differ");
    }
}

/// Replaces every number by one digit, every unit of time by the second, and every name of a run by a word.
fn without_digits(text: &str) -> String {
    let is_end_of_id = |word: &str| word.len() == 6 && word.chars().all(|c| c.is_ascii_hexdigit());
    let plain = |word: &str| -> String {
        if is_end_of_id(word) || word.starts_with("results/") {
            return "RUN".into();
        }
        if ["ms", "µs", "ns"].contains(&word) {
            return "s".into();
        }
        if word.chars().all(|c| c.is_ascii_digit() || ".,".contains(c)) {
            return "0".into();
        }
        let mut zeros = word.replace(|c: char| c.is_ascii_digit(), "0");
        while zeros.contains("00") {
            zeros = zeros.replace("00", "0");
        }
        zeros
    };
    text.lines().map(|line| line.split_whitespace().map(plain).collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// The screen is for people: 25 lines of 80 characters, the verdict first and last. Only its digits may change.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn the_screen_of_a_reproduction_is_the_stored_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = faultline(300).arg("reproduce").current_dir(directory.path()).output().expect("timeout(1) is there");
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() <= 25, "{} lines: {text}", lines.len());
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    assert!(lines.first() == lines.last() && lines[0].starts_with("REPRODUCED: "), "{text}{}", stderr(&output));
    let said = without_digits(&text);
    let stored = support::root().join("host-runner/tests/screens/reproduce.txt");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::create_dir_all(stored.parent().expect("a file")).expect("writable");
        std::fs::write(&stored, &said).expect("writable");
    }
    assert_eq!(said, std::fs::read_to_string(&stored).expect("it is stored"), "{text}");
}

/// The answer to the question of the project, with no option but the kernels.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn check_tells_an_affected_kernel_from_one_that_is_not() {
    for (kernel, answer, code) in [("debian:6.1", "affected", 1), ("debian:6.12", "not_affected", 0)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = faultline(300);
        command.args(["lab", "--json", "--kernel", kernel, "--results"]).arg(directory.path()).args(["--", "check"]);
        let output = command.output().expect("timeout(1) is there");
        assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
        let said: Value = serde_json::from_slice(&output.stdout).expect("one document");
        assert_eq!((&said["answer"], &said["also"]), (&answer.into(), &serde_json::json!([])), "{said:#}");
        let result = &said["runs"][0]["result"];
        assert_valid(result);
        assert_eq!(result["facts"]["answer"], answer);
        let run = support::stored(&output).pop().expect("it is stored");
        let formats = [("results.ktap", "ffected"), ("kcidb.json", answer), ("faultline.prom", answer)];
        for (file, word) in formats {
            let text = std::fs::read_to_string(run.join(file)).expect(file).to_lowercase();
            assert!(text.contains(word), "{file} has no {word}: {text}");
        }
    }
}

/// A stored run is repeated from what it stores, and gives the same result.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_run_can_be_repeated() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let lab = ["--time-scale", "6", "--mem", "2048"];
    let (output, _) = support::lab(directory.path(), &lab, &["run", "relax", "--blocks", "page,thp"]);
    let run = support::stored(&output).pop().expect("it is stored");
    let mut command = faultline(300);
    command.arg("repeat").arg(&run).arg("--results").arg(directory.path());
    let again = command.output().expect("timeout(1) is there");
    assert_eq!(again.status.code(), Some(0), "{}{}", stdout(&again), stderr(&again));
    assert!(stdout(&again).starts_with("EQUAL: "), "{}", stdout(&again));
}

/// Without a lab, a run is repeated on the machine: here, on the emulated one, which takes the stored run for its own.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_run_on_this_machine_can_be_repeated_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (results, own) = (directory.path().join("results"), directory.path().join("own"));
    let options = ["--time-scale", "6"];
    let (_, mut found) = support::lab(&results, &options, &["run", "relax", "--blocks", "page,thp"]);
    let mut run = found.pop().expect("a result");
    // As a run whose results went to a directory that does not exist here.
    run["command"].as_array_mut().expect("words").extend(["--results".into(), "elsewhere".into()]);
    run["provenance"].as_object_mut().expect("an object").remove("lab");
    std::fs::create_dir(&own).expect("fresh");
    std::fs::write(own.join("result.json"), run.to_string()).expect("writable");
    let with = own.to_string_lossy().into_owned();
    let (output, _) =
        support::lab(&directory.path().join("again"), &["--time-scale", "6", "--with", &with], &["repeat", "own"]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{}", stderr(&output));
    assert!(said.contains("EQUAL: ") || said.contains("SAME: "), "{said}");
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn swapped_or_equal_kernels_reproduce_nothing() {
    for (before, after) in [("debian:6.12", "debian:6.1"), ("debian:6.12", "debian:6.12")] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (output, _) = reproduce(directory.path(), &["--before", before, "--after", after]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(&output));
        assert!(text.lines().any(|line| line.starts_with("NOT REPRODUCED: ")), "{text}");
    }
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn every_kind_of_memory_passes_with_shared_blocks() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run =
        ["run", "relax", "--hugepages", "--blocks", "page,thp,64K,2M,32M,1G", "--vcpus", "2", "--sharing", "shared"];
    let (output, results) = lab(directory.path(), &["--smp", "2"], &run);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let result = results.first().expect("a result");
    let levels = [("page", 3), ("thp", 2), ("64K", 3), ("2M", 2), ("32M", 2), ("1G", 1)];
    let cases = result["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), levels.len());
    for (case, (name, level)) in cases.iter().zip(levels) {
        let reason = case["verdict"]["reason"].as_str().expect("a reason");
        assert_eq!(case["verdict"]["status"], "pass", "{name}: {reason}");
        assert!(reason.contains(&format!("level {level}")), "{name}: {reason}");
        assert_eq!(case["mismatches"], 0);
    }
    // Every vCPU executes every block, so there are twice as many samples as with blocks of their own.
    assert_eq!(cases[0]["times"]["exec"]["ticks"]["count"], 2 * 64);
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_guest_that_hangs_traps_or_dies_is_reported() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    const BRANCH_TO_SELF: u32 = 0x1400_0000;
    /// `movz x2, #0x1000, lsl #16` and `ldr x1, [x2]`: a load from an address that the guest's memory map does not have.
    const READ_NOWHERE: [u32; 2] = [0xd2a2_0002, 0xf940_0041];
    let cases: [(&str, &[u32], i64, &str, &str); 2] = [
        ("hang.img", &[BRANCH_TO_SELF], 124, "timeout", "still running at the time limit"),
        ("trap.img", &READ_NOWHERE, 70, "error", "0x10000000"),
    ];
    for (name, instructions, code, status, reason) in cases {
        let guest = image(directory.path(), name, instructions);
        let results = directory.path().join(format!("{name}-results"));
        let run = ["run", "relax", "--blocks", "page", "--time-limit", "3", "--payload", name];
        let (output, found) = lab(&results, &["--with", &guest.to_string_lossy()], &run);
        assert_eq!(output.status.code().map(i64::from), Some(code), "{}{}", stdout(&output), stderr(&output));
        let case = &found.first().expect("a result even so")["cases"][0];
        assert_eq!(case["verdict"]["status"], status, "{case}");
        assert!(case["verdict"]["reason"].as_str().is_some_and(|text| text.contains(reason)), "{case}");
        let autopsy = case["autopsy"].to_string();
        assert!(autopsy.contains("pc=0x4000"), "the registers are in the result: {autopsy}");
    }
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn missing_memory_is_skipped_with_the_command_that_provides_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (output, found) = lab(directory.path(), &[], &["run", "relax", "--blocks", "2M,512M,page"]);
    let text = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{text}");
    let cases = found.first().expect("a result")["cases"].as_array().expect("cases").clone();
    let verdicts: Vec<_> = cases.iter().map(|case| case["verdict"]["status"].as_str().expect("a status")).collect();
    assert_eq!(verdicts, ["skip", "skip", "pass"], "{text}");
    let reasons: Vec<_> = cases.iter().map(|case| case["verdict"]["reason"].as_str().expect("a reason")).collect();
    assert!(reasons[0].ends_with("> /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "{reasons:?}");
    assert!(reasons[1].contains("no hugetlb pages of 512M"), "{reasons:?}");
}

/// Newer kernels show guests another CTR_EL0 as long as it is safe. Older ones refuse, which is a skip.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_guest_is_shown_another_ctr_if_kvm_permits() {
    let run = |kernel: &str, fields: &str| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = ["--kernel", kernel, "--cpu", "neoverse-n1"];
        let mut command = faultline(300);
        command.arg("lab").args(options).arg("--results").arg(directory.path());
        let output = command.args(["--", "run", "relax", "--blocks", "page", "--guest-ctr", fields]).output();
        let output = output.expect("timeout(1) is there");
        let path = support::stored(&output).pop().unwrap_or_else(|| panic!("{}{}", stdout(&output), stderr(&output)));
        let path = path.join("result.json");
        let result: Value = serde_json::from_slice(&std::fs::read(path).expect("a result")).expect("it is JSON");
        (output.status.code(), result)
    };
    let (code, result) = run("debian:6.12", "imin=32,idc=0");
    assert_eq!(code, Some(0), "{result}");
    let vcpu = &result["vcpus"][0];
    assert_eq!((&vcpu["ctr_el0"], &vcpu["shown"]["ctr_el0"]), (&0x9444_c004_u64.into(), &0x8444_c003_u64.into()));
    assert_eq!(vcpu["shown"]["imin_line_bytes"], 32);
    assert_eq!(result["cases"][0]["predicted"]["by_line"], 64, "the host uses its own lines of 64 bytes");
    for (kernel, fields) in [("debian:6.1", "imin=32"), ("debian:6.12", "imin=128")] {
        let (code, result) = run(kernel, fields);
        let reason = result["cases"][0]["verdict"]["reason"].as_str().expect("a reason");
        assert_eq!(code, Some(4), "{kernel} {fields}: {reason}");
        assert!(reason.contains("KVM refuses") && reason.contains("os error 22"), "{kernel} {fields}: {reason}");
    }
}

/// Two host events need another node to which pages move, and swap.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn nodes_and_swap_are_there_and_used() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = ["--kernel", "debian:6.1", "--nodes", "2", "--swap", "256M"];
    let run = ["run", "coherence", "--blocks", "page", "--events", "migrate,swap"];
    let (output, results) = lab(directory.path(), &options, &run);
    let text = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(results.len(), 2, "{text}");
    for result in &results {
        let machine = &result["machine"];
        assert_eq!(machine["numa_nodes"], serde_json::json!([0, 1]), "{machine}");
        // The first page of the swap area is its header.
        assert_eq!(machine["swap_bytes"], (256 << 20) - 4096, "{machine}");
        assert_eq!(machine["lab"]["no_swap"], Value::Null, "{machine}");
        let cases = result["cases"].as_array().expect("cases");
        let verdict = |event: &str| {
            &cases.iter().find(|case| case["findings"]["event"] == event).expect("the event has a case")["verdict"]
        };
        assert_eq!(verdict("migrate")["status"], "pass", "{}", verdict("migrate"));
        // There is swap on 6.1, too, but a single MADV_PAGEOUT may leave every page in place there.
        let old = machine["kernel_release"].as_str().is_some_and(|release| release.starts_with("6.1."));
        let left = verdict("swap")["reason"].as_str().is_some_and(|reason| reason.contains("took no page out"));
        assert!(verdict("swap")["status"] == "pass" || (old && left), "{}", verdict("swap"));
    }
}

/// Wrong input gives one line with the mistake and the next step, and the documented exit code.
#[test]
#[ignore = "needs make build and QEMU"]
fn bad_input() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let results = directory.path().join("results");
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("the directory is writable");
        path.to_string_lossy().into_owned()
    };
    let text = write("text", b"this is no kernel");
    // An Image header with a size larger than the file.
    let whole = std::fs::read(payload()).expect("it exists");
    let truncated = write("truncated", &whole[..4096]);
    // A kernel that prints nothing.
    let mut silent = vec![0; 2 << 20];
    silent[..64].copy_from_slice(&whole[..64]);
    silent[..4].copy_from_slice(&0x1400_0000_u32.to_le_bytes());
    let silent = write("silent", &silent);
    let lab = |kernel: &str| {
        vec!["lab".to_owned(), "--kernel".into(), kernel.to_owned(), "--qemu-timeout".into(), "5".into()]
    };
    let inside = ["--", "run", "boot"].map(str::to_owned);
    let with = |mut start: Vec<String>, more: &[&str]| {
        start.extend(more.iter().map(|s| (*s).to_owned()));
        start.extend(inside.clone());
        start
    };
    let cases: Vec<(Vec<String>, i32, &str)> = vec![
        (vec!["run".into(), "relax".into()], 70, "needs an arm64 Linux host"),
        (vec!["run".into(), "nonsense".into()], 64, "there is no scenario 'nonsense'"),
        (vec!["run".into(), "relax".into(), "--vcpus".into(), "0".into()], 64, "--vcpus"),
        (vec!["run".into(), "relax".into(), "--region".into(), "1.5G".into()], 64, "is not a size"),
        (vec!["run".into(), "relax".into(), "--guest-ctr".into(), "imin=48".into()], 64, "give imin=BYTES"),
        (vec!["reproduce".into(), "--time-scale".into(), "10".into()], 64, "--time-scale"),
        (with(lab("debian:nonsense"), &[]), 64, "unknown kernel"),
        (with(lab("/nonexistent"), &[]), 64, "cannot read the kernel /nonexistent"),
        (with(lab(&text), &[]), 70, "is not an arm64"),
        (with(lab(&truncated), &[]), 70, "truncated"),
        (with(lab(&silent), &[]), 70, "did not boot"),
        (with(lab(&silent), &["--qemu", "/nonexistent/qemu"]), 70, "apt-get install qemu-system-arm"),
        (with(lab(&silent), &["--results", "/proc/nowhere"]), 70, "/proc/nowhere"),
    ];
    for (arguments, code, message) in cases {
        let mut command = faultline(60);
        command.args(&arguments).current_dir(directory.path());
        if !arguments.contains(&"--results".to_owned()) && arguments[0] != "run" {
            let at = arguments.iter().position(|a| a == "--").unwrap_or(arguments.len());
            command = faultline(60);
            command.args(&arguments[..at]).arg("--results").arg(&results).args(&arguments[at..]);
        }
        let output = command.output().expect("timeout(1) is there");
        let printed = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
        assert!(printed.contains(message), "{arguments:?}: '{message}' is not in: {printed}");
        assert!(!printed.contains("panicked"), "{arguments:?}: {printed}");
    }
}

/// Only the emulated host can find these mistakes: no KVM, odd regions, regions above its IPA limit, no such payload.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn bad_input_inside() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cases: [(&[&str], &[&str], i32, &str); 4] = [
        (&["--append", "kvm-arm.mode=none"], &["run", "boot"], 70, "no /dev/kvm"),
        (&[], &["run", "relax", "--region", "5K", "--blocks", "page"], 64, "not a multiple"),
        (&[], &["run", "boot", "--region", "512T"], 64, "limit for guests"),
        (&[], &["run", "boot", "--payload", "/nonexistent"], 70, "cannot read the payload /nonexistent"),
    ];
    for (n, (options, run, code, message)) in cases.into_iter().enumerate() {
        let (output, _) = lab(&directory.path().join(n.to_string()), options, run);
        let printed = format!("{}{}", stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{run:?}: {printed}");
        assert!(printed.contains(message), "{run:?}: '{message}' is not in: {printed}");
    }
}

/// Ctrl-C leaves no QEMU behind and has an exit code of its own.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn an_interrupt_ends_the_lab() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = support::root().join("target/release/faultline");
    let mut child = std::process::Command::new(path)
        .args(["lab", "--kernel", "debian:6.12", "--results"])
        .arg(directory.path())
        .args(["--", "run", "relax", "--rounds", "10000"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it was built");
    let mut progress = BufReader::new(child.stderr.take().expect("it is a pipe")).lines().map_while(Result::ok);
    let mut printed: Vec<String> = Vec::new();
    while !printed.last().is_some_and(|line| line.contains("relax page")) {
        printed.push(progress.next().unwrap_or_else(|| panic!("no guest ran: {printed:?}")));
    }
    let id = child.id().to_string();
    let killed = limited(5, "kill").args(["-INT", &id]).status().expect("kill(1) is there");
    assert!(killed.success());
    printed.extend(progress);
    let code = child.wait().expect("it ends").code();
    assert_eq!(code, Some(130), "{printed:?}");
    let left = limited(5, "pgrep").args(["-P", &id]).output().expect("pgrep(1) is there");
    assert_eq!(stdout(&left), "", "a child is left");
}

/// Progress is printed for people, and answers for programs.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn the_lab_prints_as_much_as_its_options_ask_for() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let line = |options: &str| {
        let results = directory.path().display();
        format!("./faultline lab --kernel debian:6.12 --results {results} {options} -- run boot")
    };
    let shell = |line: &str| {
        let mut shell = limited(100, "sh");
        shell.args(["-c", line]).current_dir(support::root().join("target/release"));
        shell.env("NO_COLOR", "1").env("TERM", "xterm").stdin(std::process::Stdio::null());
        shell.output().expect("timeout(1) is there")
    };
    let terminal = |options: &str| stdout(&shell(&format!("script -qec '{}' /dev/null", line(options))));

    let plain = shell(&line(""));
    let printed = stderr(&plain);
    assert!(printed.contains("debian:6.12: booting\n") && !printed.contains(['\u{1b}', '\r']), "{printed:?}");
    assert!(!printed.contains("-machine") && stdout(&plain).contains("boot: pass"), "{}", stdout(&plain));
    let loud = stderr(&shell(&line("-v")));
    assert!(loud.contains("debian:6.12: qemu-system-aarch64 -machine"), "{loud}");
    let quiet = shell(&line("-q --json"));
    assert_eq!((quiet.status.code(), stderr(&quiet)), (Some(0), String::new()));
    let answer: Value = serde_json::from_slice(&quiet.stdout).expect("nothing but JSON");
    let run = &answer["runs"][0];
    assert!(run["exit_code"] == 0 && run["result"]["verdict"]["status"] == "pass", "{answer}");
    let drawn = terminal("");
    assert!(drawn.contains('\u{1b}') && !drawn.contains("\u{1b}[3"), "a spinner without colour: {drawn:?}");
    let drawn = terminal("-q");
    assert!(drawn.contains("boot: pass") && !drawn.contains('\u{1b}'), "{drawn:?}");
}
