//! The files that labs read, and what `--format` prints.

use std::io::{self, Write};
use std::path::Path;

use crate::evidence::machine::Platform;
use crate::result::RunResult;
use crate::store::{self, Error};

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
pub fn write_all(dir: &Path, run: &RunResult) -> Result<(), Error> {
    for (name, format) in FILES {
        let path = dir.join(name);
        let mut text = Vec::new();
        print(&mut text, format, run)
            .and_then(|()| store::replace(&path, &text))
            .map_err(|error| Error::Write(path, error))?;
    }
    Ok(())
}

/// Prints the run as `format` says.
///
/// # Errors
///
/// Of the writer.
pub fn print(out: &mut impl Write, format: Format, run: &RunResult) -> io::Result<()> {
    match format {
        Format::Human => table::print(out, &[run]),
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(run)?),
        Format::Ktap => out.write_all(ktap::ktap(run).as_bytes()),
        Format::Lava => lava::report(out, run),
        Format::Junit => writeln!(out, "{}", junit::junit(run).map_err(io::Error::other)?.trim_end()),
        Format::Kcidb => writeln!(out, "{}", serde_json::to_string_pretty(&kcidb::kcidb(run))?),
        Format::Linaro => out.write_all(linaro::linaro(run).as_bytes()),
        Format::Prom => out.write_all(prom::prom(run).as_bytes()),
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
