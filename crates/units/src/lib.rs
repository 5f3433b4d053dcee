//! Sizes, times and numbers as people read and write them, statistics, and the one seeded generator.

pub mod random;
pub mod size;
pub mod stats;
pub mod text;
