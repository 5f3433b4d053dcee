//! Runs guests on KVM and collects the evidence around them.

pub(crate) mod cases;
pub(crate) mod ending;
pub mod inspect;
pub(crate) mod observer;
pub(crate) mod program_runner;
pub mod session;
