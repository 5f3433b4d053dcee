//! Reports of stored runs: tables for the terminal, the formats that test labs read, HTML pages, and comparisons.
//!
//! A report is made from the stored run alone: its [`RunResult`](record::result::RunResult) with the view that the
//! scenario adds, and, for a page, the text of `samples.csv` and `kmsg.raw`. The same run always gives the same bytes.
//!
//! These do not belong here:
//!
//! - knowledge of a scenario: its own tables and findings arrive as words, in a [`View`](record::view::View);
//! - anything that asks this machine, KVM or the lab;
//! - a verdict on a run. A comparison says if times or verdicts changed, and never changes the verdict itself.
//!
//! | module | contents |
//! |---|---|
//! | [`subject`] | the input of every format: one run, or the runs of a plan |
//! | [`table`] | tables for the terminal |
//! | [`formats`] | KTAP, JUnit, KCIDB, LAVA, Linaro, Prometheus, and their files in a run directory |
//! | [`html`] | pages and pictures |
//! | [`compare`] | comparison of two sets of runs, and the baseline |
//! | [`samples`] | reader of `samples.csv` |
//!
//! # Examples
//!
//! Prints a stored run in a format that test labs read:
//!
//! ```
//! use faultline_report::{formats, subject::Subject};
//! use record::format::Format;
//! use record::view::Viewed;
//!
//! let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../record/tests/runs/debian-6.1");
//! let run = record::store::read(directory.as_ref())?;
//! let mut text = Vec::new();
//! formats::print(&mut text, Format::Linaro, &Subject::from(Viewed::from(&run)))?;
//! assert!(String::from_utf8(text)?.contains("relax.1G fail\n"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod compare;
pub mod formats;
pub mod html;
pub mod samples;
pub mod subject;
pub mod sweep;
pub mod table;
