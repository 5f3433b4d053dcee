//! The formats that test labs read: the files of a run directory, and the output of `--format`.

mod junit;
mod kcidb;
mod ktap;
mod lava;
mod linaro;
mod markdown;
mod prom;

use std::io::{self, Write};
use std::path::Path;

use klog::quiet::quiet_json;
use record::answer::Answer;
use record::format::Format;
use record::result::RunResult;
use record::store::{self, Error};
use record::view::Viewed;
use serde::Serialize;

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
        Format::Markdown => out.write_all(markdown::markdown(subject).as_bytes()),
        Format::Prom => out.write_all(prom::prom(subject).as_bytes()),
    }
}

fn human(out: &mut impl Write, subject: &Subject<'_>) -> io::Result<()> {
    let Some(plan) = subject.plan else { return table::print(out, &subject.runs) };
    let verdict = format!("{}: {}: {}", plan.plan, plan.verdict.status.name(), plan.verdict.reason);
    for run in subject.runs.iter().filter(|viewed| viewed.run.answer().is_some()) {
        table::prose(out, &run.run.verdict.reason)?;
    }
    table::prose(out, &verdict)?;
    writeln!(out)?;
    let mut said: Vec<String> = Vec::new();
    for group in subject.groups() {
        let (name, status) = (&group.name, group.verdict.status.name());
        match group.run {
            Some(run) => {
                writeln!(out, "== {name}: {status}")?;
                let viewed = subject.runs.iter().filter(|viewed| viewed.run.run.id == run.run.id);
                // What the whole machine lacks is said once, at the first run that lacks it.
                let mut run = run.clone();
                run.evidence.absent.retain(|what| !said.contains(what));
                said.extend(run.evidence.absent.iter().cloned());
                let viewed: Vec<_> = viewed.map(|viewed| Viewed { run: &run, view: viewed.view.clone() }).collect();
                table::print(out, &viewed)?;
            }
            None => table::prose(out, &format!("== {name}: {status}: {}", group.verdict.reason))?,
        }
        for test in group.tests.iter().filter(|test| test.case.is_none()) {
            table::prose(out, &format!("{}: {}: {}", test.name, test.verdict.status.name(), test.verdict.reason))?;
        }
        writeln!(out)?;
    }
    table::prose(out, &verdict)
}

/// A result, with the answer before all else if the run gave one.
#[derive(Serialize)]
struct AnsweredRun<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    also: Option<&'a [String]>,
    #[serde(flatten)]
    run: &'a RunResult,
}

impl<'a> From<&'a Viewed<'a>> for AnsweredRun<'a> {
    fn from(Viewed { run, view }: &'a Viewed<'a>) -> Self {
        let answer = run.answer();
        Self { answer, also: answer.map(|_| view.also.as_slice()), run }
    }
}

/// Returns the result as JSON. For a plan, returns its summary and the results of all runs.
fn json(subject: &Subject<'_>) -> serde_json::Result<String> {
    match (subject.plan, subject.runs.as_slice()) {
        (None, [viewed]) => serde_json::to_string_pretty(&AnsweredRun::from(viewed)),
        (plan, runs) => {
            let runs: Vec<_> = runs.iter().map(|viewed| viewed.run).collect();
            serde_json::to_string_pretty(&serde_json::json!({ "summary": plan, "runs": runs }))
        }
    }
}

#[cfg(test)]
mod tests;
