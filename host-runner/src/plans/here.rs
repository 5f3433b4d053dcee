//! Runs a plan on this machine.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use hostfacts::interrupt::{Interrupt, POLL_INTERVAL};
use record::exit::HARNESS;
use record::journal::WitnessedEnd;
use record::summary::Step;

use crate::answer::{Failure, Outcome};
use crate::plans::request::Request;
use crate::suite::runner::{Ended, Steps};

/// Runs a plan on this machine, each step in a process of its own: what kills one leaves the others alone.
///
/// # Errors
///
/// If the plan's own files cannot be written.
pub fn run(request: Request) -> Outcome {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let results = request.common().results.clone();
    let interrupt = Interrupt::catch().map_err(Failure::harness)?;
    let mut here = Here { request: &request, release: &release, interrupt: &interrupt, begun: 0 };
    request.execute(&results, &release, &mut here)
}

/// This machine.
struct Here<'a> {
    request: &'a Request,
    release: &'a str,
    interrupt: &'a Interrupt,
    begun: usize,
}

impl Steps for Here<'_> {
    fn directory(&mut self, _: &Step) -> Option<String> {
        self.begun += 1;
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        Some(format!("{time}-{}-{:04x}.{}", self.release, std::process::id() & 0xffff, self.begun))
    }

    fn run(&mut self, plan: &Path, step: &Step) -> Ended {
        let name = step.directory.clone().unwrap_or_default();
        match self.child(plan, step, &name) {
            Err(error) => Ended::Nothing(format!("the run could not be started: {error}")),
            Ok((status, said)) => {
                let began = plan.join(&name).join(record::journal::FILE).is_file();
                if self.interrupt.is_set() {
                    return Ended::Stopped(began.then_some(name), "interrupted".into());
                }
                let cause = how(status, said);
                if began {
                    Ended::Run(name, WitnessedEnd { cause: Some(cause), ..WitnessedEnd::default() })
                } else {
                    Ended::Nothing(cause)
                }
            }
        }
    }
}

impl Here<'_> {
    /// Runs the step; returns how it ended and the last thing it complained about.
    fn child(&self, plan: &Path, step: &Step, name: &str) -> std::io::Result<(ExitStatus, Option<String>)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(self.request.command_line(step, Some(plan)))
            .env("FAULTLINE_RUN_NAME", name)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take();
        let listener = std::thread::spawn(move || stderr.map(listen).unwrap_or_default());
        let status = self.attend(&mut child)?;
        Ok((status, listener.join().unwrap_or_default()))
    }

    /// Waits for the child. The user's wish to end reaches it too: it puts its settings back and ends by itself.
    fn attend(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let mut told = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(POLL_INTERVAL);
            if self.interrupt.is_set() && !told {
                // One that is gone already needs no signal.
                let _ = rustix::process::kill_process(
                    rustix::process::Pid::from_child(child),
                    rustix::process::Signal::TERM,
                );
                told = true;
            }
        }
    }
}

/// Passes on what a child says, and returns its last error.
fn listen(stderr: impl std::io::Read) -> Option<String> {
    let mut last = None;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        eprintln!("{line}");
        if let Some(error) = line.strip_prefix("faultline: ") {
            last = Some(error.to_owned());
        }
    }
    last
}

fn how(status: ExitStatus, said: Option<String>) -> String {
    match (status.code(), status.signal(), said) {
        (_, Some(signal), _) => format!("the runner was killed by signal {signal}"),
        (_, None, Some(said)) => format!("the runner gave up: {said}"),
        (code, None, None) => format!("the runner ended with exit code {}", code.unwrap_or(HARNESS.into())),
    }
}
