//! Progress for the user while kernels are fetched and booted: spinners on a terminal, otherwise plain lines.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::qemu::supervise::BootObserver;

/// The amount of output.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Verbosity {
    /// Do not print the lab's own progress
    #[arg(short, long)]
    quiet: bool,
    /// Print QEMU's command line for each boot
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// Treatment of the output of the runner in the emulated host.
    #[arg(skip)]
    pub runner_output: RunnerOutput,
}

impl Verbosity {
    /// Returns whether progress is not printed.
    pub fn is_quiet(self) -> bool {
        self.quiet
    }
}

/// Treatment of the output of the runner in the emulated host. The run directory has a copy in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunnerOutput {
    /// It goes to standard output.
    #[default]
    Printed,
    /// It goes to standard error, as progress. Standard output is free for the result.
    Progress,
}

/// The progress of all kernels of one call.
#[derive(Debug)]
pub struct Progress {
    verbosity: Verbosity,
    spinners: Option<MultiProgress>,
    label_width: usize,
}

impl Progress {
    /// Creates the display for these kernels. There are spinners if stderr is a terminal.
    pub fn new<'a>(verbosity: Verbosity, kernels: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = kernels.collect();
        let label_width = if names.len() > 1 { names.iter().map(|name| name.len()).max().unwrap_or(0) } else { 0 };
        let spinners = (!verbosity.quiet && io::stderr().is_terminal()).then(MultiProgress::new);
        Self { verbosity, spinners, label_width }
    }

    /// Adds the line of one kernel.
    pub fn line(&self, kernel: &str) -> ProgressLine<'_> {
        let spinner = self.spinners.as_ref().map(|spinners| {
            let style = ProgressStyle::with_template("{spinner} {prefix} {msg} ({elapsed})")
                .expect("a constant template that the tests render");
            let spinner = spinners.add(ProgressBar::new_spinner()).with_style(style).with_prefix(kernel.to_string());
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        ProgressLine { progress: self, kernel: kernel.to_string(), spinner, unfinished: RefCell::new(Vec::new()) }
    }

    /// Prints lines that the spinners do not overwrite.
    fn print(&self, text: &str, to: RunnerOutput) {
        // A reader may close the pipe, which is no failure of the lab.
        let write = || match to {
            RunnerOutput::Printed => drop(io::stdout().lock().write_all(text.as_bytes())),
            RunnerOutput::Progress => drop(io::stderr().lock().write_all(text.as_bytes())),
        };
        match &self.spinners {
            Some(spinners) => spinners.suspend(write),
            None => write(),
        }
    }
}

/// The progress of one kernel.
#[derive(Debug)]
pub struct ProgressLine<'a> {
    progress: &'a Progress,
    kernel: String,
    spinner: Option<ProgressBar>,
    unfinished: RefCell<Vec<u8>>,
}

impl ProgressLine<'_> {
    /// Shows `text` as the current activity.
    pub fn show(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.to_string()),
            None if self.progress.verbosity.quiet => {}
            None => units::note!("{}: {text}", self.kernel),
        }
    }

    /// Prints a line if the user asked for more output.
    pub fn print_if_verbose(&self, text: &str) {
        if self.progress.verbosity.verbose {
            let print = || units::note!("{}: {text}", self.kernel);
            self.progress.spinners.as_ref().map_or_else(print, |spinners| spinners.suspend(print));
        }
    }

    /// Prints a note on standard error.
    pub fn print(&self, text: &str) {
        self.progress.print(&format!("{}{text}\n", self.label()), RunnerOutput::Progress);
    }

    fn print_output(&self, lines: &str) {
        let Verbosity { quiet, runner_output, .. } = self.progress.verbosity;
        if quiet && runner_output == RunnerOutput::Progress {
            return;
        }
        let label = self.label();
        let labelled: String = lines.lines().map(|line| format!("{label}{line}\n")).collect();
        self.progress.print(&labelled, runner_output);
    }

    /// Prints the rest of the runner's output and removes the spinner.
    pub fn finish(&self) {
        let rest = self.unfinished.take();
        if !rest.is_empty() {
            self.print_output(&String::from_utf8_lossy(&rest));
        }
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }

    fn label(&self) -> String {
        match self.progress.label_width {
            0 => String::new(),
            width => format!("{:width$} | ", self.kernel),
        }
    }
}

impl BootObserver for ProgressLine<'_> {
    fn booted(&self) {
        self.show("running");
    }

    fn output(&self, bytes: &[u8]) {
        let mut unfinished = self.unfinished.borrow_mut();
        unfinished.extend_from_slice(bytes);
        let Some(end) = unfinished.iter().rposition(|&byte| byte == b'\n') else { return };
        let lines: Vec<u8> = unfinished.drain(..=end).collect();
        self.print_output(&String::from_utf8_lossy(&lines));
    }
}
