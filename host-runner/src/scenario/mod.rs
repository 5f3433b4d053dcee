//! Running plans on KVM and collecting the evidence: where `plan`, `vmm`, `evidence`, `verdict` and `store` meet.

pub mod bench;
pub mod boot;
pub mod chaos;
pub mod coherence;
pub mod dside;
pub mod inspect;
pub mod litmus;
pub mod observer;
pub mod outcome;
pub mod policy;
pub mod random;
pub mod relax;
pub mod session;
pub mod stage;
pub mod storm;
