//! Whether code stays coherent: programs of writes, maintenance, host events and fetches, and what may come out.
//!
//! Pure: nothing here touches a machine. [`program`] is what is run and judged; scenarios run it on KVM, tests on a
//! fake CPU whose caches can be stale.

pub mod event;
pub mod program;
