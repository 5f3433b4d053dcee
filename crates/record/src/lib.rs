//! A stored run.

pub mod barrier;
pub mod case;
pub mod detector;
pub mod exit;
pub mod findings;
pub mod format;
pub mod journal;
pub mod machine;
pub mod maintenance;
pub mod measure;
pub mod memory;
pub mod reproduction;
pub mod result;
pub mod runs;
pub mod status;
pub mod store;
pub mod summary;
pub mod verdict;
pub mod view;
