//! `faultline show RUN…`: prints stored results again.

use std::io;

use record::format::Format;
use record::runs;
use record::summary::{SUMMARY, StoredPlan, read};
use report::subject::Subject;
use report::{formats, table};

use crate::failure::{CommandResult, Failure};
use crate::output::emit;
use crate::plan::summary;

/// Arguments of `faultline show`.
#[derive(clap::Args)]
pub struct Args {
    /// Ids of runs, or their ends, run directories, results, directories of plans or of runs, or patterns in quotes
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// Output format; all formats but the table take one run or one plan
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Print the stored result.json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// Prints the runs. The exit code is 0, whatever their verdicts are.
///
/// # Errors
///
/// If a run cannot be read, or if there are several runs for a format that takes one.
pub fn run(args: &Args) -> CommandResult {
    let format = if args.json { Format::Json } else { args.format };
    let mut out = Vec::new();
    let written = match load_plan(&args.runs)? {
        Some(plan) => formats::print(&mut out, format, &summary::subject(&plan)),
        None => print_runs(&mut out, &args.runs, format)?,
    };
    written.map_err(|error: io::Error| Failure::harness(error))?;
    emit(&String::from_utf8_lossy(&out))?;
    Ok(0)
}

/// Returns the plan, if the names are that of one plan.
fn load_plan(names: &[String]) -> Result<Option<StoredPlan>, Failure> {
    let [name] = names else { return Ok(None) };
    let directory = runs::locate(name);
    if !directory.join(SUMMARY).is_file() {
        return Ok(None);
    }
    read(&directory).map(Some).map_err(Failure::usage)
}

fn print_runs(out: &mut Vec<u8>, names: &[String], format: Format) -> Result<io::Result<()>, Failure> {
    let mut found = Vec::new();
    for name in names {
        found.extend(runs::load(name).map_err(Failure::usage)?);
    }
    let views: Vec<_> = found.iter().map(|stored| scenarios::viewed(&stored.result)).collect();
    match (format, views.as_slice()) {
        (Format::Human, views) => Ok(table::print(out, views)),
        (format, [run]) => Ok(formats::print(out, format, &Subject::from(run.clone()))),
        (_, several) => {
            Err(Failure::usage(format!("that format takes one run or one plan, these are {}", several.len())))
        }
    }
}
