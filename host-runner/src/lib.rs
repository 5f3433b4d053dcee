//! The `faultline` command as a library: the command line, and everything that takes several crates to do.

mod answer;
mod build;
pub mod commands;
mod counting;
mod doctor;
mod invocation;
mod lab_runs;
mod patch;
pub mod plan_file;
mod plans;
mod recover;
mod suite;
