//! What this host is and is set to.

pub mod affinity;
pub mod detector;
pub mod guard;
pub mod interrupt;
pub mod kmsg;
pub mod machine;
pub mod memory;
pub mod phase;
pub mod procfs;
pub mod symbols;
pub mod trace;
