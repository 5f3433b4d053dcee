//! Plans: several runs under one name.

pub mod file;
pub(crate) mod in_lab;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub(crate) mod on_this_machine;
mod regression;
pub(crate) mod request;
mod runner;
pub(crate) mod summary;

#[cfg(test)]
mod tests;
