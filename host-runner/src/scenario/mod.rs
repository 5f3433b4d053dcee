//! Running plans on KVM and collecting the evidence: where `plan`, `vmm`, `evidence`, `verdict` and `store` meet.

pub mod relax;
pub mod session;
