//! What the user sees while kernels are fetched and booted: spinners on a terminal, plain lines elsewhere.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::qemu::Audience;

/// The screen, shared by all kernels of one call.
#[derive(Debug)]
pub struct Screen {
    spinners: Option<MultiProgress>,
    label_width: usize,
}

impl Screen {
    /// Looks at what stderr is, and makes room for the kernels' names.
    pub fn new<'a>(kernels: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = kernels.collect();
        let label_width = if names.len() > 1 { names.iter().map(|name| name.len()).max().unwrap_or(0) } else { 0 };
        Self { spinners: io::stderr().is_terminal().then(MultiProgress::new), label_width }
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
        let write = || {
            // A closed pipe is the reader's wish, not a failure of the lab.
            let _ = io::stdout().lock().write_all(text.as_bytes());
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
            None => eprintln!("{}: {text}", self.kernel),
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
        let mut unfinished = self.unfinished.borrow_mut();
        unfinished.extend_from_slice(bytes);
        let Some(end) = unfinished.iter().rposition(|&byte| byte == b'\n') else { return };
        let lines: Vec<u8> = unfinished.drain(..=end).collect();
        let label = self.label();
        let text = String::from_utf8_lossy(&lines);
        self.screen.print(&text.lines().map(|line| format!("{label}{line}\n")).collect::<String>());
    }
}
