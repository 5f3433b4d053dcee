//! The view of a run: the parts of a report that come from its scenario. A report lays out views and knows no scenario.

use units::stats::Timing;

use crate::result::RunResult;
use crate::status::Status;

/// The parts of a report that come from the scenario. The report adds the parts that every run has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The answer to the question of the run, which a report prints first and last. Without it, that is the verdict.
    pub headline: Option<String>,
    /// Lines about other things that were seen. They do not change the answer.
    pub also: Vec<String>,
    /// Tables of the cases.
    pub tables: Vec<Table>,
    /// Lines below each case, in the order of the cases. If this list is the shorter one, the last cases have no lines.
    pub details: Vec<Vec<String>>,
    /// True if a table shows the verdict of each case. A case that passed then needs no line of its own.
    pub passes_in_table: bool,
    /// Lines about all cases together.
    pub findings: Vec<String>,
    /// Cost of a first execution against block size, from cases in which no vCPU waited for another.
    pub costs: Vec<Cost>,
    /// Longest stall against the number of vCPUs that raced for one block.
    pub stalls: Vec<Stall>,
}

/// A table of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Heads of the columns.
    pub head: Vec<String>,
    /// Rows. Each has one cell for each column.
    pub rows: Vec<Vec<String>>,
    /// Number of columns, from the first, that are aligned to the left. The others are aligned to the right.
    pub left: usize,
    /// Lines below the table.
    pub notes: Vec<String>,
}

/// Cost of a first execution in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Size of the block in bytes.
    pub block_bytes: u64,
    /// Times of the first executions.
    pub exec: Timing,
}

/// Longest stall of vCPUs that raced for one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Number of vCPUs that raced.
    pub racers: u64,
    /// The longest stall in ns.
    pub ns: u64,
}

/// A run with its view.
#[derive(Clone, Debug, PartialEq)]
pub struct Viewed<'a> {
    /// The run.
    pub run: &'a RunResult,
    /// Its view.
    pub view: View,
}

impl Viewed<'_> {
    /// Returns the line with which a report of the run begins: its answer, or else its verdict.
    pub fn headline(&self) -> String {
        let verdict = &self.run.verdict;
        let own = || format!("{}: {}", verdict.status.name().to_uppercase(), verdict.reason);
        self.view.headline.clone().filter(|_| verdict.status < Status::Error).unwrap_or_else(own)
    }
}

impl<'a> From<&'a RunResult> for Viewed<'a> {
    /// Returns the run with an empty view.
    fn from(run: &'a RunResult) -> Self {
        Self { run, view: View::default() }
    }
}
