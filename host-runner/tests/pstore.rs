//! A machine that panics during a case and boots again: `recover` closes the run from the memory that ramoops kept.
//!
//! The second start of QEMU gets the 2 MiB that the first one left in a file, and nothing else. It has neither the
//! console nor the end that the lab saw. `make test-long` builds the kernel.

mod support;

use std::path::{Path, PathBuf};

use support::{faultline, stderr, stdout};

/// Memory of the machine. The memory above it is kept in the file.
const MEMORY_MIB: u64 = 4096;
/// Address of the memory of QEMU's virt machine. The second NUMA node follows the first.
const MEMORY_BASE: u64 = 1 << 30;
/// Size of the memory that is kept.
const KEPT_BYTES: u64 = 2 << 20;

/// Boots the machine with the kept memory, runs a command in it, and returns the exit code and the output.
fn boot(kept: &Path, results: &Path, options: &[&str], run: &[&str]) -> (Option<i32>, String) {
    let total = MEMORY_MIB + (KEPT_BYTES >> 20);
    let address = MEMORY_BASE + (MEMORY_MIB << 20);
    // With `mem=`, Linux does not use the kept memory as its own. On a board, the device tree reserves such memory.
    let append = format!(
        "hugepagesz=1G hugepages=1 softlockup_panic=1 mem={MEMORY_MIB}M ramoops.mem_address={address:#x} \
         ramoops.mem_size={KEPT_BYTES:#x} ramoops.record_size=0x40000 ramoops.console_size=0x40000"
    );
    let mut command = faultline(300);
    command.args(["lab", "--kernel", "policy:by-line", "--cpu", "max", "--time-scale", "6"]);
    command.args(["--mem", &total.to_string(), "--append", &append]);
    let machine = [
        format!("memory-backend-ram,id=own,size={MEMORY_MIB}M"),
        format!("memory-backend-file,id=kept,share=on,size={KEPT_BYTES},mem-path={}", kept.display()),
    ];
    for object in machine {
        command.arg("--qemu-arg=-object").arg(format!("--qemu-arg={object}"));
    }
    for node in ["node,nodeid=0,cpus=0-1,memdev=own", "node,nodeid=1,memdev=kept"] {
        command.arg("--qemu-arg=-numa").arg(format!("--qemu-arg={node}"));
    }
    command.args(options).arg("--results").arg(results).arg("--").args(run);
    let output = command.output().expect("timeout(1) is there");
    (output.status.code(), stdout(&output) + &stderr(&output))
}

fn only_directory_in(results: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(results).expect("the lab made it").flatten().map(|entry| entry.path());
    entries.find(|path| path.is_dir()).expect("a run directory")
}

#[test]
#[ignore = "needs make build, QEMU and a policy kernel"]
fn memory_that_ramoops_kept_closes_the_run() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let (kept, results) = (place.path().join("kept"), place.path().join("first"));
    let relax = ["run", "relax", "--watchdog-thresh", "1", "--blocks", "page,1G,thp"];
    let (_, printed) = boot(&kept, &results, &[], &relax);
    let run = only_directory_in(&results);
    assert!(std::fs::read(run.join("result.json")).is_ok(), "the lab closes it: {printed}");

    // These are the files on the disk of a machine that nobody watches.
    let dead = place.path().join("dead");
    std::fs::create_dir(&dead).expect("writable");
    for file in ["journal.jsonl", "environment.json", "kmsg.raw", "samples.csv"] {
        std::fs::copy(run.join(file), dead.join(file)).expect("the run left it");
    }
    let with = ["--with", &*dead.to_string_lossy()];
    let (code, printed) = boot(&kept, &place.path().join("second"), &with, &["recover", "dead"]);
    assert_eq!(code, Some(1), "the lockup was seen: {printed}");
    for part in ["event=soft_lockup", "icache_inval_pou", "the machine died during case 1G: event=panic softlockup"] {
        assert!(printed.contains(part), "{part} is not in {printed}");
    }

    // Without the kept memory, the panic must not be in the result.
    std::fs::remove_file(&kept).expect("it was there");
    let (code, printed) = boot(&kept, &place.path().join("third"), &with, &["recover", "dead"]);
    assert!(!printed.contains("event=panic") && printed.contains("went down during case 1G"), "{code:?}: {printed}");
}
