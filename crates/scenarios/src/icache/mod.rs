//! The measurement of a kernel's I-cache maintenance at stage 2: the program, the measured case, and the class.

pub mod classify;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub mod measure;
pub mod measurement;
pub mod program;
