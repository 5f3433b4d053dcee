//! The `faultline` command as a library: the command line, and everything that needs several crates.
//!
//! These do not belong here:
//!
//! - knowledge of a scenario, of KVM, of this host, of QEMU or of a format: each has its own crate;
//! - anything that another crate needs: no crate depends on this one.
//!
//! | module | contents |
//! |---|---|
//! | [`commands`] | one file for each command |
//! | `invocation`, `program_file`, [`plan`] | the three things that `faultline run` accepts: a scenario, a program, a plan |
//! | `recover` | closes runs that died |
//! | `doctor` | judges what a machine can show |
//! | `lab_runs`, `plugin_counts` | complete the results of runs in the lab |
//! | `patch_verdict` | the verdict of `faultline reproduce-patch` |
//!
//! # Examples
//!
//! Reads a plan file:
//!
//! ```
//! let text = "[[step]]\nrun = \"relax --blocks page,thp\"\n";
//! let plan = host_runner::plan::file::parse("small.toml", text)?;
//! assert_eq!((plan.name.as_str(), plan.steps[0].words[0].as_str()), ("small", "relax"));
//! # Ok::<(), host_runner::plan::file::Error>(())
//! ```

mod build_info;
pub mod commands;
mod doctor;
mod failure;
mod invocation;
mod lab_runs;
mod lab_settings;
mod output;
mod patch_verdict;
pub mod plan;
mod plugin_counts;
mod program_file;
mod recover;
mod reproduction_screen;
mod sanitizer_reports;
