//! A scenario's own presentation of one of its runs. Reports lay it out and know no scenario.

use units::stats::Timing;

use crate::result::RunResult;

/// Everything that a scenario shows of a run beyond what every run has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Tables of its cases.
    pub tables: Vec<Table>,
    /// Lines to print below each case, in the order of the cases; cases without lines may be left out at the end.
    pub details: Vec<Vec<String>>,
    /// Whether a table shows the verdict of each case, so that cases that pass need no line of their own.
    pub passes_in_table: bool,
    /// Lines about all cases together.
    pub findings: Vec<String>,
    /// Cost of a first execution against block size, from cases in which no vCPU waited for another.
    pub costs: Vec<Cost>,
    /// Longest stall against the number of vCPUs that raced for one block.
    pub stalls: Vec<Stall>,
}

/// A table of words. Numbers are words by then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Heads of the columns.
    pub head: Vec<String>,
    /// Rows, each with a word for each column.
    pub rows: Vec<Vec<String>>,
    /// Number of columns, from the first, that are aligned to the left.
    pub left: usize,
    /// Whether several runs share one table, with a column for the kernel before these.
    pub shared: bool,
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
    /// vCPUs that raced.
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

/// A run without a view of its own.
impl<'a> From<&'a RunResult> for Viewed<'a> {
    fn from(run: &'a RunResult) -> Self {
        Self { run, view: View::default() }
    }
}
