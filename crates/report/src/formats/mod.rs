//! The formats that test labs read: the files of a run directory, and the output of `--format`.

mod junit;
mod kcidb;
mod ktap;
mod lava;
mod linaro;
mod prom;

use std::io::{self, Write};
use std::path::Path;

use klog::quiet::{quiet, quiet_json};
use record::format::Format;
use record::store::{self, Error};

use crate::subject::Subject;
use crate::table;

/// Files of a run directory, with their formats.
const FILES: [(&str, Format); 5] = [
    ("results.ktap", Format::Ktap),
    ("junit.xml", Format::Junit),
    ("kcidb.json", Format::Kcidb),
    ("result.txt", Format::Linaro),
    ("faultline.prom", Format::Prom),
];

/// Writes the file of every format into the run directory, each by rename. The same result gives the same bytes.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write_all(dir: &Path, subject: &Subject<'_>) -> Result<(), Error> {
    for (name, format) in FILES {
        let path = dir.join(name);
        let mut text = Vec::new();
        print(&mut text, format, subject)
            .and_then(|()| store::replace(&path, &text))
            .map_err(|error| Error::Write(path, error))?;
    }
    Ok(())
}

/// Prints the run, or the runs of a plan, in this format.
///
/// # Errors
///
/// If the writer fails.
pub fn print(out: &mut impl Write, format: Format, subject: &Subject<'_>) -> io::Result<()> {
    match format {
        Format::Human => human(out, subject),
        Format::Json => writeln!(out, "{}", quiet_json(&json(subject)?)),
        Format::Ktap => out.write_all(ktap::ktap(subject).as_bytes()),
        Format::Lava => lava::report(out, subject),
        Format::Junit => writeln!(out, "{}", junit::junit(subject).map_err(io::Error::other)?.trim_end()),
        Format::Kcidb => writeln!(out, "{}", quiet_json(&serde_json::to_string_pretty(&kcidb::kcidb(subject))?)),
        Format::Linaro => out.write_all(linaro::linaro(subject).as_bytes()),
        Format::Prom => out.write_all(prom::prom(subject).as_bytes()),
    }
}

fn human(out: &mut impl Write, subject: &Subject<'_>) -> io::Result<()> {
    let Some(plan) = subject.plan else { return table::print(out, &subject.runs) };
    for group in subject.groups() {
        let (name, status) = (&group.name, group.verdict.status.name());
        match group.run {
            Some(run) => {
                writeln!(out, "== {name}: {status}")?;
                let viewed = subject.runs.iter().filter(|viewed| viewed.run.run.id == run.run.id);
                table::print(out, &viewed.cloned().collect::<Vec<_>>())?;
            }
            None => writeln!(out, "== {name}: {status}: {}", quiet(&group.verdict.reason))?,
        }
        for test in group.tests.iter().filter(|test| test.case.is_none()) {
            writeln!(out, "{}: {}: {}", test.name, test.verdict.status.name(), quiet(&test.verdict.reason))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{}: {}: {}", plan.plan, plan.verdict.status.name(), quiet(&plan.verdict.reason))
}

/// Returns the result as JSON. For a plan, returns its summary and the results of all runs.
fn json(subject: &Subject<'_>) -> serde_json::Result<String> {
    let runs: Vec<_> = subject.runs.iter().map(|viewed| viewed.run).collect();
    match (subject.plan, runs.as_slice()) {
        (None, [run]) => serde_json::to_string_pretty(run),
        (plan, runs) => serde_json::to_string_pretty(&serde_json::json!({ "summary": plan, "runs": runs })),
    }
}

#[cfg(test)]
mod tests;
