//! The formats in which faultline prints a result.

/// A form in which a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The table.
    #[default]
    Human,
    /// Markdown with 72 columns, for a mail.
    Markdown,
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
