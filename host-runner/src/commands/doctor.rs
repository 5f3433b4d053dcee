//! `faultline doctor`: checks if this machine can show the lockup. Changes nothing.

use std::io::{self, Write};

use hostfacts::kmsg::Kmsg;
use hostfacts::trace;
use record::machine::Machine;
use report::table::{folded_at, prose};
use scenarios::inspection::{CpuKind, Kvm};

use crate::doctor::{Diagnosis, Facts, Readiness, State, judge};
use crate::failure::{CommandResult, Failure};

/// Arguments of `faultline doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command. The exit code is 0 if the machine is ready, 1 if something must be fixed first, and 4 if the machine
/// cannot show the lockup.
///
/// # Errors
///
/// If the diagnosis cannot be printed.
pub fn run(args: &Args) -> CommandResult {
    let diagnosis = judge(&gather());
    let mut out = io::stdout().lock();
    let printed = if args.json {
        serde_json::to_writer_pretty(&mut out, &diagnosis).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        print(&mut out, &diagnosis)
    };
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::harness(error)),
        _ => Ok(diagnosis.outcome.exit_code()),
    }
}

fn print(out: &mut impl Write, diagnosis: &Diagnosis) -> io::Result<()> {
    for check in &diagnosis.checks {
        let sign = match check.state {
            State::Ok => "ok",
            State::Note => "--",
            State::Warning => "warn",
            State::Fix => "FIX",
            State::CannotShow => "NO",
        };
        for line in folded_at(&format!("{sign:>4}  {:<12}  {}", check.name, check.text), 20) {
            writeln!(out, "{line}")?;
        }
        if let Some(command) = &check.command {
            writeln!(out, "{:20}$ {command}", "")?;
        }
    }
    let word = match diagnosis.outcome {
        Readiness::Ready => "READY",
        Readiness::NeedsFix => "NEEDS A FIX",
        Readiness::CannotShow => "CANNOT SHOW THE LOCKUP",
    };
    writeln!(out)?;
    prose(out, &format!("{word}: {}", diagnosis.reason))
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
    let image = crate::build_info::BUILD.payload;
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

/// Returns the command that makes tracing available, if there is one.
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
    fn the_diagnosis_of_this_machine_has_no_words_of_log_scanners() {
        let diagnosis = judge(&gather());
        let mut out = Vec::new();
        print(&mut out, &diagnosis).expect("memory can be written to");
        let text = String::from_utf8(out).expect("text");
        assert!(!text.contains("WARNING:") && !text.contains("BUG:"), "{text}");
        if cfg!(not(target_arch = "aarch64")) {
            assert_eq!(diagnosis.outcome.exit_code(), 4, "{text}");
            assert!(text.contains("faultline reproduce"), "{text}");
        }
    }
}
