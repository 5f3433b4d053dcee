//! Finds the complaints of a Linux kernel in its log.
//!
//! A *complaint* is a message about a lockup, a stall, a hung task, a warning, an oops or a panic. The kernel prints it
//! over many lines, repeats it while it lasts, and may mix it with the complaints of other CPUs. This crate puts the
//! lines together again. Each [`Complaint`](complaint::Complaint) has what the log says of it: the CPU, the task, the
//! time, the pc, the call trace and the number of repeats. The module [`attribution`] says what kept the CPU busy, for
//! complaints about KVM's cache maintenance on arm64.
//!
//! A log may come from `dmesg`, `journalctl -k`, a syslog file, a serial console, pstore or `/dev/kmsg`.
//!
//! This crate opens no file and no device, and it knows nothing of test runs. It gets lines and returns complaints, so
//! the same input always gives the same result.
//!
//! # Example
//!
//! This program reads a log from its standard input and prints the complaints in it:
//!
//! ```
//! use faultline_klog::{attribution::attribute, saved};
//!
//! fn main() -> std::io::Result<()> {
//!     for complaint in saved::complaints(std::io::stdin().lock())? {
//!         println!("{} on CPU {:?}, {} times", complaint.kind, complaint.cpu, complaint.repeats);
//!         for place in attribute(&complaint) {
//!             println!("    {} in {}", place.side.name(), place.frame);
//!         }
//!     }
//!     Ok(())
//! }
//! ```

pub mod attribution;
pub mod complaint;
pub mod kmsg;
pub mod line;
pub mod parser;
pub mod quiet;
pub mod routines;
pub mod saved;

/// The examples of README.md, compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
