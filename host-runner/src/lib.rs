//! The `faultline` command as a library.
//!
//! `commands → {plan, lab, report} → {vmm, evidence, verdict, store} → abi`. Only `vmm` sees KVM types, only
//! `evidence` sees tracefs and the kernel log, and everything that reports sees nothing but the stored result.

pub mod affinity;
pub mod coherence;
pub mod commands;
pub mod compare;
pub mod counting;
pub mod doctor;
pub mod evidence;
pub mod guest;
pub mod journal;
pub mod lab;
pub mod litmus;
pub mod plan;
pub mod projection;
pub mod random;
pub mod recover;
pub mod report;
pub mod result;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub mod scenario;
pub mod size;
pub mod stats;
pub mod store;
pub mod suite;
pub mod verdict;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub mod vmm;
