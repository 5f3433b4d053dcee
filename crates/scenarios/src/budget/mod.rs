//! Budgets: which faults and which maintenance a correct KVM may need, from the contents of stage 2 before each of them.
//!
//! The [`monitor`] reads a trace step by step. It keeps the rights that the faults of each vCPU have provably obtained,
//! and takes them away where a correct KVM may: at MMU notifiers, host events, splits and collapses. A fault for a right
//! that its vCPU has is beyond the budget, and so is maintenance that no fault needs. The rules are in [`rules`], and
//! `docs/budgets.md` explains them.
//!
//! The monitor never guesses what KVM mapped: only a fault proves a mapping. It therefore misses some surplus. The
//! [`marks`] are texts that the runner writes into the trace. This module does no I/O.

mod grants;
pub mod marks;
pub mod monitor;
pub mod rules;
#[cfg(test)]
mod tests;
