//! Small things that all crates of faultline need: [`size`]s such as `2M`, numbers and times as [`text`],
//! [distributions of samples](stats), the one seeded generator of [`random`] numbers, and [`note!`] for standard error.
//!
//! This crate depends on no other crate of faultline and knows none of their subjects: no guest, no kernel, no run.
//!
//! # Example
//!
//! ```
//! use faultline_units::{random::Random, size::Size, stats::distribution, text::{thousands, time}};
//!
//! let block: Size = "2M".parse()?;
//! assert_eq!((block.0, block.to_string()), (2 << 20, "2M".to_owned()));
//! assert_eq!((thousands(16_777_216), time(4_310_000_000)), ("16,777,216".to_owned(), "4.31 s".to_owned()));
//! assert_eq!(distribution(vec![3, 1, 2]).map(|d| d.p50), Some(2));
//! assert_eq!(Random::new(7).below(100), Random::new(7).below(100));
//! # Ok::<(), faultline_units::size::NotASize>(())
//! ```

pub mod random;
pub mod size;
pub mod stats;
pub mod text;

/// Prints a line on standard error, as `eprintln!` does. If nobody can read it, for example after a terminal vanished, the
/// program goes on.
#[macro_export]
macro_rules! note {
    ($($argument:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($argument)*)));
    }};
}

/// The examples of README.md, compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
