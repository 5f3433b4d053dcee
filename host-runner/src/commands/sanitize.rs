//! `faultline sanitize`: boots kernels with one maintenance fault each, and checks that the sanitizer reports each fault
//! with the right missing thing, and nothing on the kernel without a fault.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lab::Options;
use lab::faults::{Expected, Fault, Lines, all};
use record::sanitizer::{Owed, Report, Sanitizer};
use record::status::Status;
use record::store;
use report::table::{Align, aligned, paragraphs};

use crate::failure::{CommandResult, Failure};
use crate::lab_runs::{self, LabRun};
use crate::output::{emit, emit_json};

/// Arguments of `faultline sanitize`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory that receives the run directories and the table (sanitize.md)
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Faults to try, or none for the kernel without a fault [default: all, and none]
    #[arg(long, value_delimiter = ',', value_name = "FAULT,…")]
    only: Vec<String>,
    /// Page sizes of the kernels
    #[arg(long, value_delimiter = ',', value_name = "SIZE,…", default_values = ["4k", "64k"], value_parser = ["4k", "64k"])]
    pages: Vec<String>,
    /// Source tree that the kernels are built from, in place of Debian's linux-source-6.12
    #[arg(long, value_name = "DIR")]
    linux: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    verbosity: lab::Verbosity,
}

/// CPU model of a run that names none. It has IDC and neither DIC nor FEAT_S2FWB.
const CPU: &str = "neoverse-n1";

/// Programs of lab/faults/.
const PROGRAMS: [(&str, &str); 4] = [
    ("fetch-first", include_str!("../../../lab/faults/fetch-first.toml")),
    ("rewritten", include_str!("../../../lab/faults/rewritten.toml")),
    ("collapse", include_str!("../../../lab/faults/collapse.toml")),
    ("eager-split", include_str!("../../../lab/faults/eager-split.toml")),
];

/// A boot of one kernel.
struct Boot<'a> {
    /// The fault; none for the kernel without one.
    fault: Option<&'a Fault>,
    pages: &'a str,
    run: &'a str,
    cpu: &'a str,
}

/// The result of a boot.
struct Row {
    fault: String,
    run: String,
    cpu: String,
    pages: String,
    status: Status,
    /// The report that shows the fault, or the first that was not expected.
    reported: String,
    reason: String,
}

/// Boots all kernels and prints the table.
///
/// # Errors
///
/// If the lab itself does not work, or a name is unknown.
pub fn run(args: &Args) -> CommandResult {
    let known = |name: &String| name == NONE || all().iter().any(|fault| fault.name == *name);
    if let Some(unknown) = args.only.iter().find(|name| !known(name)) {
        return Err(Failure::usage(format!("--only {unknown}: lab/faults/faults.toml has no such fault")));
    }
    fs::create_dir_all(&args.results).map_err(|error| unwritable(&args.results, error))?;
    let boots = boots(args);
    let mut rows = Vec::new();
    for boot in &boots {
        rows.push(try_boot(boot, args)?);
    }
    let path = args.results.join("sanitize.md");
    store::replace(&path, markdown(&rows).as_bytes()).map_err(|error| unwritable(&path, error))?;
    if args.json {
        emit_json(&serde_json::json!({ "boots": rows.iter().map(Row::in_json).collect::<Vec<_>>() }))?;
    } else {
        emit(&for_people(&rows))?;
    }
    Ok(rows.iter().map(|row| row.status).max().unwrap_or(Status::Skip).exit_code())
}

fn unwritable(path: &Path, error: std::io::Error) -> Failure {
    Failure::harness(store::Error::Write(path.to_owned(), error))
}

/// Name of the kernel without a fault.
const NONE: &str = "none";

/// Returns the boots: the kernel without a fault with every run that the faults need, and each fault.
fn boots(args: &Args) -> Vec<Boot<'_>> {
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|wanted| wanted == name);
    let mut boots = Vec::new();
    for pages in &args.pages {
        let tried: Vec<_> = all().iter().filter(|fault| pages == "4k" || !fault.blocks).collect();
        let mut seen = Vec::new();
        for fault in &tried {
            let (run, cpu) = taken(fault);
            if is_wanted(NONE) && !seen.contains(&(run, cpu)) {
                seen.push((run, cpu));
                boots.push(Boot { fault: None, pages, run, cpu });
            }
        }
        for fault in tried.into_iter().filter(|fault| is_wanted(&fault.name)) {
            let (run, cpu) = taken(fault);
            boots.push(Boot { fault: Some(fault), pages, run, cpu });
        }
    }
    boots
}

/// Returns the run and the CPU model of a fault.
fn taken(fault: &Fault) -> (&str, &str) {
    (&fault.run, fault.cpu.as_deref().unwrap_or(CPU))
}

fn try_boot(boot: &Boot<'_>, args: &Args) -> Result<Row, Failure> {
    let name = boot.fault.map_or(NONE, |fault| &fault.name);
    let suffix = if boot.pages == "4k" { String::new() } else { format!("+{}", boot.pages) };
    let mut options = Options {
        results: args.results.clone(),
        cpu: Some(boot.cpu.into()),
        sanitize: true,
        linux: args.linux.clone(),
        verbosity: args.verbosity,
        ..Options::for_kernel(&format!("fault:{name}{suffix}"))
    };
    let program = PROGRAMS.iter().find(|(program, _)| *program == boot.run);
    let mut argv: Vec<OsString> = match program {
        Some((program, text)) => {
            let file = format!("{program}.toml");
            let path = args.results.join(&file);
            store::replace(&path, text.as_bytes()).map_err(|error| unwritable(&path, error))?;
            options.with.push(path);
            vec!["run".into(), file.into()]
        }
        None => {
            let blocks = if boot.pages == "4k" { "page,thp" } else { "page" };
            let words = ["run"].into_iter().chain(boot.run.split_whitespace()).chain(["--blocks", blocks]);
            words.map(OsString::from).collect()
        }
    };
    argv.push("--quiet".into());
    let runs = lab_runs::run(&options, &argv)?;
    let run = runs.first().ok_or_else(|| Failure::harness("the lab booted nothing"))?;
    let (status, reported, reason) = judge(boot, run);
    Ok(Row {
        fault: name.into(),
        run: boot.run.into(),
        cpu: boot.cpu.into(),
        pages: boot.pages.into(),
        status,
        reported,
        reason,
    })
}

/// Judges a boot: its status, the report, and the reason.
fn judge(boot: &Boot<'_>, run: &LabRun) -> (Status, String, String) {
    let Some(result) = &run.result else {
        return (Status::Error, String::new(), run.ended.clone().unwrap_or_else(|| "no result".into()));
    };
    let parts: Vec<&Sanitizer> =
        result.cases.iter().filter_map(|case| case.sanitizer.as_ref()).chain(&result.sanitizer).collect();
    let published: u64 = parts.iter().map(|part| part.published).sum();
    let owed: Vec<_> = parts.iter().flat_map(|part| &part.reports).filter(|report| report.owed == Owed::Host).collect();
    let page_lines = result.machine.page_bytes / LINE_BYTES;
    let first = || owed.first().map(|report| report.describe()).unwrap_or_default();
    let expected = boot.fault.and_then(|fault| fault.expected.as_ref());
    match expected {
        _ if published == 0 => (Status::Error, first(), "nothing was published".into()),
        Some(expected) => match owed.iter().find(|report| is_expected(report, expected, page_lines)) {
            Some(report) => (Status::Pass, report.describe(), "reported as it has to be".into()),
            None if owed.is_empty() => (Status::Fail, String::new(), "not reported".into()),
            None => (Status::Fail, first(), "reported as something else".into()),
        },
        None if owed.is_empty() => {
            let equivalent = boot.fault.and_then(|fault| fault.equivalent.as_deref());
            let reason = equivalent.map_or_else(|| "no report".to_owned(), |why| format!("equivalent: {why}"));
            (Status::Pass, String::new(), reason)
        }
        None => (Status::Fail, first(), "reported without a fault".into()),
    }
}

/// Size in bytes of a line of the sanitizer.
const LINE_BYTES: u64 = 64;

/// Returns whether a report shows the fault, with its number of lines. A page of the kernel has `page_lines` lines.
fn is_expected(report: &Report, expected: &Expected, page_lines: u64) -> bool {
    let Report { lines, of, .. } = *report;
    let fits = match expected.lines {
        Some(Lines::All) => lines == of,
        Some(Lines::Half) => lines * 2 == of,
        Some(Lines::One) => lines == 1,
        Some(Lines::AllButAPage) => lines + page_lines == of,
        Some(Lines::Some) => lines > 0,
        None => true,
    };
    fits && (report.kind, report.missing, report.late) == (expected.kind, expected.missing, expected.late)
}

impl Row {
    fn in_json(&self) -> serde_json::Value {
        serde_json::json!({
            "fault": self.fault,
            "run": self.run,
            "cpu": self.cpu,
            "pages": self.pages,
            "status": self.status.name(),
            "reported": self.reported,
            "reason": self.reason,
        })
    }
}

fn markdown(rows: &[Row]) -> String {
    let mut text = "All hosts are emulated. Each kernel has one fault of cache maintenance.\n\n".to_owned();
    text += "| fault | pages | run | CPU | status | reported | |\n|---|---|---|---|---|---|---|\n";
    for Row { fault, run, cpu, pages, status, reported, reason } in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {fault} | {pages} | {run} | {cpu} | {} | {reported} | {reason} |", status.name());
    }
    text + "\n" + &summary(rows) + "\n"
}

/// Returns the number of boots that went as they have to.
fn summary(rows: &[Row]) -> String {
    let is_good = |row: &&Row| row.status == Status::Pass;
    let (faults, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.fault != NONE);
    let good = |rows: &[&Row]| rows.iter().copied().filter(is_good).count();
    let verdict = if rows.iter().all(|row| row.status == Status::Pass) { "PASS" } else { "FAIL" };
    format!(
        "{verdict}: {} of {} boots with a fault were as expected, and {} of {} without",
        good(&faults),
        faults.len(),
        good(&others),
        others.len()
    )
}

fn for_people(rows: &[Row]) -> String {
    let head = ["fault", "pages", "run", "CPU", "status"].map(String::from);
    let cells = rows.iter().map(|row| {
        [row.fault.clone(), row.pages.clone(), row.run.clone(), row.cpu.clone(), row.status.name().to_owned()]
    });
    let table: Vec<_> = std::iter::once(head).chain(cells).collect();
    let mut text = summary(rows) + "\n\n";
    for (n, line) in aligned(&table, Align::Left).into_iter().enumerate() {
        text += line.trim_end();
        text += "\n";
        if let Some(row) = n.checked_sub(1).map(|n| &rows[n]) {
            let told = if row.reported.is_empty() { &row.reason } else { &row.reported };
            text += &paragraphs([format!("    {told}")]);
            if row.status != Status::Pass && !row.reported.is_empty() {
                text += &paragraphs([format!("    {}", row.reason)]);
            }
        }
    }
    text + "\nAll hosts are emulated.\n" + &summary(rows) + "\n"
}
