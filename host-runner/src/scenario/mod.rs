//! Running plans on KVM and collecting the evidence: where `plan`, `vmm`, `evidence`, `verdict` and `store` meet.

pub mod boot;
pub mod chaos;
pub mod inspect;
pub mod outcome;
pub mod relax;
pub mod session;
