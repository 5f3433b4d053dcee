//! The emulated lab: it boots arm64 kernels under QEMU and runs faultline's runner in them.
//!
//! An arm64 Linux under QEMU is called an *emulated host*. Each kernel is fetched from Debian, built from source, or
//! given as a file. An initramfs has the static runner as /init. QEMU provides EL2, so that the runner can use KVM. The
//! files of the run leave the emulated host while it works, so a kernel that panics or hangs loses nothing. The same
//! program is process 1 of the emulated host, see [`init`].
//!
//! This crate knows neither scenarios nor verdicts: in a stored result it only fills in the name and the times of the
//! run. It does not use KVM itself. It installs nothing on the machine: all its files are in the cache and in the
//! results directory.
//!
//! ```
//! use faultline_lab::{Options, run};
//!
//! let options = Options { dry_run: true, ..Options::for_kernel("debian:6.1") };
//! // Prints the command line of QEMU.
//! let boots = run(&options, &["run".into(), "relax".into()], &|_, _| ())?;
//! assert_eq!(boots[0].kernel, "debian:6.1");
//! # Ok::<(), faultline_lab::Error>(())
//! ```

mod apt;
mod boot;
mod cache;
pub mod cmo;
mod collect;
mod context;
mod digest;
mod end;
mod error;
pub mod init;
mod initramfs;
mod kernel;
mod options;
mod policy;
mod prepare;
mod process;
mod progress;
mod qemu;
mod rescue;
mod run;
mod runner;
pub mod sanitizer;
mod work_dir;

pub use boot::Boot;
pub use collect::{CloseRun, cause};
pub use end::HostEnd;
pub use error::Error;
pub use kernel::list as kernels;
pub use options::Options;
pub use policy::faults;
pub use progress::{RunnerOutput, Verbosity};
pub use qemu::choice::{OWN_QEMU, QemuChoice};
pub use qemu::emulator::Emulator;
pub use rescue::rescue;
pub use run::{emulator, run};
