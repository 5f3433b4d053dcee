//! `faultline project`: the storm on paper.

use serde::Serialize;

use crate::answer::{Outcome, emit, emit_json};
use scenarios::projection::{Headroom, LineCost, lines};
use units::size::Size;
use units::text::{thousands, time};

/// A machine and a storm.
#[derive(clap::Args)]
pub struct Args {
    /// What invalidating one line takes, in ns: an exec fault by line ÷ the lines of its block
    #[arg(long, value_name = "NS", value_parser = positive)]
    ns_per_line: f64,
    /// Smallest I-cache line in bytes
    #[arg(long, default_value = "64", value_name = "SIZE")]
    line: Size,
    /// Block that all race into
    #[arg(long, default_value = "512M", value_name = "SIZE")]
    block: Size,
    /// vCPUs that race
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    racers: u64,
    /// Soft lockup threshold: twice kernel.watchdog_thresh
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=120))]
    threshold: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The answer in JSON.
#[derive(Serialize)]
struct Answer {
    racers: u64,
    lines: u64,
    ns_per_line: f64,
    stall_ns: u64,
    headroom: Headroom,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("a time above 0 is needed".into()) }
}

/// Prints the stall and the headroom.
///
/// # Errors
///
/// If it cannot be printed.
pub fn run(args: &Args) -> Outcome {
    let cost = LineCost { ns_per_line: args.ns_per_line, line_bytes: args.line.0 };
    let stall_ns = cost.stall_ns(args.racers, args.block.0) as u64;
    let headroom = Headroom::new(args.threshold * 1_000_000_000, stall_ns, Some(cost), &[args.block.0]);
    let (racers, lines, ns_per_line) = (args.racers, lines(args.block.0, args.line.0), args.ns_per_line);
    if args.json {
        emit_json(&Answer { racers, lines, ns_per_line, stall_ns, headroom })?;
        return Ok(0);
    }
    let (racers, lines) = (thousands(racers), thousands(lines));
    let sum = format!("{racers} racers × {lines} lines × {ns_per_line} ns = {}", time(stall_ns));
    emit(&format!("{sum}\n{}\n", headroom.text()))?;
    Ok(0)
}
