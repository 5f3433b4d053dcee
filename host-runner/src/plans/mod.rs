//! Files that `faultline run` takes in place of a scenario: plans, and programs.

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub mod here;
pub mod in_lab;
pub mod program_file;
pub mod request;
