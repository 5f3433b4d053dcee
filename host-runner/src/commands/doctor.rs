//! `faultline doctor`: what this machine can and cannot show. Changes nothing.

use std::io::{self, Write};

use crate::answer::{Failure, Outcome};
use scenarios::inspection::{CpuKind, Kvm};

use crate::doctor::{Answer, Facts, State, judge};
use hostfacts::kmsg::Kmsg;
use hostfacts::trace;
use record::machine::Machine;

/// How to print.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks, judges, prints. Exit codes: 0 ready, 1 something to set right first, 4 the bug cannot be seen here.
///
/// # Errors
///
/// If the answer cannot be printed.
pub fn run(args: &Args) -> Outcome {
    let answer = judge(&gather());
    let mut out = io::stdout().lock();
    let printed = if args.json {
        serde_json::to_writer_pretty(&mut out, &answer).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        print(&mut out, &answer)
    };
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::harness(error)),
        _ => Ok(answer.outcome.exit_code()),
    }
}

fn print(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    for check in &answer.checks {
        let sign = match check.state {
            State::Ok => "ok",
            State::Note => "--",
            State::Warning => "warn",
            State::Fix => "FIX",
            State::CannotShow => "NO",
        };
        writeln!(out, "{sign:>4}  {:<12}  {}", check.name, check.text)?;
        if let Some(command) = &check.command {
            writeln!(out, "{:20}$ {command}", "")?;
        }
    }
    let word = match answer.outcome {
        crate::doctor::Outcome::Ready => "READY",
        crate::doctor::Outcome::NeedsFix => "NEEDS A FIX",
        crate::doctor::Outcome::CannotShow => "CANNOT SHOW THE LOCKUP",
    };
    writeln!(out, "\n{word}: {}", answer.reason)
}

fn gather() -> Facts {
    let machine = hostfacts::machine::read();
    let (kvm, cpu_kinds) = kvm(&machine);
    Facts {
        detector: hostfacts::detector::read(),
        kvm,
        cpu_kinds,
        tracing: trace::survey().map_err(|absent| (absent.to_string(), remedy(&absent))),
        no_kernel_log: Kmsg::open().err().map(|error| error.to_string()),
        dangers: hostfacts::dangers::read(),
        nohz_full: hostfacts::machine::nohz_full_cpus(),
        machine,
    }
}

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
fn kvm(machine: &Machine) -> (Kvm, Vec<CpuKind>) {
    use scenarios::runner::inspect;
    let kvm = inspect::kvm();
    let image = crate::build::BUILD.payload;
    let kinds = match &kvm {
        Kvm::Present(_) if image.is_empty() => {
            let why = scenarios::runner::session::Error::NoPayload.to_string();
            vec![CpuKind { midr: None, cpus: machine.cpus_online.clone(), guest: Err(why) }]
        }
        Kvm::Present(_) => inspect::cpu_kinds(machine, image),
        _ => Vec::new(),
    };
    (kvm, kinds)
}

#[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
fn kvm(_: &Machine) -> (Kvm, Vec<CpuKind>) {
    (Kvm::OtherArchitecture, Vec::new())
}

fn remedy(absent: &trace::Absent) -> Option<String> {
    match absent {
        trace::Absent::NoTracefs(path) => Some(format!("mount -t tracefs tracefs {path}")),
        trace::Absent::NoPermission(_) => Some("sudo faultline run …".into()),
        trace::Absent::NoTracepoint(_) | trace::Absent::Io { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_gets_an_answer_without_scanner_words() {
        let answer = judge(&gather());
        let mut out = Vec::new();
        print(&mut out, &answer).expect("memory can be written to");
        let text = String::from_utf8(out).expect("text");
        assert!(!text.contains("WARNING:") && !text.contains("BUG:"), "{text}");
        if cfg!(not(target_arch = "aarch64")) {
            assert_eq!(answer.outcome.exit_code(), 4, "{text}");
            assert!(text.contains("faultline reproduce"), "{text}");
        }
    }
}
