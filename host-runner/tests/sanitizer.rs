//! Tests the sanitizer end to end: on a stock kernel, and with tiny hosts that make one mistake each. `make test` runs
//! them after `make build`.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::{faultline, stderr, stdout, stored};

/// Tables of the tiny host's guest: one of each level. QEMU puts the initramfs at 0x4800_0000.
const TABLES: [u64; 3] = [0x5800_0000, 0x5801_0000, 0x5802_0000];
/// The page that the host stores to and maps.
const FRAME: u64 = 0x5000_0000;
/// VTCR_EL2: granule 4 KiB, IPA of 40 bits, 44-bit physical addresses, Inner Shareable and Write-Back.
const VTCR: u64 = 0x8004_3558;
/// HCR_EL2 with RW, FB, BSU of Inner Shareable and VM.
const HCR: u64 = 1 << 31 | 1 << 9 | 1 << 10 | 1;
/// Valid page, readable and writable, Normal Write-Back.
const EXECUTE: u64 = 0x7ff;
/// The same without execute permission.
const READ: u64 = 1 << 54 | EXECUTE;

const DC_CIVAC_X2: u32 = 0xd50b_7e22;
const DC_CVAU_X2: u32 = 0xd50b_7b22;
const IC_IVAU_X2: u32 = 0xd50b_7522;
const IC_IALLU: u32 = 0xd508_751f;
const IC_IALLUIS: u32 = 0xd508_711f;
const DSB_SY: u32 = 0xd503_3f9f;
const DSB_ISHST: u32 = 0xd503_3a9f;
const DSB_NSH: u32 = 0xd503_379f;
const CASE: u32 = 0xd503_201f | 95 << 5;
const SMC: u32 = 0xd400_0003;
const ERET: u32 = 0xd69f_03e0;
const BRANCH_HERE: u32 = 0x1400_0000;

/// A host of a few instructions, at EL2 with the MMU off, as an arm64 Image.
#[derive(Clone, Default)]
struct Host(Vec<u32>);

impl Host {
    /// Returns a host that begins case 1, follows its guest's tables, and has stored to two lines of the page.
    fn new() -> Self {
        let host = Self::default().set(0, 1).words(&[CASE]).set(1, VTCR).words(&[0xd51c_2141]);
        let host = host.set(1, 1 << 48 | TABLES[0]).words(&[0xd51c_2101]);
        let host = host.store(TABLES[0], TABLES[1] | 3).store(TABLES[1], TABLES[2] | 3);
        host.store(FRAME, 1).store(FRAME + 64, 2)
    }

    fn words(mut self, words: &[u32]) -> Self {
        self.0.extend(words);
        self
    }

    /// Appends instructions that set a register.
    fn set(self, register: u32, value: u64) -> Self {
        let part = |n: u32| (value >> (16 * n)) as u32 & 0xffff;
        let first = 0xd280_0000 | part(0) << 5 | register;
        let rest = (1..4).filter(|n| part(*n) != 0).map(|n| 0xf280_0000 | n << 21 | part(n) << 5 | register);
        let rest: Vec<_> = rest.collect();
        self.words(&[first]).words(&rest)
    }

    /// Appends a store of eight bytes.
    fn store(self, pa: u64, value: u64) -> Self {
        self.set(1, value).set(2, pa).words(&[0xf900_0041])
    }

    /// Appends an operation on each of the first `lines` lines of the page.
    fn each(self, op: u32, lines: u64) -> Self {
        (0..lines).fold(self, |host, line| host.set(2, FRAME + line * 64).words(&[op]))
    }

    /// Appends the store of the leaf.
    fn map(self, attributes: u64) -> Self {
        self.store(TABLES[2], FRAME | attributes)
    }

    /// Appends an entry into a guest, which does not come far, because nothing is mapped for it. Its first exception
    /// powers the machine off.
    fn enter(self, hcr: u64) -> Self {
        // VBAR_EL2 is 4 KiB behind the start, see `image`. ADR reaches it; the word is patched there.
        let host = self.set(1, hcr).words(&[0xd51c_1101]).set(1, 0x3c5).words(&[0xd51c_4001]);
        host.set(1, 0).words(&[0xd51c_4021, ERET])
    }

    fn off(self) -> Self {
        self.set(0, 0x8400_0008).words(&[SMC])
    }

    /// Writes the Image: header, code, and vectors that power off.
    fn image(&self, folder: &Path) -> PathBuf {
        const HEADER_WORDS: usize = 16;
        const VECTORS: usize = 0x1000;
        // ADR X3, VBAR; MSR VBAR_EL2, X3.
        let offset = (VECTORS - HEADER_WORDS * 4) as u32;
        let adr = 0x1000_0003 | (offset & 3) << 29 | (offset >> 2) << 5;
        let mut words = vec![0u32; HEADER_WORDS];
        words[0] = BRANCH_HERE | HEADER_WORDS as u32;
        words[4] = (VECTORS + 0x800) as u32; // size of the image
        words[14] = u32::from_le_bytes(*b"ARM\x64");
        words.extend([adr, 0xd51c_c003]);
        words.extend(&self.0);
        assert!(words.len() * 4 < VECTORS);
        words.resize((VECTORS + 0x800) / 4, 0);
        let off = Self::default().off().0;
        for vector in (VECTORS..VECTORS + 0x800).step_by(0x80) {
            words[vector / 4..vector / 4 + off.len()].copy_from_slice(&off);
        }
        let path = folder.join("host.img");
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        std::fs::write(&path, bytes).expect("the directory is writable");
        path
    }
}

/// Runs a host, and returns what the plugin wrote.
fn run(host: &Host) -> Value {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let image = host.image(folder.path());
    let results = folder.path().join("results");
    let mut command = faultline(300);
    command.args(["lab", "--sanitize", "--smp", "1", "--mem", "512", "--qemu-timeout", "60", "--kernel"]).arg(&image);
    let output = command.arg("--results").arg(&results).args(["--", "doctor"]).output().expect("timeout(1) is there");
    let folders = std::fs::read_dir(&results).into_iter().flatten().flatten().map(|entry| entry.path());
    let files: Vec<_> = folders.map(|path| path.join("sanitizer.json")).filter(|path| path.exists()).collect();
    let [file] = &files[..] else { panic!("no reports: {}{}", stdout(&output), stderr(&output)) };
    serde_json::from_slice(&std::fs::read(file).expect("it exists")).expect("JSON")
}

/// A report that the host owes: kind, missing thing, lines, and lateness.
type Wanted = (&'static str, &'static str, u64, bool);

/// Returns the reports of case 1: kind, missing thing, debtor, lines of the first and lateness.
fn reports(written: &Value) -> Vec<(String, String, String, u64, bool)> {
    let case = written["sections"].as_array().expect("sections").iter().find(|section| section["case"] == 1);
    let reports = case.expect("case 1")["reports"].as_array().expect("reports").iter();
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let of = |r: &Value| {
        let lines = r["first"]["lines"].as_u64().expect("a number");
        (text(&r["kind"]), text(&r["missing"]), text(&r["owed"]), lines, r["late"] == true)
    };
    reports.map(of).collect()
}

#[test]
#[ignore = "needs make build and QEMU 10"]
fn each_mistake_of_a_tiny_host_is_reported_and_a_right_one_is_not() {
    let clean = || Host::new().each(DC_CIVAC_X2, 2).words(&[DSB_SY]);
    let cases: [(&str, Host, &[Wanted]); 12] = [
        ("right", clean().each(IC_IVAU_X2, 2).words(&[DSB_SY]).map(EXECUTE), &[]),
        ("right, all at once", clean().words(&[IC_IALLUIS, DSB_SY]).map(EXECUTE), &[]),
        ("no clean", Host::new().map(READ), &[("P-D", "d_clean", 2, false)]),
        ("half", Host::new().each(DC_CIVAC_X2, 1).words(&[DSB_SY]).map(READ), &[("P-D", "d_clean", 1, false)]),
        (
            "no barrier",
            Host::new().each(DC_CIVAC_X2, 2).words(&[DSB_ISHST, DSB_NSH]).map(READ),
            &[("P-D", "d_clean_not_completed", 2, false)],
        ),
        ("too shallow", Host::new().each(DC_CVAU_X2, 2).words(&[DSB_SY]).map(READ), &[("P-D", "d_clean", 2, false)]),
        (
            "an instant too late",
            Host::new().map(READ).each(DC_CIVAC_X2, 2).words(&[DSB_SY]),
            &[("P-D", "d_clean", 2, true)],
        ),
        ("no invalidation", clean().map(EXECUTE), &[("P-I", "i_invalidation", 2, false)]),
        ("of this CPU only", clean().words(&[IC_IALLU, DSB_NSH]).map(EXECUTE), &[("P-I", "i_on_one_pe", 2, false)]),
        (
            "no break",
            clean().map(READ).store(TABLES[2], (FRAME + 0x1000) | READ),
            &[("B", "break_before_make", 0, false)],
        ),
        ("right registers", clean().enter(HCR), &[]),
        ("BSU 0", clean().enter(HCR & !(3 << 10)), &[("G", "hcr_bsu", 0, false)]),
    ];
    for (name, host, wanted) in cases {
        let written = run(&host.off());
        assert_eq!(written["ended"], true, "{name}: {written}");
        let owed: Vec<_> = reports(&written).into_iter().filter(|(.., owed, _, _)| owed == "host").collect();
        let found: Vec<_> =
            owed.iter().map(|(kind, missing, _, n, late)| (&kind[..], &missing[..], *n, *late)).collect();
        assert_eq!(found, wanted, "{name}: {written}");
    }
}

#[test]
#[ignore = "needs make build and QEMU 10"]
fn a_mistake_that_is_visible_for_an_instant_is_reported_in_every_run() {
    for _ in 0..5 {
        let host = Host::new().map(EXECUTE).each(DC_CIVAC_X2, 2).words(&[DSB_SY]).each(IC_IVAU_X2, 2).words(&[DSB_SY]);
        let found = reports(&run(&host.off()));
        let all = [("P-D", "d_clean"), ("P-I", "i_invalidation")];
        assert!(
            all.iter().all(|(kind, missing)| {
                found.iter().any(|(k, m, owed, lines, late)| {
                    (&k[..], &m[..], &owed[..], *lines, *late) == (kind, missing, "host", 2, true)
                })
            }),
            "{found:?}"
        );
    }
}

/// Returns the process that `parent` started, or one that it started, with this name.
fn descendant(parent: u32, name: &str) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let of_threads = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let all: Vec<u32> = of_threads
        .chain([children])
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let is_named = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim().starts_with(name))
    };
    all.iter().copied().find(is_named).or_else(|| all.iter().find_map(|pid| descendant(*pid, name)))
}

#[test]
#[ignore = "needs make build and QEMU 10"]
fn a_killed_emulator_leaves_the_reports_up_to_the_last_marker() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    // The second marker writes the first case's report. Then the host hangs.
    let host = Host::new().map(READ).set(0, 2).words(&[CASE, BRANCH_HERE]);
    let (image, results) = (host.image(folder.path()), folder.path().join("results"));
    let mut command = faultline(120);
    command.args(["lab", "--sanitize", "--smp", "1", "--mem", "512", "--kernel"]).arg(&image);
    command.arg("--results").arg(&results).args(["--", "doctor"]);
    let mut child =
        command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().expect("it starts");
    let written = || {
        let found = walk(&results).into_iter().find(|path| path.ends_with("sanitizer.json"))?;
        std::fs::read_to_string(found).ok().filter(|text| text.contains("d_clean"))
    };
    for _ in 0..600 {
        if written().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let qemu = descendant(child.id(), "qemu-system-aar").expect("QEMU runs");
    assert!(Command::new("kill").args(["-KILL", &qemu.to_string()]).status().expect("kill(1)").success());
    child.wait().expect("reaped");
    let left: Value = serde_json::from_str(&written().expect("kept")).expect("JSON");
    assert_eq!(left["ended"], false);
    assert_eq!(reports(&left).len(), 1);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Runs a scenario under the sanitizer on a stock kernel. Checks that each case judged mappings and lines, and that no
/// format hides it.
fn stock_kernel(run: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut command = faultline(300);
    command.args(["lab", "--sanitize", "--kernel", "debian:6.12", "--results"]).arg(folder.path());
    let output = command.args(["--", "run"]).args(run).output().expect("timeout(1) is there");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains("written lines judged"), "{text}");
    let path = stored(&output).pop().expect("a run directory");
    let read = |name: &str| std::fs::read_to_string(path.join(name)).expect("it is there");
    let result: Value = serde_json::from_str(&read("result.json")).expect("JSON");
    for case in result["cases"].as_array().expect("cases") {
        let found = &case["sanitizer"];
        assert_eq!(found["owed"], 0, "{found}");
        assert!(found["published"].as_u64() > Some(8) && found["checked_lines"].as_u64() > Some(4096), "{found}");
    }
    for format in ["results.ktap", "junit.xml", "kcidb.json"] {
        let text = read(format).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("written lines judged"), "{format}: {text}");
    }
}

#[test]
#[ignore = "needs make build and QEMU 10"]
fn a_stock_kernel_passes_and_says_how_much_was_checked() {
    stock_kernel(&["relax", "--blocks", "page,thp"]);
}

/// One guest runs all events of `coherence`, and each event is a case of its own.
#[test]
#[ignore = "needs make build and QEMU 10"]
fn each_event_has_checks_of_its_own() {
    stock_kernel(&["coherence", "--blocks", "page", "--events", "unmap,move-vcpu"]);
}

#[test]
#[ignore = "needs make build"]
fn a_qemu_that_is_too_old_is_named_in_one_line() {
    let version = Command::new("qemu-system-aarch64").arg("--version").output().expect("QEMU is there");
    if !stdout(&version).contains("version 7.") {
        println!("skipped: this machine's QEMU is not version 7");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut command = faultline(300);
    command.args([
        "lab",
        "--sanitize",
        "--qemu",
        "/usr/bin/qemu-system-aarch64",
        "--kernel",
        "debian:6.12",
        "--results",
    ]);
    let output = command
        .arg(folder.path())
        .args(["--", "run", "relax", "--blocks", "page"])
        .output()
        .expect("timeout(1) is there");
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    let lines: Vec<_> = stderr(&output).lines().filter(|line| line.contains("QEMU 10")).map(str::to_owned).collect();
    assert_eq!(lines.len(), 1, "{}", stderr(&output));
}
