//! The published instruction-fetch litmus tests: racy programs that carry their published verdict.
//!
//! Pure: tests as data, their machine code, their place in memory, and what an outcome means. The guest runs them as
//! [`abi::OpCode::Race`] and knows none of them.

pub mod a64;
mod compile;
mod esop;
pub mod event;
mod herd;
pub mod layout;
pub mod races;
pub mod test;

pub use test::Test;

/// Returns every test.
pub fn tests() -> impl Iterator<Item = &'static Test> {
    let herd =
        [&herd::SELF_MODIFYING[..], &herd::COHERENCE, &herd::MESSAGE_PASSING, &herd::THROUGH_CODE, &herd::MORE_THREADS];
    esop::TESTS.iter().chain(herd.into_iter().flatten())
}

#[cfg(test)]
mod tests;
