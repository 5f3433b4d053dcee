//! Runs a plan on this machine, each step in a process of its own.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use hostfacts::interrupt::{Interrupt, POLL_INTERVAL};
use record::exit::HARNESS;
use record::journal::WitnessedEnd;
use record::summary::Step;

use crate::failure::{CommandResult, Failure};
use crate::plan::request::PlanRequest;
use crate::plan::runner::{StepEnd, StepRunner};

/// Runs a plan on this machine. Each step has its own process, so that its death does not end the others.
///
/// # Errors
///
/// If the plan's own files cannot be written.
pub fn run(request: PlanRequest) -> CommandResult {
    let release = hostfacts::machine::kernel_release();
    let results = request.common().results.clone();
    let interrupt = Interrupt::catch().map_err(Failure::harness)?;
    let mut processes = StepProcesses { request: &request, release: &release, interrupt: &interrupt, begun: 0 };
    request.execute(&results, &release, &mut processes)
}

/// Runner of steps as processes.
struct StepProcesses<'a> {
    request: &'a PlanRequest,
    /// Release of the kernel.
    release: &'a str,
    interrupt: &'a Interrupt,
    /// Number of steps that were begun.
    begun: usize,
}

impl StepRunner for StepProcesses<'_> {
    fn directory(&mut self, _: &Step) -> Option<String> {
        self.begun += 1;
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        Some(format!("{time}-{}-{:04x}.{}", self.release, std::process::id() & 0xffff, self.begun))
    }

    fn run(&mut self, plan: &Path, step: &Step) -> StepEnd {
        let directory = step.directory.clone().unwrap_or_default();
        match self.run_process(plan, step, &directory) {
            Err(error) => StepEnd::NoRun(format!("the run could not be started: {error}")),
            Ok((status, error)) => {
                let began = plan.join(&directory).join(record::journal::FILE).is_file();
                if self.interrupt.is_set() {
                    return StepEnd::Stop { directory: began.then_some(directory), reason: "interrupted".into() };
                }
                let cause = describe_end(status, error);
                if began {
                    let witness = WitnessedEnd { cause: Some(cause), ..WitnessedEnd::default() };
                    StepEnd::Run { directory, witness }
                } else {
                    StepEnd::NoRun(cause)
                }
            }
        }
    }
}

impl StepProcesses<'_> {
    /// Runs the process of a step. Returns its exit status and the last error that it printed.
    fn run_process(&self, plan: &Path, step: &Step, name: &str) -> std::io::Result<(ExitStatus, Option<String>)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(self.request.command_line(step, Some(plan)))
            .env("FAULTLINE_RUN_NAME", name)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take();
        let listener = std::thread::spawn(move || stderr.map(forward_errors).unwrap_or_default());
        let status = self.wait(&mut child)?;
        Ok((status, listener.join().unwrap_or_default()))
    }

    /// Waits for the end of a process. If the user interrupts the plan, passes that on: the process restores its settings
    /// and ends by itself.
    fn wait(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let mut signalled = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(POLL_INTERVAL);
            if self.interrupt.is_set() && !signalled {
                // Fails only if the process has already ended.
                let _ = rustix::process::kill_process(
                    rustix::process::Pid::from_child(child),
                    rustix::process::Signal::TERM,
                );
                signalled = true;
            }
        }
    }
}

/// Copies the standard error of a process to that of this one. Returns the last error in it.
fn forward_errors(stderr: impl std::io::Read) -> Option<String> {
    let mut last = None;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        units::note!("{line}");
        if let Some(error) = line.strip_prefix("faultline: ") {
            last = Some(error.to_owned());
        }
    }
    last
}

fn describe_end(status: ExitStatus, error: Option<String>) -> String {
    match (status.code(), status.signal(), error) {
        (_, Some(signal), _) => format!("the runner was killed by {}", hostfacts::process::signal_name(signal)),
        (_, None, Some(error)) => format!("the runner gave up: {error}"),
        (code, None, None) => format!("the runner ended with exit code {}", code.unwrap_or(HARNESS.into())),
    }
}
