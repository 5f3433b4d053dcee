//! Published litmus tests on instruction fetch: racy programs that carry their published verdicts.
//!
//! A test is data. This module compiles it to machine code, places it in memory, and reads its outcomes. The guest runs
//! the code as [`abi::OpCode::Race`] and does not know the tests.

mod a64;
mod compile;
mod esop2020;
pub mod event;
mod herdtools7;
mod layout;
pub mod races;
pub mod test;

pub use test::Test;

/// Returns all tests.
pub fn tests() -> impl Iterator<Item = &'static Test> {
    use herdtools7::{COHERENCE, MESSAGE_PASSING, MORE_THREADS, SELF_MODIFYING, THROUGH_CODE};
    let catalogue = [&SELF_MODIFYING[..], &COHERENCE, &MESSAGE_PASSING, &THROUGH_CODE, &MORE_THREADS];
    esop2020::TESTS.iter().chain(catalogue.into_iter().flatten())
}

#[cfg(test)]
mod tests;
