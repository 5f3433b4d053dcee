//! `faultline compare BEFORE AFTER`: compares two sets of runs.

use std::path::PathBuf;

use record::result::RunResult;
use record::runs;
use report::compare::baseline::Baseline;
use report::compare::{Options, Platforms, compare, print};

use crate::failure::{CommandResult, Failure};
use crate::output::{emit, emit_json};

/// Arguments of `faultline compare`.
#[derive(clap::Args)]
#[command(
    override_usage = "faultline compare [OPTIONS] BEFORE AFTER\n       faultline compare [OPTIONS] --baseline FILE AFTER"
)]
pub struct Args {
    /// Runs before, then runs after: each a run directory, its result.json, a directory of runs, or a pattern in quotes
    #[arg(required = true, num_args = 1..=2, value_name = "RUNS")]
    runs: Vec<String>,
    /// Compare with what `faultline baseline set` stored in this file
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Largest change that counts as none, in percent
    #[arg(long, default_value_t = 20.0, value_name = "PERCENT", value_parser = percent)]
    threshold: f64,
    /// Largest difference of times that counts as none, in milliseconds
    #[arg(long, default_value_t = 1.0, value_name = "MS", value_parser = milliseconds)]
    min_difference: f64,
    /// Compare even if only one side is emulated
    #[arg(long)]
    force: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Print JSON
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// Output format of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Text for the terminal.
    #[default]
    Text,
    /// Markdown with 72 columns, for a mail.
    Markdown,
    /// JSON, for programs.
    Json,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(value) if (0.0..=1000.0).contains(&value) => Ok(value),
        _ => Err("give a percentage between 0 and 1000".into()),
    }
}

fn milliseconds(text: &str) -> Result<f64, String> {
    match text.trim_end_matches("ms").parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err("give a time in milliseconds, such as 1 or 0.5".into()),
    }
}

/// Runs the command. The exit code is 1 after REGRESSED and WORSE, and 4 after INCONCLUSIVE.
///
/// # Errors
///
/// If the runs cannot be read or compared.
pub fn run(args: &Args) -> CommandResult {
    let load = |name: &str| -> Result<Vec<RunResult>, Failure> {
        Ok(runs::load(name).map_err(Failure::usage)?.into_iter().map(|stored| stored.result).collect())
    };
    let (before, after) = match (args.runs.as_slice(), &args.baseline) {
        ([before, after], None) => (load(before)?, load(after)?),
        ([after], Some(file)) => {
            let after = load(after)?;
            let baseline = Baseline::read(file).map_err(Failure::usage)?;
            (baseline.matching(&after).map_err(Failure::usage)?, after)
        }
        ([_], None) => {
            return Err(Failure::usage("compare what with what? name the runs before and after, or --baseline FILE"));
        }
        _ => return Err(Failure::usage("with --baseline name only the runs after")),
    };
    let options = Options {
        threshold: args.threshold / 100.0,
        min_difference_ns: args.min_difference * 1e6,
        platforms: if args.force { Platforms::Any } else { Platforms::Same },
        ..Options::default()
    };
    let comparison = compare(&before, &after, options).map_err(Failure::usage)?;
    let format = if args.json { Format::Json } else { args.format };
    match format {
        Format::Text => emit(&print::text(&comparison))?,
        Format::Markdown => emit(&print::markdown(&comparison))?,
        Format::Json => emit_json(&comparison)?,
    }
    Ok(comparison.headline.status().exit_code())
}
