//! What the user sees while kernels are fetched and booted: spinners on a terminal, plain lines elsewhere.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::qemu::Audience;

/// How much is said.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Volume {
    /// Say nothing of the lab's own progress
    #[arg(short, long)]
    quiet: bool,
    /// Print QEMU's command line for each boot
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// What of the guest's output is passed on.
    #[arg(skip)]
    pub output: Output,
}

/// What becomes of the output of the runner inside. In the run directory it is in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Output {
    /// It is passed on to standard output.
    #[default]
    Shown,
    /// It is not: something else stands there. What the lab has to say goes to standard error.
    Kept,
}

/// The screen, shared by all kernels of one call.
#[derive(Debug)]
pub struct Screen {
    volume: Volume,
    spinners: Option<MultiProgress>,
    label_width: usize,
}

impl Screen {
    /// Looks at what stderr is, and makes room for the kernels' names.
    pub fn new<'a>(volume: Volume, kernels: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = kernels.collect();
        let label_width = if names.len() > 1 { names.iter().map(|name| name.len()).max().unwrap_or(0) } else { 0 };
        let spinners = (!volume.quiet && io::stderr().is_terminal()).then(MultiProgress::new);
        Self { volume, spinners, label_width }
    }

    /// Opens the lane of one kernel.
    pub fn lane(&self, kernel: &str) -> Lane<'_> {
        let spinner = self.spinners.as_ref().map(|spinners| {
            let style = ProgressStyle::with_template("{spinner} {prefix} {msg} ({elapsed})")
                .expect("a constant template that the tests render");
            let spinner = spinners.add(ProgressBar::new_spinner()).with_style(style).with_prefix(kernel.to_string());
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        Lane { screen: self, kernel: kernel.to_string(), spinner, unfinished: RefCell::new(Vec::new()) }
    }

    /// Prints lines where the spinners do not overwrite them.
    fn print(&self, text: &str) {
        // A closed pipe is the reader's wish, not a failure of the lab.
        let write = || match self.volume.output {
            Output::Shown => drop(io::stdout().lock().write_all(text.as_bytes())),
            Output::Kept => drop(io::stderr().lock().write_all(text.as_bytes())),
        };
        match &self.spinners {
            Some(spinners) => spinners.suspend(write),
            None => write(),
        }
    }
}

/// One kernel's part of the screen.
#[derive(Debug)]
pub struct Lane<'a> {
    screen: &'a Screen,
    kernel: String,
    spinner: Option<ProgressBar>,
    unfinished: RefCell<Vec<u8>>,
}

impl Lane<'_> {
    /// Says what is being done now.
    pub fn stage(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.to_string()),
            None if self.screen.volume.quiet => {}
            None => eprintln!("{}: {text}", self.kernel),
        }
    }

    /// Says what only those want to know who asked for more.
    pub fn detail(&self, text: &str) {
        if self.screen.volume.verbose {
            let print = || eprintln!("{}: {text}", self.kernel);
            self.screen.spinners.as_ref().map_or_else(print, |spinners| spinners.suspend(print));
        }
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        self.screen.print(&format!("{}{text}\n", self.label()));
    }

    /// Ends the lane: prints the rest of the output and takes the spinner away.
    pub fn finish(&self) {
        let rest = self.unfinished.take();
        if !rest.is_empty() {
            self.line(&String::from_utf8_lossy(&rest));
        }
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }

    fn label(&self) -> String {
        match self.screen.label_width {
            0 => String::new(),
            width => format!("{:width$} | ", self.kernel),
        }
    }
}

impl Audience for Lane<'_> {
    fn booted(&self) {
        self.stage("running");
    }

    fn output(&self, bytes: &[u8]) {
        if self.screen.volume.output == Output::Kept {
            return;
        }
        let mut unfinished = self.unfinished.borrow_mut();
        unfinished.extend_from_slice(bytes);
        let Some(end) = unfinished.iter().rposition(|&byte| byte == b'\n') else { return };
        let lines: Vec<u8> = unfinished.drain(..=end).collect();
        let label = self.label();
        let text = String::from_utf8_lossy(&lines);
        self.screen.print(&text.lines().map(|line| format!("{label}{line}\n")).collect::<String>());
    }
}
