//! `faultline project`: computes the stall of a storm without running it.

use scenarios::projection::{Headroom, LineCost, lines};
use serde::Serialize;
use units::size::Size;
use units::text::{thousands, time};

use crate::failure::CommandResult;
use crate::output::{emit, emit_json};
use report::table::paragraphs;

/// Arguments of `faultline project`.
#[derive(clap::Args)]
pub struct Args {
    /// Time to invalidate one line, in ns: that of an exec fault on a kernel that invalidates by line, divided by the number
    /// of lines in the block
    #[arg(long, value_name = "NS", value_parser = positive)]
    ns_per_line: f64,
    /// Size of the smallest I-cache line
    #[arg(long, default_value = "64", value_name = "SIZE")]
    line: Size,
    /// Size of the block for which all vCPUs race
    #[arg(long, default_value = "512M", value_name = "SIZE")]
    block: Size,
    /// Number of racing vCPUs
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    racers: u64,
    /// Soft lockup threshold, which is twice kernel.watchdog_thresh
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=120))]
    threshold: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The output in JSON.
#[derive(Serialize)]
struct Projection {
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
/// If the output cannot be printed.
pub fn run(args: &Args) -> CommandResult {
    let cost = LineCost { ns_per_line: args.ns_per_line, line_bytes: args.line.0 };
    let stall_ns = cost.stall_ns(args.racers, args.block.0) as u64;
    let headroom = Headroom::new(args.threshold * 1_000_000_000, stall_ns, Some(cost), &[args.block.0]);
    let (racers, lines, ns_per_line) = (args.racers, lines(args.block.0, args.line.0), args.ns_per_line);
    if args.json {
        emit_json(&Projection { racers, lines, ns_per_line, stall_ns, headroom })?;
        return Ok(0);
    }
    let (racers, lines) = (thousands(racers), thousands(lines));
    let product = format!("{racers} racers × {lines} lines × {ns_per_line} ns = {}", time(stall_ns));
    emit(&paragraphs([product, headroom.text()]))?;
    Ok(0)
}
