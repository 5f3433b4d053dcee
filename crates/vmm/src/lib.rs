//! The VMM of faultline: it runs a guest on `/dev/kvm`, on arm64 Linux.
//!
//! [`run()`] turns a [`guest::spec::GuestSpec`] into a VM with one image, a channel, the regions under test and no
//! interrupt controller. It starts one thread for each vCPU and returns a [`guest::report::GuestRun`]. Meanwhile the
//! caller takes part through [`Watch`]: it carries out the host events that programs ask for, usually by
//! [`Host::perform`], and it supplies further programs.
//!
//! Only this crate uses KVM. KVM types do not leave it, except for the causes inside [`Error`]. The crate knows no
//! scenario and judges nothing.
//!
//! # Example
//!
//! A guest with one vCPU and an empty program:
//!
//! ```no_run
//! # #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use abi::Op;
//! use faultline_vmm::{Unwatched, run};
//! use guest::report::End;
//! use guest::spec::GuestSpec;
//!
//! let image = std::fs::read("target/faultline-payload.img")?;
//! let spec = GuestSpec { programs: vec![vec![Op::end()]], records: 8, ..GuestSpec::default() };
//! let report = run(&spec, &image, Duration::from_secs(10), &mut Unwatched)?;
//! assert_eq!(report.end, End::PoweredOff);
//! # Ok(())
//! # }
//! # #[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
//! # fn main() {}
//! ```

#![cfg(all(target_os = "linux", target_arch = "aarch64"))]

mod channel;
mod console;
mod error;
mod events;
mod fdt;
mod host;
mod kvm;
pub mod layout;
mod memory;
mod memslots;
mod registers;
mod run;
mod serve;
mod shared;
mod threads;
mod userfault;
mod vcpu;
mod vm;
mod watch;

pub use error::Error;
pub use events::{EventError, EventRequest};
pub use host::Host;
pub use kvm::{check, limits};
pub use run::{cpus, run};
pub use watch::{Unwatched, Watch};
