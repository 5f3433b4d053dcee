//! What runs inside the emulated machine as process 1: mounts, the runner, and the courier of its results.
//!
//! The kernels of the lab have no driver for a disk or a shared directory built in, so results leave by QEMU
//! semihosting, and only from here: the runner itself writes to plain files and never knows.

pub mod courier;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod hooks;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod init;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod semihost;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod swap;

use std::collections::BTreeMap;
use std::path::Path;

use record::machine::LabFacts;
use serde::{Deserialize, Serialize};

/// Where the initramfs holds the [`Manifest`]; its presence tells the lab's process 1 from a container's.
pub const MANIFEST_PATH: &str = "/faultline-lab.json";

/// The directory under which the runner, started with this as the parent of its `results`, writes its run directory.
pub const RESULTS: &str = "/results";

/// Name of the run directory inside the guest, handed to the runner as `FAULTLINE_RUN_NAME`.
pub const RUN_NAME: &str = "run";

/// File in the staging directory that says that init came up: a [`Hello`].
pub const HELLO_FILE: &str = ".hello";

/// File in the staging directory that says how it ended: a [`Farewell`].
pub const EXIT_FILE: &str = ".exit";

/// File in the staging directory that receives what the runner prints, as it prints it.
pub const OUTPUT_FILE: &str = "output.log";

/// File in the staging directory that QEMU fills with the serial console.
pub const CONSOLE_FILE: &str = "console.log";

/// What the host asks of init, stored in the initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Arguments of the runner, without the program name.
    pub argv: Vec<String>,
    /// Description of the emulated host, which the runner finds as JSON in [`record::machine::LAB_VARIABLE`].
    pub lab: LabFacts,
    /// Swap that the user asks for.
    #[serde(default)]
    pub swap: Option<SwapOrder>,
    /// Accidents that tests ask for.
    #[serde(default)]
    pub hooks: BTreeMap<String, String>,
}

/// How init is to set up swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapOrder {
    /// How much.
    pub bytes: u64,
    /// Modules in the initramfs, in the order in which they load.
    pub modules: Vec<String>,
    /// Why there are none, for kernels that lack what they would bring.
    pub no_modules: Option<String>,
}

/// Init's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Release of the running kernel, as `uname -r` gives it.
    pub release: String,
}

/// Init's last message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// How the runner ended.
    pub exit: ExitMark,
    /// What could not be carried out of the guest, one line each.
    pub lost: Vec<String>,
    /// What the user asked for and this kernel does not have, one line each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Whether the host's disk was ever full.
    pub host_was_full: bool,
}

/// How the runner ended inside the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitMark {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

/// Says whether this process is process 1 of the emulated lab.
pub fn is_init() -> bool {
    cfg!(all(target_os = "linux", target_arch = "aarch64"))
        && std::process::id() == 1
        && Path::new(MANIFEST_PATH).exists()
}

/// Runs the guest side of the lab and powers the machine off. Call it only when [`is_init`] says so.
pub fn init() -> ! {
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    init::run();
    #[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
    unreachable!("is_init() is never true outside an arm64 Linux guest")
}
