//! Files that the lab and init exchange: the manifest goes in, reports come out.

use std::collections::BTreeMap;

use record::machine::LabFacts;
use serde::{Deserialize, Serialize};

/// Path of the [`Manifest`] in the initramfs. The file tells init of an emulated host from process 1 of a container.
pub const MANIFEST_PATH: &str = "/faultline-lab.json";

/// Directory in which the runner creates its run directory. The runner starts in the parent of this directory.
pub const RESULTS: &str = "/results";

/// Name of the run directory in the emulated host. The runner gets it as `FAULTLINE_RUN_NAME`.
pub const RUN_NAME: &str = "run";

/// File in the staging directory with the [`BootReport`].
pub const BOOT_REPORT_FILE: &str = ".boot";

/// File in the staging directory with the [`ExitReport`].
pub const EXIT_REPORT_FILE: &str = ".exit";

/// File in the staging directory with the output of the runner. It grows while the runner prints.
pub const OUTPUT_FILE: &str = "output.log";

/// File in the staging directory with the output of the serial console. QEMU writes it.
pub const CONSOLE_FILE: &str = "console.log";

/// Temporary name of a file that init copies out whole.
pub const PARTIAL_FILE: &str = ".part";

/// The lab's orders for init, stored in the initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Arguments of the runner, without the program name.
    pub argv: Vec<String>,
    /// Facts about the emulated host. The runner gets them as JSON in [`record::machine::LAB_VARIABLE`].
    pub lab: LabFacts,
    /// The swap that the user asked for.
    #[serde(default)]
    pub swap: Option<SwapOrder>,
    /// Accidents that tests asked for.
    #[serde(default)]
    pub hooks: BTreeMap<String, String>,
}

/// An order to set up swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapOrder {
    /// Size of the swap.
    pub bytes: u64,
    /// Paths of modules in the initramfs, in the order in which they must be loaded.
    pub modules: Vec<String>,
    /// Reason why there are no modules, for a kernel without built-in zram.
    pub no_modules: Option<String>,
}

/// Init's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// Release of the running kernel, as `uname -r` prints it.
    pub release: String,
}

/// Init's last message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// End of the runner.
    pub exit: RunnerExit,
    /// Files that could not be carried out, one line each.
    pub lost: Vec<String>,
    /// Requests of the user that this kernel cannot meet, one line each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// True if the disk outside was full at any time.
    pub disk_was_full: bool,
}

/// The end of the runner in the emulated host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunnerExit {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}
