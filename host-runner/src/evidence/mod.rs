//! Everything the runner learns from the host kernel: its messages, its detectors, its tracepoints, its settings.
//!
//! Only this module reads the kernel log, tracefs and the settings below `/proc/sys` and `/sys`. The parsers
//! ([`message`], [`attribution`], [`text`], [`trace::parse`]) know no files and are tested on any host.

pub mod attribution;
#[cfg(test)]
mod corpus;
pub mod detector;
pub mod guard;
pub mod kmsg;
pub mod machine;
pub mod message;
pub mod procfs;
pub mod record;
pub mod text;
pub mod trace;
