//! Process 1 of the emulated host: it mounts file systems, runs the runner, and carries its files out.
//!
//! The lab's kernels have no built-in driver for a disk or a shared directory. So files leave the emulated host by QEMU
//! semihosting, and only init makes these calls. The runner writes plain files and does not know about semihosting.

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod console;
mod entry;
#[cfg(any(test, all(target_os = "linux", target_arch = "aarch64")))]
mod exporter;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod hooks;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod process_one;
pub(crate) mod protocol;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod semihost;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod swap;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod watch;

pub use entry::{is_init, run};
