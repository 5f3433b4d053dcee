//! Whether code stays coherent: programs of writes, maintenance, host events and fetches, and what may come out.
//!
//! Pure: nothing here touches a machine. [`program`] is what is run and judged; scenarios run it on KVM, tests on a
//! fake CPU whose caches can be stale.
//!
//! `random → program → compile → (a machine) → records → judge`, where the expectations of [`oracle`] come from the
//! program alone.

pub mod compile;
pub mod diagnose;
#[cfg(test)]
mod fake;
pub mod generate;
pub mod judge;
pub mod legal;
pub mod litmus;
pub mod oracle;
pub mod program;
pub mod replay;
pub mod shrink;
pub mod slots;
