//! Programs for the faultline guest, and the oracle that judges them.
//!
//! A program is a list of ops for one or more vCPUs: writes of code, cache maintenance, barriers, host events, fetches
//! and loads. It tests whether a guest sees current code after the host has changed its memory. The oracle computes
//! from the program alone which generations of code each fetch and each load may return. No test needs expectations
//! written by hand.
//!
//! - [`program`] and [`slots`]: a program, and the code slots that it uses.
//! - [`legal`]: the check that a program can be judged.
//! - [`oracle`]: the generations that each look may return.
//! - [`compile`]: the guest's ops for a program.
//! - [`judge`], [`outcomes`] and [`diagnose`]: judgement of a guest's records, and the rule behind a failure.
//! - [`generate`], [`shrink`] and [`file`](mod@file): random programs, smaller programs, and programs as TOML.
//! - [`litmus`]: the published litmus tests on instruction fetch. They do not use the oracle.
//!
//! This crate is pure. I/O, clocks, unsafe code and KVM's types may not be added. The scenarios run the programs on KVM,
//! and the tests run them on a simulated machine with stale caches, `fake`.
//!
//! # Example
//!
//! vCPU 0 writes generation 1 of a slot and cleans it, but does not invalidate the I-cache. On a machine without DIC,
//! vCPU 1 may still execute generation 0.
//!
//! ```
//! use abi::op::Barrier;
//! use faultline_programs::legal::{self, Limits};
//! use faultline_programs::oracle::{CacheFeatures, Expected, expect};
//! use faultline_programs::program::{Action, Clean, Program, ProgramOp, Span};
//!
//! let span = Span { start: 0, stride: 64, count: 1 };
//! let ops = vec![
//!     ProgramOp::new(0, Action::Write { span, generation: 1 }),
//!     ProgramOp::new(0, Action::CleanD { span, to: Clean::Pou }),
//!     ProgramOp::new(0, Action::Barrier { barrier: Barrier::DsbIsh }),
//!     ProgramOp::MEET,
//!     ProgramOp::new(1, Action::Fetch { span }),
//! ];
//! let program = Program { vcpus: 2, ops };
//! legal::check(&program, Limits { region_bytes: 4096, line_bytes: 64 })?;
//!
//! let without_dic = CacheFeatures { idc: true, dic: false, fwb: false };
//! for (op, slots, expected) in expect(&program, &without_dic).looks() {
//!     println!("op {op} looks at {slots} slot(s): {expected:?}");
//!     assert_eq!(*expected, Expected::Allowed { newest: 1, older: vec![0] });
//! }
//!
//! let with_dic = CacheFeatures { dic: true, ..without_dic };
//! assert_eq!(expect(&program, &with_dic).at(4, 0), Some(&Expected::Required(1)));
//! # Ok::<(), legal::Illegal>(())
//! ```

#![forbid(unsafe_code)]

pub mod compile;
pub mod diagnose;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod file;
pub mod generate;
pub mod judge;
pub mod legal;
pub mod litmus;
pub mod oracle;
pub mod outcomes;
pub mod program;
pub mod shrink;
pub mod slots;

/// Runs the example of the README as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
