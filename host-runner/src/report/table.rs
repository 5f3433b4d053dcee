//! The table on the terminal.

use std::io::{self, Write};

use super::coherence;
use super::words::quiet;
use crate::evidence::machine::Platform;
use crate::result::{CaseResult, RunResult, Status, Timing};
use crate::verdict::{describe, relax_faults};

const HEAD: [&str; 7] =
    ["kernel", "block", "first touch", "exec fault", "inval. in host", "IC IVAU by line", "permission faults"];

/// Prints the runs as one table, a line per case, with what the numbers rest on.
///
/// # Errors
///
/// Of the writer.
pub fn print(out: &mut impl Write, runs: &[&RunResult]) -> io::Result<()> {
    for run in runs {
        writeln!(out, "{}", quiet(&headline(run)))?;
    }
    writeln!(out)?;
    super::litmus::table(out, runs)?;
    let (grids, tables): (Vec<&RunResult>, Vec<_>) = runs.iter().partition(|run| coherence::is_grid(run));
    let mut rows = vec![HEAD.map(str::to_owned)];
    for run in &tables {
        rows.extend(run.cases.iter().filter(|case| case.litmus.is_none()).map(|case| row(run, case)));
    }
    if rows.len() > 1 {
        columns(out, &rows)?;
        writeln!(out)?;
    }
    for run in tables {
        details(out, run)?;
    }
    for run in grids {
        coherence::grid(out, run)?;
        absent(out, run)?;
    }
    Ok(())
}

/// Prints rows of cells: the first two columns to the left, numbers to the right.
///
/// # Errors
///
/// Of the writer.
pub fn columns<const N: usize>(out: &mut impl Write, rows: &[[String; N]]) -> io::Result<()> {
    aligned(out, rows, 2)
}

/// Prints rows of any number of words, all to the left.
///
/// # Errors
///
/// Of the writer.
pub fn columns_left_of(out: &mut impl Write, rows: &[Vec<String>]) -> io::Result<()> {
    aligned(out, rows, usize::MAX)
}

/// Prints rows of words, all to the left.
///
/// # Errors
///
/// Of the writer.
pub fn columns_left<const N: usize>(out: &mut impl Write, rows: &[[String; N]]) -> io::Result<()> {
    aligned(out, rows, N)
}

fn aligned<R: AsRef<[String]>>(out: &mut impl Write, rows: &[R], left: usize) -> io::Result<()> {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.as_ref().get(column)?.chars().count())).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.as_ref().iter().zip(&widths).enumerate();
        let line: Vec<_> = cells
            .map(|(n, (cell, width))| if n < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
            .collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

/// Says what the run is about in one line.
pub fn headline(run: &RunResult) -> String {
    let mut parts = vec![run.machine.kernel_release.clone()];
    parts.extend(platform(run));
    if let Some(vcpu) = run.vcpus.first() {
        parts.push(format!(
            "I line {} B {}, IDC {}, DIC {}",
            vcpu.imin_line_bytes,
            vcpu.l1ip,
            u8::from(vcpu.idc),
            u8::from(vcpu.dic)
        ));
    }
    if let Some(shown) = run.vcpus.first().and_then(|vcpu| vcpu.shown.as_ref()) {
        parts.push(format!(
            "guests read CTR_EL0 {}: I line {} B, D line {} B, IDC {}, DIC {}",
            shown.ctr_el0,
            shown.imin_line_bytes,
            shown.dmin_line_bytes,
            u8::from(shown.idc),
            u8::from(shown.dic)
        ));
    }
    if let Some(seconds) = run.detector.soft_threshold_s() {
        parts.push(format!("soft lockup after {seconds} s"));
    }
    parts.join("; ")
}

/// Says what the numbers are worth, where the machine is not a real one.
fn platform(run: &RunResult) -> Option<String> {
    match run.machine.platform {
        Platform::Hardware => None,
        Platform::VirtualMachine => Some("virtual machine".into()),
        Platform::Unknown => Some("machine not known".into()),
        Platform::Emulated => {
            let lab = run.machine.lab.as_ref();
            let text = |key: &str| lab.and_then(|lab| lab[key].as_str()).unwrap_or("unknown").to_owned();
            let scale = lab.and_then(|lab| lab["time_scale"].as_u64());
            let time = scale.map_or_else(|| "host time".into(), |n| format!("{} ns an instruction", 1u64 << n));
            Some(format!("EMULATED ({}, {}, {time})", text("emulator"), text("cpu")))
        }
    }
}

fn row(run: &RunResult, case: &CaseResult) -> [String; 7] {
    let host = case.host.as_ref().and_then(|host| host.icache);
    let faults = relax_faults(case, run.machine.page_bytes);
    [
        run.machine.kernel_release.clone(),
        case.block.to_string(),
        worst(case.touch.as_ref()),
        worst(case.exec.as_ref()),
        host.map_or_else(|| "-".into(), |m| time(m.max_ns)),
        if case.was_tried() { thousands(case.predicted.by_line) } else { "-".into() },
        if case.was_tried() {
            format!("{faults} at level {}", crate::plan::blocks::stage2_level(case.block_bytes, run.machine.page_bytes))
        } else {
            "-".into()
        },
    ]
}

fn details(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    // What the table of litmus tests has no room for.
    let told = |case: &&CaseResult| case.litmus.is_none() || case.verdict.status != Status::Pass;
    for case in run.cases.iter().filter(told) {
        let (status, reason) = (case.verdict.status.name(), quiet(&case.verdict.reason));
        writeln!(out, "{} {}: {status}: {reason}", run.machine.kernel_release, case.name())?;
        if let Some(cost) = &case.tracing_cost {
            let (percent, without, with) = (cost.percent(), time(cost.untraced_ns), time(cost.traced_ns));
            writeln!(out, "    tracing cost: {percent:+.1} % of the median exec fault ({without} to {with})")?;
        } else if run.scenario == "relax" && case.host.is_some() && !case.complaints.is_empty() {
            writeln!(out, "    tracing cost: not known, as printing the kernel's complaints took time, too")?;
        }
        if let Some(line) = counted(case) {
            writeln!(out, "    {line}")?;
        }
        for complaint in &case.complaints {
            let line = describe(complaint);
            if !reason.contains(&line) {
                writeln!(out, "    {}", quiet(&line))?;
            }
        }
        if let Some(random) = &case.random {
            coherence::random(out, random)?;
        }
        for line in &case.autopsy {
            writeln!(out, "    {}", quiet(line))?;
        }
    }
    super::storm::findings(out, run)?;
    absent(out, run)
}

/// Says which evidence was missing.
fn absent(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    for absent in &run.evidence.absent {
        writeln!(out, "{}: without {}", run.machine.kernel_release, quiet(absent))?;
    }
    Ok(())
}

/// Puts what was counted beside what was predicted.
fn counted(case: &CaseResult) -> Option<String> {
    let counted = case.counted.as_ref()?;
    let operations = |per_fault: u64| match per_fault {
        1 => format!("{} IC IALLUIS", thousands(counted.faults)),
        lines => format!("{} IC IVAU", thousands(counted.faults * lines)),
    };
    let agrees = if counted.agrees_with.is_empty() {
        "no policy's prediction".to_owned()
    } else {
        format!("the prediction for {}", counted.agrees_with.join(", "))
    };
    Some(format!(
        "counted for {} fetch faults: {} IC IVAU, {} IC IALLUIS, {} DC CIVAC: {agrees} (by line {}, capped {})",
        thousands(counted.faults),
        thousands(counted.ic_ivau),
        thousands(counted.ic_ialluis),
        thousands(counted.dc_civac),
        operations(case.predicted.by_line),
        operations(case.predicted.capped)
    ))
}

/// Prints what was counted in each case, where anything was.
///
/// # Errors
///
/// Of the writer.
pub fn print_counts(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    for (case, line) in run.cases.iter().filter_map(|case| Some((case, counted(case)?))) {
        writeln!(out, "{} {}: {line}", run.machine.kernel_release, case.block)?;
    }
    match &run.policy {
        Some(policy) if run.cases.iter().any(|case| case.counted.is_some()) => {
            writeln!(out, "{}: {}: {}", run.machine.kernel_release, run.verdict.status.name(), policy.class.name())
        }
        _ => Ok(()),
    }
}

fn worst(timing: Option<&Timing>) -> String {
    timing.map_or_else(|| "-".into(), |timing| time(timing.ns.max))
}

/// Returns a time with three digits in its natural unit.
pub fn time(ns: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns")];
    let (scale, unit) = UNITS.into_iter().find(|(scale, _)| ns >= *scale).unwrap_or((1, "ns"));
    let value = ns as f64 / scale as f64;
    let digits = if scale == 1 || value >= 100.0 { 0 } else { 2 - usize::from(value >= 10.0) };
    format!("{value:.digits$} {unit}")
}

/// Returns a number with a comma before every third digit.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 16_777_216].map(thousands), ["0", "999", "1,000", "16,777,216"]);
        let times = [0, 999, 1_500, 12_345, 4_310_000_000, 123_456_789].map(time);
        assert_eq!(times, ["0 ns", "999 ns", "1.50 µs", "12.3 µs", "4.31 s", "123 ms"]);
    }
}
