//! `faultline show RUN…`: stored results again.

use std::io;
use std::path::Path;

use crate::answer::{Failure, Outcome, emit};
use record::exit::USAGE;
use record::format::Format;
use record::runs;
use record::summary::{SUMMARY, StoredPlan, read};
use report::formats;
use report::subject::Subject;
use report::table;

use crate::suite;

/// Which runs, and how.
#[derive(clap::Args)]
pub struct Args {
    /// Run directories, results, directories of plans or of runs, or patterns in quotes
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// How to print; all but the table take one run or one plan
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
    let format = if args.json { Format::Json } else { args.format };
    let mut out = Vec::new();
    let written = match plan(&args.runs)? {
        Some(plan) => formats::print(&mut out, format, &suite::subject(&plan)),
        None => of_runs(&mut out, &args.runs, format)?,
    };
    written.map_err(|error: io::Error| Failure::harness(error))?;
    emit(&String::from_utf8_lossy(&out))?;
    Ok(0)
}

/// Returns the plan, if that is what is to be printed.
fn plan(names: &[String]) -> Result<Option<StoredPlan>, Failure> {
    let [name] = names else { return Ok(None) };
    let directory = Path::new(name);
    if !directory.join(SUMMARY).is_file() {
        return Ok(None);
    }
    read(directory).map(Some).map_err(|error| Failure::new(USAGE, error))
}

fn of_runs(out: &mut Vec<u8>, names: &[String], format: Format) -> Result<io::Result<()>, Failure> {
    let mut found = Vec::new();
    for name in names {
        found.extend(runs::load(name).map_err(|error| Failure::new(USAGE, error))?);
    }
    let views: Vec<_> = found.iter().map(|stored| scenarios::viewed(&stored.result)).collect();
    match (format, views.as_slice()) {
        (Format::Human, views) => Ok(table::print(out, views)),
        (format, [run]) => Ok(formats::print(out, format, &Subject::from(run.clone()))),
        (_, several) => {
            Err(Failure::new(USAGE, format!("that format takes one run or one plan, these are {}", several.len())))
        }
    }
}
