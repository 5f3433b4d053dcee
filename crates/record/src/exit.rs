//! Exit codes of a process. `Status::exit_code` returns those of a verdict.

/// Wrong usage, as in sysexits.h.
pub const USAGE: u8 = 64;
/// The tool or its surroundings failed, as in sysexits.h.
pub const HARNESS: u8 = 70;
/// Interrupted by SIGINT, as in shells.
pub const INTERRUPTED: u8 = 130;
