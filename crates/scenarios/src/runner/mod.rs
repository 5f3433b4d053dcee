//! Runs guests on KVM and collects the evidence around them.

pub mod cases;
pub mod ending;
pub mod inspect;
pub mod observer;
pub mod program_runner;
pub mod session;
