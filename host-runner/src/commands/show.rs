//! `faultline show RUN…`: stored results again.

use std::io;

use super::{Failure, Outcome, USAGE, emit};
use crate::report::formats::{self, Format};
use crate::report::{runs, table};

/// Which runs, and how.
#[derive(clap::Args)]
pub struct Args {
    /// Run directories, results, directories of runs, or patterns in quotes
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// How to print; all but the table take one run
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Print the stored result.json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// Prints; the exit code is 0 whatever the runs found.
///
/// # Errors
///
/// If a run cannot be read, or several are to be printed in a format for one.
pub fn run(args: &Args) -> Outcome {
    let mut found = Vec::new();
    for name in &args.runs {
        found.extend(runs::load(name).map_err(|error| Failure::new(USAGE, error))?);
    }
    let results: Vec<_> = found.iter().map(|stored| &stored.result).collect();
    let format = if args.json { Format::Json } else { args.format };
    let mut out = Vec::new();
    let written = match (format, results.as_slice()) {
        (Format::Human, results) => table::print(&mut out, results),
        (format, [run]) => formats::print(&mut out, format, run),
        (_, several) => {
            return Err(Failure::new(USAGE, format!("that format takes one run, these are {}", several.len())));
        }
    };
    written.map_err(|error: io::Error| Failure::harness(error))?;
    emit(&String::from_utf8_lossy(&out))?;
    Ok(0)
}
