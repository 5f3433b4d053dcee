//! The run of `exec`: one program, in its own process group.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use klog::parser::Parser;
use record::case::CaseResult;
use record::findings::StoredFindings;
use record::journal::Entry;
use record::status::{Status, Verdict};
use record::verdict;

use crate::exec::args::Args;
use crate::exec::findings;
use crate::runner::session::{Build, Error, Finished, Session};

/// Time between two looks at the program and the kernel log.
const INTERVAL: Duration = Duration::from_millis(20);

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut session = Session::begin("exec", &args.common, build)?;
    let program: Vec<_> = args.program.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut found = findings::Findings { program, exit_code: None };
    let mut case = CaseResult::not_run("exec", 0);
    session.journal(&Entry::Case { name: "exec".into(), before: Box::new(case.clone()) })?;
    let mut parser = Parser::new();
    let limit = Duration::from_secs(args.common.time_limit);
    case.verdict = match start(&args.program) {
        Err(error) => Verdict::new(Status::Error, format!("{} did not start: {error}", found.program[0])),
        Ok(mut child) => match wait(&mut child, limit, &mut session, &mut parser)? {
            Some(status) => {
                found.exit_code = status.code();
                judge(&found.program[0], status)
            }
            None => {
                Verdict::new(Status::Timeout, format!("{} ran longer than {} s", found.program[0], limit.as_secs()))
            }
        },
    };
    case.complaints = session.complaints(&mut parser)?;
    case.findings = StoredFindings::of(&found);
    // A program is no evidence about lockups, so it needs no detector that watched.
    verdict::apply_kernel_log(&mut case, session.evidence.kmsg_lost, None);
    session.finish(Vec::new(), vec![case])
}

fn start(program: &[OsString]) -> std::io::Result<Child> {
    // Its output goes the way of the runner's own.
    Command::new(&program[0]).args(&program[1..]).stdin(Stdio::null()).process_group(0).spawn()
}

/// Waits for the program, and follows the kernel log meanwhile. Returns none if it runs too long or the user interrupts.
fn wait(
    child: &mut Child,
    limit: Duration,
    session: &mut Session,
    parser: &mut Parser,
) -> Result<Option<ExitStatus>, Error> {
    let began = Instant::now();
    loop {
        session.read_kmsg(parser)?;
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Some(status)),
            _ if began.elapsed() >= limit || session.interrupted() => {
                hostfacts::process::kill_group(child);
                let _ = child.wait();
                return Ok(None);
            }
            _ => std::thread::sleep(INTERVAL),
        }
    }
}

fn judge(program: &str, status: ExitStatus) -> Verdict {
    match (status.code(), status.signal()) {
        (Some(0), _) => Verdict::new(Status::Pass, format!("{program} ended with 0")),
        (Some(code), _) => Verdict::new(Status::Fail, format!("{program} ended with {code}")),
        (None, signal) => {
            let name = hostfacts::process::signal_name(signal.unwrap_or(0));
            Verdict::new(Status::Fail, format!("{program} was killed by {name}"))
        }
    }
}
