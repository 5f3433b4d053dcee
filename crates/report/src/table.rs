//! Tables for the terminal.

use std::io::{self, Write};

use klog::quiet::{quiet, quiet_lines};
use record::case::CaseResult;
use record::machine::Platform;
use record::result::RunResult;
use record::status::Status;
use record::verdict::describe;
use record::view::{Table, Viewed};
use units::text::thousands;

/// Prints the runs: a headline for each, then their tables, then each case with its evidence.
///
/// # Errors
///
/// If the writer fails.
pub fn print(out: &mut impl Write, runs: &[Viewed<'_>]) -> io::Result<()> {
    for viewed in runs {
        writeln!(out, "{}", quiet(&headline(viewed.run)))?;
    }
    writeln!(out)?;
    for table in runs.iter().flat_map(|viewed| &viewed.view.tables).filter(|table| !table.shared) {
        print_table(out, table)?;
    }
    for table in shared_tables(runs) {
        print_table(out, &table)?;
    }
    for viewed in runs {
        print_details(out, viewed)?;
    }
    Ok(())
}

fn print_table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    let rows: Vec<_> = std::iter::once(&table.head).chain(&table.rows).cloned().collect();
    columns(out, &rows, Align::RightAfter(table.left))?;
    for note in &table.notes {
        writeln!(out, "{}", quiet(note))?;
    }
    writeln!(out)
}

/// Joins the tables of several runs that have the same head. The joined table begins with a column for the kernel.
fn shared_tables(runs: &[Viewed<'_>]) -> Vec<Table> {
    let mut joined: Vec<Table> = Vec::new();
    for viewed in runs {
        for table in viewed.view.tables.iter().filter(|table| table.shared) {
            let with = |first: &str, row: &Vec<String>| std::iter::once(first.to_owned()).chain(row.clone()).collect();
            let head: Vec<String> = with("kernel", &table.head);
            let rows = table.rows.iter().map(|row| with(&viewed.run.machine.kernel_release, row));
            match joined.iter_mut().find(|known| known.head == head) {
                Some(known) => known.rows.extend(rows),
                None => joined.push(Table { head, rows: rows.collect(), left: table.left + 1, ..table.clone() }),
            }
        }
    }
    joined
}

/// Alignment of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// All columns to the left.
    Left,
    /// This number of columns to the left, and the others, which hold numbers, to the right.
    RightAfter(usize),
}

/// Prints rows of cells in aligned columns.
///
/// # Errors
///
/// If the writer fails.
pub fn columns<R: AsRef<[String]>>(out: &mut impl Write, rows: &[R], align: Align) -> io::Result<()> {
    aligned(rows, align).iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Returns a line for each row, with aligned columns.
///
/// # Examples
///
/// ```
/// use faultline_report::table::{Align, aligned};
///
/// let rows = [["kernel", "faults"], ["6.1", "16"]].map(|row| row.map(String::from));
/// assert_eq!(aligned(&rows, Align::RightAfter(1)), ["kernel  faults", "6.1         16"]);
/// ```
pub fn aligned<R: AsRef<[String]>>(rows: &[R], align: Align) -> Vec<String> {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.as_ref().get(column)?.chars().count())).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &R| {
        let cells = row.as_ref().iter().zip(&widths).enumerate().map(|(n, (cell, width))| match align {
            Align::RightAfter(left) if n >= left => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Returns the headline of a run: kernel, platform, caches of its CPUs and lockup threshold.
pub fn headline(run: &RunResult) -> String {
    let mut parts = vec![run.machine.kernel_release.clone()];
    parts.extend(platform(run));
    if let Some(vcpu) = run.vcpus.first() {
        parts.push(format!(
            "I line {} B {}, IDC {}, DIC {}",
            vcpu.imin_line_bytes,
            vcpu.l1ip.name(),
            u8::from(vcpu.idc),
            u8::from(vcpu.dic)
        ));
    }
    if let Some(shown) = run.vcpus.first().and_then(|vcpu| vcpu.shown.as_ref()) {
        parts.push(format!(
            "guests read CTR_EL0 {:#x}: I line {} B, D line {} B, IDC {}, DIC {}",
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

/// Returns the kind of machine, unless it is real hardware. The numbers of other machines mean less.
fn platform(run: &RunResult) -> Option<String> {
    match run.machine.platform {
        Platform::Hardware => None,
        Platform::VirtualMachine => Some("virtual machine".into()),
        Platform::Unknown => Some("machine not known".into()),
        Platform::Emulated => {
            let lab = run.machine.lab.as_ref();
            let (emulator, cpu) = lab.map_or(("unknown", "unknown"), |lab| (&*lab.emulator, &*lab.cpu));
            let scale = lab.and_then(|lab| lab.time_scale);
            let time = scale.map_or_else(|| "host time".into(), |n| format!("{} ns an instruction", 1u64 << n));
            Some(format!("EMULATED ({emulator}, {cpu}, {time})"))
        }
    }
}

fn print_details(out: &mut impl Write, viewed: &Viewed<'_>) -> io::Result<()> {
    let (run, view) = (viewed.run, &viewed.view);
    for (n, case) in run.cases.iter().enumerate() {
        if view.passes_in_table && case.verdict.status == Status::Pass && case.complaints.is_empty() {
            continue;
        }
        let (status, reason) = (case.verdict.status.name(), quiet(&case.verdict.reason));
        writeln!(out, "{} {}: {status}: {reason}", run.machine.kernel_release, case.name)?;
        for line in view.details.get(n).into_iter().flatten() {
            writeln!(out, "    {}", quiet_lines(line))?;
        }
        if let Some(line) = describe_counts(case) {
            writeln!(out, "    {line}")?;
        }
        for complaint in &case.complaints {
            let line = describe(complaint);
            if !reason.contains(&line) {
                writeln!(out, "    {}", quiet(&line))?;
            }
        }
        for line in &case.autopsy {
            writeln!(out, "    {}", quiet(line))?;
        }
    }
    for line in &view.findings {
        writeln!(out, "{}", quiet(line))?;
    }
    print_absent(out, run)
}

/// Prints the evidence that is missing.
fn print_absent(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    for absent in &run.evidence.absent {
        writeln!(out, "{}: without {}", run.machine.kernel_release, quiet(absent))?;
    }
    Ok(())
}

/// Returns the operations that were counted in a case, beside those that were predicted.
fn describe_counts(case: &CaseResult) -> Option<String> {
    let (counted, predicted) = (case.counted.as_ref()?, case.predicted?);
    let operations = |per_fault: u64| match per_fault {
        1 => format!("{} IC IALLUIS", thousands(counted.faults)),
        lines => format!("{} IC IVAU", thousands(counted.faults * lines)),
    };
    let agrees = if counted.agrees_with.is_empty() {
        "no policy's prediction".to_owned()
    } else {
        format!(
            "the prediction for {}",
            counted.agrees_with.iter().map(|policy| policy.name()).collect::<Vec<_>>().join(", ")
        )
    };
    Some(format!(
        "counted for {} fetch faults: {} IC IVAU, {} IC IALLUIS, {} DC CIVAC: {agrees} (by line {}, capped {})",
        thousands(counted.faults),
        thousands(counted.ic_ivau),
        thousands(counted.ic_ialluis),
        thousands(counted.dc_civac),
        operations(predicted.by_line),
        operations(predicted.capped)
    ))
}

/// Prints the operations that were counted in each case, and the policy that the run inferred from them.
///
/// # Errors
///
/// If the writer fails.
pub fn print_counts(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    for (case, line) in run.cases.iter().filter_map(|case| Some((case, describe_counts(case)?))) {
        writeln!(out, "{} {}: {line}", run.machine.kernel_release, case.name)?;
    }
    match run.facts.get("policy") {
        Some(policy) if run.cases.iter().any(|case| case.counted.is_some()) => {
            writeln!(out, "{}: {}: {policy}", run.machine.kernel_release, run.verdict.status.name())
        }
        _ => Ok(()),
    }
}
