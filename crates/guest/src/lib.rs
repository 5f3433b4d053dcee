//! The guest as plain data: its memory and programs, the host events that it can ask for, and its report after a run.
//!
//! The VMM turns a [`spec::GuestSpec`] into a running guest and returns a [`report::GuestRun`]. Scenarios build the
//! first and judge the second, and the oracle predicts one from the other. This crate lets all of them build and be
//! tested on any machine.
//!
//! The crate holds types and their arithmetic only. It does no I/O and has no KVM types: the system calls that run a
//! guest belong to `vmm`. The formats on which guest and host agree belong to `abi`.
//!
//! # Example
//!
//! A program that loads from 2 MiB of memory in three rounds, and the verdict on a run that was too slow:
//!
//! ```
//! use abi::{Op, OpCode};
//! use faultline_guest::event::RoundEvent;
//! use faultline_guest::region::{REGION_IPA, region};
//! use faultline_guest::report::{Boot, End, GuestRun, VcpuReport, trouble};
//! use faultline_guest::spec::{Backing, GuestSpec};
//!
//! let program = vec![
//!     RoundEvent::Begin.op(),
//!     Op::range(OpCode::Load, REGION_IPA, 2 << 20, 64, 0),
//!     Op::plain(OpCode::Repeat, [0, 3, 0, 0]),
//!     Op::end(),
//! ];
//! let memory = region(2 << 20, Backing::Thp(2 << 20));
//! let spec = GuestSpec { regions: vec![memory], programs: vec![program], records: 16, ..GuestSpec::default() };
//! assert_eq!(spec.regions[0].ipa, REGION_IPA);
//!
//! let run = GuestRun {
//!     end: End::PoweredOff,
//!     vcpus: vec![VcpuReport { state: Some(abi::channel::State::Ended), dropped: 3, ..VcpuReport::default() }],
//!     cpus: vec![0],
//!     console: String::new(),
//!     boot: Boot::default(),
//!     notes: Vec::new(),
//! };
//! assert_eq!(trouble(&run).as_deref(), Some("vcpu-0 had no room for 3 records"));
//! ```

pub mod ctr;
pub mod event;
pub mod limits;
pub mod region;
pub mod report;
pub mod spec;
