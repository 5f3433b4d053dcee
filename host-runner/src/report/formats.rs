//! The files that labs read, and what `--format` prints.

use std::io::{self, Write};
use std::path::Path;

use crate::evidence::machine::Platform;
use crate::store::{self, Error};

use super::subject::Subject;
use super::words::{quiet, quiet_json};
use super::{junit, kcidb, ktap, lava, linaro, prom, table};

/// What `run` prints at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The table.
    #[default]
    Human,
    /// `result.json`.
    Json,
    /// KTAP version 1.
    Ktap,
    /// LAVA's test case signals, or its helper where that is in PATH.
    Lava,
    /// JUnit XML.
    Junit,
    /// KernelCI's submission, version 5.
    Kcidb,
    /// Linaro's `name pass|fail|skip [value [unit]]`.
    Linaro,
    /// Gauges for node_exporter's textfile collector.
    Prom,
}

/// The files of a run directory.
const FILES: [(&str, Format); 5] = [
    ("results.ktap", Format::Ktap),
    ("junit.xml", Format::Junit),
    ("kcidb.json", Format::Kcidb),
    ("result.txt", Format::Linaro),
    ("faultline.prom", Format::Prom),
];

/// Writes every format's file into the run directory, each by rename. The same result gives the same bytes.
///
/// # Errors
///
/// If one cannot be written.
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

/// Prints the run, or the runs of a plan, as `format` says.
///
/// # Errors
///
/// Of the writer.
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
                table::print(out, &[run])?;
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

/// Returns `result.json`; of a plan its summary and all of these.
fn json(subject: &Subject<'_>) -> serde_json::Result<String> {
    match (subject.plan, subject.runs.as_slice()) {
        (None, [run]) => serde_json::to_string_pretty(run),
        (plan, runs) => serde_json::to_string_pretty(&serde_json::json!({ "summary": plan, "runs": runs })),
    }
}

/// Returns the word for what the machine is.
pub fn platform_name(platform: Platform) -> &'static str {
    match platform {
        Platform::Emulated => "emulated",
        Platform::VirtualMachine => "virtual_machine",
        Platform::Hardware => "hardware",
        Platform::Unknown => "unknown",
    }
}

#[cfg(test)]
#[path = "formats_tests.rs"]
mod tests;
