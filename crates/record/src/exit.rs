//! Exit codes besides those of a verdict ([`Status::exit_code`](crate::status::Status::exit_code)).

/// Wrong usage, as in sysexits.h.
pub const USAGE: u8 = 64;
/// The tool or its surroundings failed, as in sysexits.h.
pub const HARNESS: u8 = 70;
/// SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;
