//! The stored runs of faultline: the data of `result.json` and of the files beside it, the code that writes them so
//! that they survive a crash of the machine, and the verdicts that follow from them.
//!
//! A *run* is one execution of one scenario. Its directory has a [`journal`], which grows while the run lasts, and a
//! [`result`], which is written last. The result has the verdict, the [`machine`] and the [`case`]s. A case is one part
//! of the run with a [verdict](status) of its own. A *plan* is a list of runs with a [`summary`].
//!
//! This crate knows no scenario: the own data of a scenario are [`findings`], which only the scenario can read. It
//! prints nothing and lays out no report. It does not read the state of the host; it only has the types that describe
//! it.
//!
//! # Example
//!
//! Reads the result of a run and prints the verdict of each case:
//!
//! ```
//! use faultline_record::{status::Status, store, verdict};
//!
//! let run = store::read("tests/runs/debian-6.1".as_ref())?;
//! for case in &run.cases {
//!     println!("{}: {}: {}", case.name, case.verdict.status.name(), case.verdict.reason);
//! }
//! assert_eq!(run.verdict.status, Status::Fail);
//! assert!(run.cases.iter().any(|case| verdict::relax_lockup(case).is_some()));
//! # Ok::<(), store::Error>(())
//! ```

pub mod answer;
pub mod barrier;
pub mod budget;
pub mod case;
pub mod detector;
pub mod exit;
pub mod findings;
pub mod format;
pub mod journal;
pub mod machine;
pub mod maintenance;
pub mod measure;
pub mod memory;
pub mod provenance;
pub mod reproduction;
pub mod result;
pub mod runs;
pub mod sanitizer;
pub mod status;
pub mod store;
pub mod summary;
pub mod verdict;
pub mod view;

/// The examples of README.md, compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
