//! Reads the source tree as Rust: the crates of the workspace, their modules, and the paths that each module uses.
//!
//! The checks themselves are the tests of this crate. Nothing here runs or changes the project's code.

pub mod modules;
pub mod public;
pub mod workspace;
