// SPDX-License-Identifier: GPL-2.0-or-later
//! Tests of the plugin's counts in the installed QEMU, with programs whose number of maintenance instructions is known.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const IC_IALLU: u32 = 0xd508_751f;
const IC_IVAU_X2: u32 = 0xd50b_7522;
const DC_CVAC_X2: u32 = 0xd50b_7a22;
const DC_CIVAC_X2: u32 = 0xd50b_7e22;
const ADR_X2_HERE: u32 = 0x1000_0002;
const SUBS_X1_X1_1: u32 = 0xf100_0421;
const HVC: u32 = 0xd400_0002;
const BRANCH_HERE: u32 = 0x1400_0000;
/// Address to which QEMU's virt machine loads a flat image without a header: 0x80000 above the start of RAM.
const LOADED_AT: u64 = 0x4008_0000;

/// Flat program for the virt machine, word by word.
#[derive(Default)]
struct Program(Vec<u32>);

impl Program {
    fn word(mut self, word: u32) -> Self {
        self.0.push(word);
        self
    }

    /// Appends `MOVZ Xd, #value`.
    fn set(self, register: u32, value: u16) -> Self {
        self.word(0xd280_0000 | u32::from(value) << 5 | register)
    }

    /// Appends a loop that executes `op`, which works on the address in x2, `times` times. Returns the program and the
    /// pc of `op`.
    fn repeat(self, op: u32, times: u16) -> (Self, u64) {
        let program = self.word(ADR_X2_HERE).set(1, times);
        let pc = program.pc();
        // The last word is a b.ne to `op`, two words before.
        (program.word(op).word(SUBS_X1_X1_1).word(0x5400_0001 | (-2i32 as u32 & 0x7_ffff) << 5), pc)
    }

    fn phase(self, phase: u32) -> Self {
        self.word(0xd503_201f | (96 + phase) << 5)
    }

    /// Appends PSCI SYSTEM_OFF (0x8400_0008) by HVC.
    fn power_off(self) -> Self {
        self.psci(0x8400_0008)
    }

    fn psci(self, function: u32) -> Self {
        self.set(0, function as u16).word(0xf2a0_0000 | (function >> 16) << 5).word(HVC)
    }

    fn pc(&self) -> u64 {
        LOADED_AT + 4 * self.0.len() as u64
    }
}

/// Returns the reason why the tests cannot run, or `None` if they can.
fn missing() -> Option<String> {
    match Command::new("qemu-system-aarch64").arg("--help").output() {
        Err(error) => Some(format!("qemu-system-aarch64: {error}")),
        Ok(help) if !String::from_utf8_lossy(&help.stdout).contains("-plugin") => {
            Some("this qemu-system-aarch64 was built without TCG plugins".into())
        }
        Ok(_) => None,
    }
}

/// Returns the path of the library under test, which cargo builds before this test.
fn plugin() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folders = test.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("libcmo_plugin.so")).find(|library| library.exists());
    found.expect("cargo builds the library beside its tests")
}

/// Runs `program` with the plugin writing to `out`.
fn run(program: &Program, out: &Path, options: &[&str]) -> Output {
    let image = out.with_extension("img");
    fs::write(&image, program.0.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()).expect("image written");
    Command::new("timeout")
        .args(["-k", "5", "60", "qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a57", "-m", "64M"])
        .args(["-display", "none", "-serial", "none", "-monitor", "none"])
        .args(options)
        .arg("-plugin")
        .arg(format!("{},out={}", plugin().display(), out.display()))
        .arg("-kernel")
        .arg(&image)
        .output()
        .expect("timeout starts")
}

/// Runs `program` to its power-off and returns the plugin's report.
fn report(program: &Program, options: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("counts.json");
    let output = run(program, &out, options);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&fs::read(&out).expect("the plugin wrote its file")).expect("JSON")
}

/// Returns the op, pc and count of each entry of a phase, sorted.
fn ops(report: &Value, phase: u64) -> Vec<(String, String, u64)> {
    let phases = report["phases"].as_array().expect("an array");
    let found = phases.iter().filter(|entry| entry["phase"] == phase);
    let all = found.flat_map(|entry| entry["ops"].as_array().expect("an array"));
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let mut ops: Vec<_> =
        all.map(|op| (text(&op["op"]), text(&op["pc"]), op["count"].as_u64().expect("a number"))).collect();
    ops.sort();
    ops
}

fn op(name: &str, pc: u64, count: u64) -> (String, String, u64) {
    (name.into(), format!("{pc:#x}"), count)
}

#[test]
fn counts_by_pc_and_phase_are_exact() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let (program, ivau) = Program::default().repeat(IC_IVAU_X2, 40_961);
    let (program, cvac) = program.phase(1).repeat(DC_CVAC_X2, 1_234);
    let all = program.pc();
    let (program, civac) = program.word(IC_IALLU).phase(31).repeat(DC_CIVAC_X2, 7);
    let (program, late) = program.phase(0).repeat(IC_IVAU_X2, 3);
    for options in [&[][..], &["-icount", "shift=4,sleep=off"]] {
        let report = report(&Program(program.0.clone()).power_off(), options);
        assert_eq!(report["ended"], true);
        assert_eq!(ops(&report, 0), [op("ic_ivau", ivau, 40_961), op("ic_ivau", late, 3)], "{options:?}");
        assert_eq!(ops(&report, 1), [op("dc_cvac", cvac, 1_234), op("ic_iallu", all, 1)], "{options:?}");
        assert_eq!(ops(&report, 31), [op("dc_civac", civac, 7)], "{options:?}");
    }
}

#[test]
fn counts_of_two_cpus_at_once_add_up() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    // CPU 0 starts CPU 1 (PSCI CPU_ON 0xc400_0003: target in x1, entry in x2) at the loop that both run, 50 times
    // 60,000. CPU 1 then sets the word at x5, and CPU 0 waits for that and powers off.
    // With the MMU off, memory is Device and needs aligned accesses. The flag is a word, not a doubleword, because its
    // address is a multiple of 4 only.
    let start = Program::default().set(7, 1).set(1, 1);
    let adr = start.0.len();
    let mut start = start.word(0).set(3, 0).psci(0xc400_0003);
    start.0[adr] = ADR_X2_HERE | ((start.0.len() - adr) as u32) << 5;
    let body = start.set(6, 50);
    let again = body.pc();
    let (body, ivau) = body.repeat(IC_IVAU_X2, 60_000);
    let back = ((again as i64 - body.pc() as i64 - 4) / 4) as u32;
    let body = body.word(0xf100_04c6).word(0x5400_0001 | (back & 0x7_ffff) << 5); // subs x6, x6, #1; b.ne again
    let body = body.word(0x1000_0205); // adr x5, 64 bytes on, behind the code
    let body = body.word(0xb500_0087); // cbnz x7, 4 words on: CPU 0, whose x7 is 1 (CPU 1 starts with zeroes)
    let body = body.set(8, 1).word(0xb900_00a8).word(BRANCH_HERE); // CPU 1: str w8, [x5]; stop
    let body = body.word(0xb940_00a8).word(0x34ff_ffe8); // CPU 0: ldr w8, [x5]; cbz w8, the load
    let report = report(&body.power_off(), &["-smp", "2", "-accel", "tcg,thread=multi"]);
    assert_eq!(ops(&report, 0), [op("ic_ivau", ivau, 2 * 50 * 60_000)]);
}

#[test]
fn a_killed_qemu_leaves_what_the_last_marker_saw() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("counts.json");
    let (program, ivau) = Program::default().repeat(IC_IVAU_X2, 5);
    let (program, _) = program.phase(1).repeat(IC_IVAU_X2, 9);
    let image = folder.path().join("hang.img");
    let words = program.word(BRANCH_HERE).0;
    fs::write(&image, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()).expect("image written");
    let mut qemu = Command::new("qemu-system-aarch64")
        .args(["-machine", "virt", "-cpu", "cortex-a57", "-m", "64M", "-display", "none", "-serial", "none"])
        .args(["-monitor", "none", "-plugin"])
        .arg(format!("{},out={}", plugin().display(), out.display()))
        .arg("-kernel")
        .arg(&image)
        .spawn()
        .expect("QEMU starts");
    let marked = || fs::read_to_string(&out).is_ok_and(|text| text.contains("ic_ivau"));
    for _ in 0..600 {
        if marked() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    qemu.kill().expect("still running: the program never ends");
    qemu.wait().expect("reaped");
    let report: Value = serde_json::from_slice(&fs::read(&out).expect("written")).expect("JSON");
    assert_eq!(report["ended"], false);
    assert_eq!(ops(&report, 0), [op("ic_ivau", ivau, 5)]);
}

#[test]
fn a_place_that_cannot_be_written_stops_qemu_before_the_run() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The file cannot replace a folder.
    let output = run(&Program::default().power_off(), folder.path(), &[]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cmo-plugin: cannot write"), "{output:?}");
}
