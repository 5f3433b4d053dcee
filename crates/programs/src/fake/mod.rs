//! Fake machine for tests. Its caches are as stale as the architecture allows, the guest's own interpreter runs on it,
//! and defects can be planted in it.

mod cpu;
mod defect;
mod host;
mod machine;
mod seen;
#[cfg(test)]
mod tests;

pub use cpu::FakeMachine;
pub use defect::Defect;
pub use machine::{LINE_BYTES, MAX_VCPUS, PAGE_LINES};
pub use seen::Seen;
