//! Facts about this host: the machine, its lockup detectors, its settings, its kernel log and its trace.
//!
//! Only this crate reads `/proc`, `/sys`, tracefs and `/dev/kmsg`. The one exception is the init of the emulated host, in
//! `lab`, which mounts these file systems. This crate is also the only one that changes settings. It does so through
//! [`guard::Guard`], which restores them.
//!
//! The crate judges nothing. Its readers return plain data or a reason why there is none; a missing file is never a
//! panic. The text of kernel messages is parsed in `klog`, and the types that a result stores are in `record`.
//! [`phase`] reads nothing: it marks the phases of a run for the lab's counting plugin.
//!
//! # Example
//!
//! A check that the kernel would report a soft lockup on each CPU that this process may use:
//!
//! ```
//! let machine = faultline_hostfacts::machine::read();
//! let detector = faultline_hostfacts::detector::read();
//! match detector.watches(&machine.cpus_allowed) {
//!     Ok(()) => println!("the kernel reports a lockup after {:?} s", detector.soft_threshold_s()),
//!     Err(reason) => println!("{reason}"),
//! }
//! ```

pub mod affinity;
pub mod company;
pub mod dangers;
pub mod detector;
pub mod guard;
pub mod interrupt;
pub mod kmsg;
pub mod machine;
pub mod memory;
pub mod phase;
pub mod process;
mod procfs;
pub mod provenance;
pub mod pstore;
pub mod symbols;
pub mod trace;
