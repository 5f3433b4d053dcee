//! Measures costs, and checks the limits of some: `make bench`.
//!
//! Most are in instructions: with QEMU's `-icount`, one tick of the guest's counter is one instruction.

#![allow(clippy::print_stdout, reason = "a table for people")]

mod support;

use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use support::{faultline, image, lab, limited, payload, reproduce, root, stderr, stdout};

/// Time scale at which one tick is one instruction: an instruction takes 2^4 ns, and so does a tick of QEMU's counter
/// (62.5 MHz).
const TICK_IS_INSTRUCTION: &str = "4";

/// A guest of 28 instructions that measures an exec fault, with the MMU off. It stores a RET at the start of the region,
/// maintains the caches, and fetches it between the same barriers as the payload. It leaves the ticks in the channel, in
/// place of the counter resolution of vCPU 0.
const BY_HAND: [u32; 28] = [
    0xd2c0_0021, // movz x1, #1, lsl #32        the region
    0x5280_7802, // movz w2, #0x03c0            ret
    0x72ba_cbe2, // movk w2, #0xd65f, lsl #16
    0xb900_0022, // str  w2, [x1]               first touch, as data
    0xd503_3b9f, // dsb  ish
    0xd50b_7521, // ic   ivau, x1
    0xd503_3b9f, // dsb  ish
    0xd503_3fdf, // isb
    0xd503_3b9f, // dsb  ish
    0xd503_3fdf, // isb
    0xd53b_e043, // mrs  x3, cntvct_el0
    0xd503_3fdf, // isb
    0xd63f_0020, // blr  x1                     the fault
    0xd503_3b9f, // dsb  ish
    0xd503_3fdf, // isb
    0xd53b_e044, // mrs  x4, cntvct_el0
    0xd503_3fdf, // isb
    0xcb03_0084, // sub  x4, x4, x3
    0xd2aa_0005, // movz x5, #0x5000, lsl #16   the channel
    0xf900_64a4, // str  x4, [x5, #200]         vCPU 0, resolution_ticks
    0xd53b_e006, // mrs  x6, cntfrq_el0
    0xf900_5ca6, // str  x6, [x5, #184]         vCPU 0, cntfrq_el0
    0xd280_0046, // movz x6, #2
    0xf900_4ca6, // str  x6, [x5, #152]         vCPU 0, state: ended
    0x5280_0100, // movz w0, #0x0008            PSCI SYSTEM_OFF
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc  #0
    0x1400_0000, // b    .
];

/// Measurements, of which those above their limits are kept.
struct Bench(Vec<String>);

impl Bench {
    fn note(&mut self, what: &str, value: impl std::fmt::Display, unit: &str) {
        println!("{what:<58} {value:>12} {unit}");
    }

    fn limit(&mut self, what: &str, value: u64, limit: u64, unit: &str) {
        let verdict = if value <= limit { "ok" } else { "TOO MUCH" };
        println!("{what:<58} {value:>12} {unit:<13} limit {limit:>9}  {verdict}");
        if value > limit {
            self.0.push(format!("{what}: {value} > {limit} {unit}"));
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Runs a scenario in the lab with one instruction a tick. All results are emulated.
fn counted(results: &Path, options: &[&str], run: &[&str]) -> Value {
    let mut all = vec!["--time-scale", TICK_IS_INSTRUCTION];
    all.extend(options);
    let (output, found) = lab(results, &all, run);
    let found = found.into_iter().next();
    found.unwrap_or_else(|| panic!("no result: {}{}", stdout(&output), stderr(&output)))
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn bench() {
    let mut bench = Bench(Vec::new());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name);
    println!("all instruction counts are exact counts of an emulated machine");
    let image_bytes = std::fs::metadata(payload()).expect("it exists").len();
    bench.limit("payload image", image_bytes, 128 << 10, "bytes");
    fetches(&mut bench);
    ten_million_lines(&mut bench, directory.path());

    let boot = counted(&at("boot"), &[], &["run", "boot", "--region", "1T"]);
    bench.limit("descriptors that map 1 TiB", number(&boot["cases"][0]["boot"]["descriptor_writes"]), 1_100, "writes");
    let relax = counted(&at("relax"), &[], &["run", "relax", "--no-trace", "--blocks", "page,1G"]);
    let cases = relax["cases"].as_array().expect("cases");
    let (page, large) = (&cases[0], &cases[1]);
    bench.limit(
        "first instruction to first op, 1 GiB, host included",
        number(&large["boot"]["ticks"]),
        2_000_000,
        "instructions",
    );
    bench.limit(
        "runner's peak memory, small guest included",
        number(&relax["tool"]["peak_resident_kib"]),
        32 << 10,
        "KiB",
    );
    elements_one_by_one(&mut bench, &at("relax"));
    by_hand(&mut bench, directory.path(), page, "page");
    by_hand(&mut bench, directory.path(), large, "1G");

    litmus(&mut bench, &at("litmus"));
    random(&mut bench, &at("random"));

    let start = Instant::now();
    let (output, _) = reproduce(&at("reproduce"), &[]);
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    bench.note("warm reproduce, both kernels", format!("{:.1}", start.elapsed().as_secs_f64()), "s (wall)");
    assert!(bench.0.is_empty(), "{:?}", bench.0);
}

/// Compares the CPU time of runs with and without the sanitizer, in the same QEMU.
///
/// QEMU takes about 130 % with any plugin, even an empty one. Each callback for a store adds the look-up of its physical
/// address. The 1 GiB block is cleaned and zeroed line by line, with one callback each, and judged line by line.
#[test]
#[ignore = "needs make build, QEMU 10 and Debian's kernels"]
fn sanitizer() {
    let mut bench = Bench(Vec::new());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runs: [(&str, &[&str], u64); 5] = [
        ("boot", &["run", "boot"], 220),
        ("relax page,thp", &["run", "relax", "--blocks", "page,thp"], 240),
        ("random", &["run", "random", "--programs", "100", "--seed", "1"], 220),
        ("coherence unmap", &["run", "coherence", "--blocks", "page", "--events", "unmap,discard"], 160),
        ("relax 1G", &["run", "relax", "--blocks", "1G"], 350),
    ];
    for (name, run, limit) in runs {
        let [without, with] = [None, Some("--sanitize")].map(|option| {
            let results = directory.path().join(format!("{name}{}", option.unwrap_or_default()));
            let mut shell = limited(600, "bash");
            shell.args(["-c", "TIMEFORMAT='CPU %U %S'; time \"$@\"", "bash"]);
            shell.arg(root().join("target/release/faultline")).args(["lab", "--kernel", "debian:6.12", "--qemu", "10"]);
            shell.args(["--append", "hugepagesz=1G hugepages=1"]).args(option).arg("--results").arg(results);
            let output = shell.arg("--").args(run).output().expect("timeout(1) is there");
            assert!(output.status.success(), "{name}: {}{}", stdout(&output), stderr(&output));
            let text = stderr(&output);
            let line = text.lines().rev().find_map(|line| line.strip_prefix("CPU ")).expect("bash measured");
            line.split(' ').map(|seconds| seconds.parse::<f64>().expect("seconds")).sum::<f64>()
        });
        let percent = (with / without * 100.0) as u64;
        bench.limit(&format!("sanitizer, {name}: CPU time"), percent, limit, "% of without");
    }
    assert!(bench.0.is_empty(), "{:?}", bench.0);
}

/// Measures plain races of two vCPUs, in the lab without `-icount`. This is real time, which depends on the machine.
fn litmus(bench: &mut Bench, results: &Path) {
    let tests = "CoFF,MP.RF+cachesync+ctrl-isb,MP.FF+dmb.st+cachesync-isb,2SM.B+cachesync-isb,MP.FW+dmb.st+po";
    let run = ["run", "litmus", "--vcpus", "2", "--iterations", "8000", "--tests", tests];
    let (output, found) = lab(results, &[], &run);
    let result = found.first().unwrap_or_else(|| panic!("no result: {}{}", stdout(&output), stderr(&output)));
    for case in result["cases"].as_array().expect("cases") {
        let name = case["findings"]["test"].as_str().expect("a name");
        let us = 1_000_000 / number(&case["findings"]["per_second"]).max(1);
        bench.limit(&format!("litmus {name}, one race"), us, 1_000, "µs");
    }
}

/// Measures random programs of at most 20 steps in one VM, with their events, in real time.
fn random(bench: &mut Bench, results: &Path) {
    let (output, found) = lab(results, &[], &["run", "random", "--programs", "500"]);
    let result = found.first().unwrap_or_else(|| panic!("no result: {}{}", stdout(&output), stderr(&output)));
    let random = &result["cases"][0]["findings"];
    bench.limit("random, one program", 1_000 * number(&random["elapsed_ms"]) / 500, 20_000, "µs");
}

/// Measures a fetch that does not fault, in the payload's built-in program on one CPU, without a host kernel.
fn fetches(bench: &mut Bench) {
    let mut qemu = limited(60, "qemu-system-aarch64");
    qemu.args(["-machine", "virt", "-cpu", "cortex-a57", "-smp", "1", "-m", "1G", "-nographic"]);
    qemu.args(["-icount", "shift=4,sleep=off", "-kernel"]).arg(payload());
    let output = qemu.stdin(std::process::Stdio::null()).output().expect("timeout(1) is there");
    let text = stdout(&output);
    let value = |name: &str| {
        let line =
            text.lines().find(|line| line.contains(&format!("name={name}.cpu0 "))).expect("the payload reports it");
        let value = line.split(' ').find_map(|word| word.strip_prefix("value=")).expect("with a value");
        value.trim().parse().expect("a number")
    };
    bench.limit("timed window of a fetch, its slot included", value("fetch-window"), 40, "instructions");
    bench.limit("per element outside the window", value("fetch-outside"), 60, "instructions");
}

/// Measures `faultline dmesg` on all logs of the corpus, repeated. This is wall time, so the machine must be idle.
fn ten_million_lines(bench: &mut Bench, directory: &Path) {
    const LINES: usize = 10_000_000;
    let mut once = Vec::new();
    for entry in std::fs::read_dir(root().join("crates/klog/tests/logs")).expect("the corpus").flatten() {
        once.extend(std::fs::read(entry.path()).expect("a log"));
        once.push(b'\n');
    }
    let lines = once.iter().filter(|byte| **byte == b'\n').count();
    let path = directory.join("ten-million.log");
    let mut file = std::fs::File::create(&path).expect("the directory is writable");
    for _ in 0..LINES.div_ceil(lines) {
        std::io::Write::write_all(&mut file, &once).expect("there is room for it");
    }
    let start = Instant::now();
    let output = faultline(120).args(["dmesg", "--json"]).arg(&path).output().expect("timeout(1) is there");
    let took_ms = start.elapsed().as_millis() as u64;
    assert!(output.status.success() && !output.stdout.is_empty(), "{}", stderr(&output));
    bench.limit("dmesg, ten million lines", took_ms, 10_000, "ms (wall)");
    std::fs::remove_file(path).expect("it was there");
}

/// Measures the time between elements that have a record each.
fn elements_one_by_one(bench: &mut Bench, results: &Path) {
    let run = std::fs::read_dir(results).expect("it exists").flatten().next().expect("one run").path();
    let samples = std::fs::read_to_string(run.join("samples.csv")).expect("there are samples");
    let samples = report::samples::parse(&samples);
    let resident: Vec<_> = samples.iter().filter(|sample| sample.block == "page" && sample.op == "resident").collect();
    let mut costs: Vec<u64> = resident.windows(2).map(|pair| pair[1].began - pair[0].began - pair[0].ticks).collect();
    costs.sort_unstable();
    bench.note("per element outside the window, with a record for each", costs[costs.len() / 2], "instructions");
}

/// Compares the first exec fault that the payload measured with that of the guest of 28 instructions.
fn by_hand(bench: &mut Bench, directory: &Path, case: &Value, block: &str) {
    let guest = image(directory, "by-hand.img", &BY_HAND);
    let results = directory.join(format!("by-hand-{block}"));
    let run = ["run", "relax", "--no-trace", "--blocks", block, "--payload", "by-hand.img"];
    let result = counted(&results, &["--with", &guest.to_string_lossy()], &run);
    let expected = number(&result["vcpus"][0]["resolution_ticks"]);
    let measured = number(&case["times"]["exec"]["ticks"]["p50"]);
    let permille = measured.abs_diff(expected) * 1000 / expected;
    bench.note(&format!("exec fault on {block}, by hand"), expected, "instructions");
    bench.note(&format!("exec fault on {block}, payload"), measured, "instructions");
    bench.limit(&format!("exec fault on {block}, difference"), permille, 30, "per mille");
}
