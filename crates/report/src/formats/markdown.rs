//! Markdown for a mail about one run, in lines of at most 72 columns.

use klog::quiet::quiet_lines;
use record::status::Status;
use record::view::Viewed;

use crate::compare::print::{indented, quoted, wrap};
use crate::compare::{said, side, subject};
use crate::subject::Subject;
use crate::table::{Align, aligned, headline};

/// Returns the verdict of a plan, if there is one, and each run as a section. A reader who does not know faultline learns what was tested, and what the kernel said.
pub fn markdown(subject: &Subject<'_>) -> String {
    let plan = subject.plan.map(|plan| {
        let mut out = wrap(&format!("**{}**: {}: {}", plan.plan, plan.verdict.status.name(), plan.verdict.reason), "");
        out += "\n";
        for group in subject.groups() {
            let tests = group.tests.iter().filter(|test| test.case.is_none()).map(|test| (&test.name, test.verdict));
            for (name, verdict) in std::iter::once((&group.name, group.verdict)).chain(tests) {
                out += &wrap(&format!("- {name}: {}: {}", verdict.status.name(), verdict.reason), "  ");
            }
        }
        out
    });
    plan.into_iter().chain(subject.runs.iter().map(section)).collect::<Vec<_>>().join("\n")
}

fn section(viewed: &Viewed<'_>) -> String {
    let Viewed { run, view } = viewed;
    let runs = std::slice::from_ref(*run);
    let verdict = viewed.headline();
    let (word, reason) = verdict.split_once(": ").unwrap_or((&verdict, ""));
    let mut out = wrap(&format!("**{word}**: {reason}"), "") + "\n";
    out += &wrap(&subject(runs), "");
    out += "\n";
    headline(run).iter().for_each(|line| out += &wrap(&format!("- {line}"), "  "));
    let said = said(runs);
    if !said.is_empty() {
        out += "\nThe kernel said:\n\n";
        said.iter().for_each(|line| out += &quoted(line));
    }
    for table in &view.tables {
        let rows: Vec<_> = std::iter::once(&table.head).chain(&table.rows).cloned().collect();
        out += &format!("\n```\n{}\n```\n", quiet_lines(&aligned(&rows, Align::RightAfter(table.left)).join("\n")));
    }
    let cases = run.cases.iter().filter(|case| !(view.passes_in_table && case.verdict.status == Status::Pass));
    let cases = cases.map(|case| format!("- {}: {}: {}", case.name, case.verdict.status.name(), case.verdict.reason));
    let also = view.also.iter().map(|line| format!("- also: {line}"));
    let lines: Vec<_> =
        cases.chain(view.findings.iter().map(|line| format!("- {}", line.trim()))).chain(also).collect();
    if !lines.is_empty() {
        out += "\n";
        lines.iter().for_each(|line| out += &wrap(line, "  "));
    }
    let side = side(runs);
    out += "\n";
    out += &wrap(&format!("To repeat it with faultline {}:", side.tools.join(", ")), "");
    out + "\n" + &indented(&side.repeat)
}
