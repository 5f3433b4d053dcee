//! The runner: runs guests on KVM, collects the evidence around them, and stores the result.

pub(crate) mod cases;
pub(crate) mod ending;
pub mod inspect;
pub(crate) mod observer;
pub(crate) mod program_runner;
pub mod session;
