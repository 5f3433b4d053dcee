//! The results of one command on a row of kernels: which cases changed, and at which kernel.

use maud::{Markup, html};
use record::result::RunResult;
use record::status::Status;
use serde::Serialize;

use crate::html::page::{NO_VALUE, badge, page};

/// The most characters of a line of the table.
const WIDTH: usize = 100;
/// Name of the row with the verdicts of the whole runs.
const RUN: &str = "run";

/// One kernel of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct Swept {
    /// The name by which it was asked for.
    pub name: String,
    /// Release, if it booted.
    pub release: Option<String>,
    /// Directory of the run, if there is one.
    pub path: Option<String>,
    /// Verdict of the run; none if there was no run.
    pub status: Option<Status>,
    /// Reason of the verdict, or the reason for which there was no run.
    pub reason: String,
    /// Cases and facts, in order.
    pub cells: Vec<Cell>,
}

/// A case or a fact of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Label of the case, or name of the fact.
    pub row: String,
    /// Status of the case, or value of the fact.
    pub value: Value,
}

/// Value of a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Of a case.
    Status(Status),
    /// Of a fact.
    Fact(String),
}

/// A change between two kernels that follow each other, apart from those that show nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Label of the case, or name of the fact.
    pub row: String,
    /// The value before.
    pub from: String,
    /// The last kernel that has it.
    pub last: String,
    /// The value after.
    pub to: String,
    /// The first kernel that has it.
    pub first: String,
}

/// A sweep, with its kernels in order.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// The command in each emulated host.
    pub command: Vec<String>,
    /// The kernels.
    pub kernels: Vec<Swept>,
}

impl Swept {
    /// Returns a kernel that ran.
    pub fn ran(name: &str, path: Option<String>, run: &RunResult) -> Self {
        let cases = run.cases.iter().map(|case| (run.label(case), Value::Status(case.verdict.status)));
        let facts = run.facts.iter().map(|(name, fact)| (name.clone(), Value::Fact(fact.clone())));
        let whole = (RUN.to_owned(), Value::Status(run.verdict.status));
        Self {
            name: name.into(),
            release: Some(run.machine.kernel_release.clone()),
            path,
            status: Some(run.verdict.status),
            reason: run.verdict.reason.clone(),
            cells: facts.chain(cases).chain([whole]).map(|(row, value)| Cell { row, value }).collect(),
        }
    }

    /// Returns a kernel that gave no result, for this reason.
    pub fn absent(name: &str, path: Option<String>, reason: String) -> Self {
        Self { name: name.into(), release: None, path, status: None, reason, cells: Vec::new() }
    }

    fn cell(&self, row: &str) -> Option<&Value> {
        self.cells.iter().find(|cell| cell.row == row).map(|cell| &cell.value)
    }

    /// Returns the name for the head of a column.
    fn short(&self) -> &str {
        self.name.strip_prefix("debian:").unwrap_or(&self.name)
    }
}

impl Value {
    fn words(&self) -> &str {
        match self {
            Self::Status(Status::Fail) => "FAIL",
            Self::Status(status) => status.name(),
            Self::Fact(fact) => fact,
        }
    }

    /// Returns whether the value shows something about the kernel.
    fn shows(&self) -> bool {
        matches!(self, Self::Fact(_) | Self::Status(Status::Pass | Status::Fail))
    }
}

impl Sweep {
    /// Returns the names of the rows, in the order in which they first appear; the verdict of the run comes last.
    fn rows(&self) -> Vec<&str> {
        let mut rows: Vec<&str> = Vec::new();
        for cell in self.kernels.iter().flat_map(|kernel| &kernel.cells) {
            if cell.row != RUN && !rows.contains(&cell.row.as_str()) {
                rows.push(&cell.row);
            }
        }
        rows.push(RUN);
        rows
    }

    /// Returns all changes, by row.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for row in self.rows() {
            let shown = self.kernels.iter().filter_map(|kernel| Some((kernel, kernel.cell(row)?)));
            let shown: Vec<_> = shown.filter(|(_, value)| value.shows()).collect();
            for pair in shown.windows(2) {
                let [(before, from), (after, to)] = pair else { continue };
                if from != to {
                    changes.push(Change {
                        row: row.into(),
                        from: from.words().into(),
                        last: before.name.clone(),
                        to: to.words().into(),
                        first: after.name.clone(),
                    });
                }
            }
        }
        changes
    }

    /// Returns the worst status of all kernels; none if no kernel gave one.
    pub fn status(&self) -> Option<Status> {
        self.kernels.iter().filter_map(|kernel| kernel.status).max()
    }

    /// Returns the table, the changes and the kernels without a result, for people.
    pub fn text(&self) -> String {
        let rows = self.rows();
        let first = rows.iter().map(|row| row.chars().count()).max().unwrap_or(0);
        let width = |kernel: &Swept| {
            let cells = kernel.cells.iter().map(|cell| cell.value.words().len());
            cells.chain([kernel.short().len()]).max().unwrap_or(0)
        };
        let mut out = String::new();
        let mut kernels = self.kernels.as_slice();
        while !kernels.is_empty() {
            let mut used = first;
            let fits = |kernel: &&Swept| {
                used += 2 + width(kernel);
                used <= WIDTH
            };
            let count = kernels.iter().take_while(fits).count().max(1);
            let (shown, left) = kernels.split_at(count);
            let mut line = |head: &str, cells: &dyn Fn(&Swept) -> String| {
                let cells: String =
                    shown.iter().map(|kernel| format!("  {:1$}", cells(kernel), width(kernel))).collect();
                out += format!("{head:first$}{cells}").trim_end();
                out += "\n";
            };
            line("", &|kernel| kernel.short().to_owned());
            for row in &rows {
                line(row, &|kernel| kernel.cell(row).map_or("-", Value::words).to_owned());
            }
            out += "\n";
            kernels = left;
        }
        for change in self.changes() {
            out += &change.sentence();
            out += "\n";
        }
        for kernel in self.kernels.iter().filter(|kernel| kernel.status.is_none()) {
            out += &format!("{}: no result: {}\n", kernel.name, kernel.reason);
        }
        out
    }

    /// Returns a page with the table and a picture.
    pub fn html(&self) -> String {
        let rows = self.rows();
        let body = html! {
            header {
                h1 { "faultline sweep" }
                p class="soft" { "faultline " (self.command.join(" ")) ", on " (self.kernels.len()) " kernels. All hosts are emulated." }
            }
            section {
                h2 { "Changes" }
                ul { @for change in self.changes() { li { (change.sentence()) } } }
            }
            section { h2 { "Picture" } (self.picture(&rows)) }
            section {
                h2 { "Table" }
                div class="scroll" tabindex="0" role="region" aria-label="verdicts by kernel" {
                    table {
                        thead { tr { th scope="col" { "" } @for kernel in &self.kernels { th scope="col" { (kernel.short()) } } } }
                        tbody { @for row in &rows { tr {
                            th scope="row" { (row) }
                            @for kernel in &self.kernels { td { @match kernel.cell(row) {
                                Some(Value::Status(status)) => (badge(*status)),
                                Some(Value::Fact(fact)) => (fact),
                                None => (NO_VALUE),
                            } } }
                        } } }
                    }
                }
            }
            section {
                h2 { "Kernels" }
                ul { @for kernel in &self.kernels { li {
                    strong { (kernel.name) } " " (kernel.release.as_deref().unwrap_or("")) ": " (kernel.reason)
                } } }
            }
        };
        page("faultline sweep", &body)
    }

    /// Draws one square for each kernel and case.
    fn picture(&self, rows: &[&str]) -> Markup {
        const SIDE: usize = 18;
        const LEFT: usize = 220;
        let rows: Vec<_> = rows.iter().filter(|row| self.has_status(row)).collect();
        let (width, height) = (LEFT + SIDE * self.kernels.len(), SIDE * rows.len());
        let colour = |value: Option<&Value>| match value {
            Some(Value::Status(Status::Pass)) => "#2e7d32",
            Some(Value::Status(Status::Fail)) => "#c62828",
            Some(Value::Status(Status::Skip)) => "#bdbdbd",
            Some(_) => "#6a1b9a",
            None => "none",
        };
        html! {
            svg width=(width) height=(height) role="img" aria-label="verdicts: kernels across, cases down" {
                @for (y, row) in rows.iter().enumerate() {
                    text x="0" y=(y * SIDE + SIDE - 5) font-size="12" fill="currentColor" { (row) }
                    @for (x, kernel) in self.kernels.iter().enumerate() {
                        rect x=(LEFT + x * SIDE) y=(y * SIDE) width=(SIDE - 2) height=(SIDE - 2) fill=(colour(kernel.cell(row))) {
                            title { (kernel.name) ", " (row) ": " (kernel.cell(row).map_or("no result", Value::words)) }
                        }
                    }
                }
            }
        }
    }

    fn has_status(&self, row: &str) -> bool {
        self.kernels.iter().any(|kernel| matches!(kernel.cell(row), Some(Value::Status(_))))
    }
}

impl Change {
    /// Returns the change in a sentence.
    fn sentence(&self) -> String {
        let Self { row, from, last, to, first } = self;
        match (from.as_str(), to.as_str()) {
            ("pass", "FAIL") => format!("{row}: first bad {first}, last good {last}"),
            ("FAIL", "pass") => format!("{row}: first good {first}, last bad {last}"),
            _ => format!("{row}: {to} from {first} on, {from} up to {last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(name: &str, cells: &[(&str, Value)]) -> Swept {
        let cells = cells.iter().map(|(row, value)| Cell { row: (*row).to_owned(), value: value.clone() }).collect();
        Swept { status: Some(Status::Pass), cells, ..Swept::absent(name, None, "reason".into()) }
    }

    fn sweep() -> Sweep {
        let status = Value::Status;
        let fact = |text: &str| Value::Fact(text.into());
        let kernels = vec![
            swept(
                "debian:5.10",
                &[("policy", fact("by line")), ("1G", status(Status::Fail)), (RUN, status(Status::Fail))],
            ),
            swept(
                "debian:6.1",
                &[("policy", fact("by line")), ("1G", status(Status::Skip)), (RUN, status(Status::Skip))],
            ),
            Swept::absent("debian:6.9", None, "the archive has none".into()),
            swept(
                "debian:6.12",
                &[("policy", fact("capped")), ("1G", status(Status::Pass)), (RUN, status(Status::Pass))],
            ),
            swept(
                "debian:7.3",
                &[("policy", fact("capped")), ("1G", status(Status::Fail)), (RUN, status(Status::Pass))],
            ),
        ];
        Sweep { command: vec!["run".into(), "storm".into()], kernels }
    }

    #[test]
    fn the_first_good_and_the_first_bad_kernel_are_named() {
        let text = sweep().text();
        for line in [
            "policy: capped from debian:6.12 on, by line up to debian:6.1",
            "1G: first good debian:6.12, last bad debian:5.10",
            "1G: first bad debian:7.3, last good debian:6.12",
            "debian:6.9: no result: the archive has none",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(
            text.lines()
                .any(|line| line.split_whitespace().collect::<Vec<_>>() == ["1G", "FAIL", "skip", "-", "pass", "FAIL"]),
            "{text}"
        );
    }

    #[test]
    fn a_wide_table_is_folded() {
        let one = sweep().kernels.remove(0);
        let many = Sweep { command: Vec::new(), kernels: vec![one; 40] };
        assert!(many.text().lines().all(|line| line.len() <= WIDTH), "{}", many.text());
        assert_eq!(many.text().matches("FAIL").count(), 80);
    }

    #[test]
    fn the_page_has_a_picture() {
        let page = sweep().html();
        assert_eq!(page.matches("<rect").count(), 10);
        assert!(page.contains("debian:6.12, 1G: pass"));
    }
}
