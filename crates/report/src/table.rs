//! Tables for the terminal.

use std::io::{self, Write};

use klog::quiet::quiet;
use record::case::CaseResult;
use record::machine::Platform;
use record::result::RunResult;
use record::sanitizer::Sanitizer;
use record::status::Status;
use record::verdict::describe;
use record::view::{Table, Viewed};
use units::text::thousands;

/// Width of a terminal, in characters, which no line exceeds.
const WIDTH: usize = 80;

/// Prints the runs. Each begins with its verdict, and the verdicts of all runs are the last lines.
///
/// # Errors
///
/// If the writer fails.
pub fn print(out: &mut impl Write, runs: &[Viewed<'_>]) -> io::Result<()> {
    for viewed in runs {
        prose(out, &verdict(viewed, runs.len()))?;
        writeln!(out)?;
        for line in headline(viewed.run) {
            prose(out, &line)?;
        }
        writeln!(out)?;
        for table in &viewed.view.tables {
            print_table(out, table)?;
        }
        print_details(out, viewed)?;
        writeln!(out)?;
    }
    runs.iter().try_for_each(|viewed| prose(out, &verdict(viewed, runs.len())))
}

/// Returns the verdict of a run in one line. Among several runs, it begins with the name of the kernel.
fn verdict(viewed: &Viewed<'_>, runs: usize) -> String {
    let headline = viewed.headline();
    if runs > 1 { format!("{}: {headline}", viewed.run.kernel_name()) } else { headline }
}

/// Prints a line of text, folded at [`WIDTH`]. Each line after the first has four more blanks at its start.
///
/// # Errors
///
/// If the writer fails.
pub fn prose(out: &mut impl Write, line: &str) -> io::Result<()> {
    folded(line).iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Returns lines of text, folded at [`WIDTH`], each with its line break.
pub fn paragraphs(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().flat_map(|line| folded(&line)).map(|line| line + "\n").collect()
}

/// Returns a line of text, folded at [`WIDTH`], with four more blanks at the start of each line after the first. Words
/// that are longer, such as paths, stay whole.
pub fn folded(line: &str) -> Vec<String> {
    folded_at(line, line.len() - line.trim_start().len() + 4)
}

/// Returns a line of text, folded at [`WIDTH`]. Each line after the first begins with `blanks` blanks.
pub fn folded_at(line: &str, blanks: usize) -> Vec<String> {
    let line = quiet(line);
    let text = line.trim_start();
    let indent = &line[..line.len() - text.len()];
    let hanging = " ".repeat(blanks);
    let options = textwrap::Options::new(WIDTH)
        .initial_indent(indent)
        .subsequent_indent(&hanging)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .word_separator(textwrap::WordSeparator::AsciiSpace);
    textwrap::wrap(text, options).into_iter().map(std::borrow::Cow::into_owned).collect()
}

fn print_table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    let rows: Vec<_> = std::iter::once(&table.head).chain(&table.rows).cloned().collect();
    columns(out, &rows, Align::RightAfter(table.left))?;
    for note in &table.notes {
        prose(out, note)?;
    }
    writeln!(out)
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

/// Returns lines about the machine of a run: kernel, caches of its CPUs, and [conditions].
pub fn headline(run: &RunResult) -> Vec<String> {
    let release = &run.machine.kernel_release;
    let kernel = match run.kernel_name() {
        name if name == release => format!("kernel   {release}"),
        name => format!("kernel   {name}, {release}"),
    };
    let preemption = run.machine.preemption.as_ref().map(|model| format!("; preemption {model}")).unwrap_or_default();
    let mut lines = vec![kernel + &preemption];
    if let Some(vcpu) = run.vcpus.first() {
        let (idc, dic) = (u8::from(vcpu.idc), u8::from(vcpu.dic));
        lines.push(format!("caches   I line {} B {}, IDC {idc}, DIC {dic}", vcpu.imin_line_bytes, vcpu.l1ip.name()));
    }
    if let Some(shown) = run.vcpus.first().and_then(|vcpu| vcpu.shown.as_ref()) {
        lines.push(format!(
            "guests read CTR_EL0 {:#x}: I line {} B, D line {} B, IDC {}, DIC {}",
            shown.ctr_el0,
            shown.imin_line_bytes,
            shown.dmin_line_bytes,
            u8::from(shown.idc),
            u8::from(shown.dic)
        ));
    }
    lines.extend(conditions(run));
    lines
}

/// Returns lines about the worth of the numbers of a run: the platform, and the lockup threshold.
pub fn conditions(run: &RunResult) -> Vec<String> {
    platform(run).into_iter().chain(run.machine.mode_not_taken()).chain(watchdog(run)).collect()
}

/// Returns the threshold of the soft lockup detector.
fn watchdog(run: &RunResult) -> Option<String> {
    const DEFAULT_S: u32 = 20;
    Some(match run.detector.soft_threshold_s()? {
        0 => "The watchdog is off: no stall is reported.".into(),
        DEFAULT_S => "The watchdog reports a stall of more than 20 s, the kernel's default.".into(),
        s => format!("The watchdog reports a stall of more than {s} s (the kernel's default is {DEFAULT_S} s)."),
    })
}

/// Returns the kind of machine, unless it is real hardware. The numbers of other machines mean less.
fn platform(run: &RunResult) -> Option<String> {
    match run.machine.platform {
        Platform::Hardware => None,
        Platform::VirtualMachine => Some("A virtual machine: its hypervisor takes part in all times.".into()),
        Platform::Unknown => Some("The machine is not known.".into()),
        Platform::Emulated => {
            let lab = run.machine.lab.as_ref();
            let (emulator, cpu) =
                lab.map_or(("unknown".into(), "unknown"), |lab| (lab.emulator_in_words(), lab.cpu.as_str()));
            let time = match lab.and_then(|lab| lab.time_scale) {
                Some(n) => format!("{} ns an instruction. Times are a model.", 1u64 << n),
                None => "host time. Times are those of the emulator.".into(),
            };
            Some(format!("EMULATED: {emulator}, CPU {cpu}, {time}"))
        }
    }
}

fn print_details(out: &mut impl Write, viewed: &Viewed<'_>) -> io::Result<()> {
    let (run, view) = (viewed.run, &viewed.view);
    let below = |n: usize| view.details.get(n).is_some_and(|lines| !lines.is_empty());
    for (n, case) in run.cases.iter().enumerate() {
        // Cases that were skipped for the same reason share a line.
        let alike = |other: &CaseResult| other.verdict == case.verdict && case.verdict.status == Status::Skip;
        if n > 0 && alike(&run.cases[n - 1]) && !below(n) && !below(n - 1) {
            continue;
        }
        let following =
            run.cases[n + 1..].iter().enumerate().take_while(|(m, other)| alike(other) && !below(n + 1 + m));
        let following: Vec<_> = following.map(|(_, case)| run.label(case)).collect();
        let name = std::iter::once(run.label(case)).chain(following.into_iter().filter(|_| !below(n)));
        let name = name.collect::<Vec<_>>().join(", ");
        let passed = case.verdict.status == Status::Pass && case.complaints.is_empty();
        if view.passes_in_table && passed && case.sanitizer.is_none() {
            continue;
        }
        let (status, reason) = (case.verdict.status.name(), &case.verdict.reason);
        prose(out, &format!("{name}: {status}: {reason}"))?;
        let complaints = case.complaints.iter().map(describe).filter(|line| !reason.contains(line));
        let below = view.details.get(n).into_iter().flatten().cloned().chain(describe_counts(case));
        let below = below.chain(describe_reports(case)).chain(complaints);
        for line in below.collect::<Vec<_>>().iter().chain(&case.autopsy).flat_map(|lines| lines.lines()) {
            prose(out, &format!("  {line}"))?;
        }
    }
    for line in &view.findings {
        prose(out, line)?;
    }
    for line in &view.also {
        prose(out, &format!("also: {line}"))?;
    }
    for absent in &run.evidence.absent {
        prose(out, &format!("without {absent}"))?;
    }
    Ok(())
}

/// Returns what the sanitizer checked and found in a case, as far as its verdict does not say it.
fn describe_reports(case: &CaseResult) -> impl Iterator<Item = String> {
    // A passed case has the amount in its reason.
    let passed = case.verdict.status == Status::Pass;
    let lines = case.sanitizer.iter().flat_map(Sanitizer::lines).skip(usize::from(passed));
    lines.filter(|line| !case.verdict.reason.contains(line))
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
