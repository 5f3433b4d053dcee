//! `faultline doctor`: checks if this machine can show the lockup. Changes nothing.

use std::io::{self, Write};
use std::path::Path;

use hostfacts::kmsg::Kmsg;
use hostfacts::{procfs, trace};
use record::machine::Machine;
use scenarios::inspection::{CpuKind, Kvm};

use crate::doctor::{Dangers, Diagnosis, Facts, Readiness, State, judge};
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
        writeln!(out, "{sign:>4}  {:<12}  {}", check.name, check.text)?;
        if let Some(command) = &check.command {
            writeln!(out, "{:20}$ {command}", "")?;
        }
    }
    let word = match diagnosis.outcome {
        Readiness::Ready => "READY",
        Readiness::NeedsFix => "NEEDS A FIX",
        Readiness::CannotShow => "CANNOT SHOW THE LOCKUP",
    };
    writeln!(out, "\n{word}: {}", diagnosis.reason)
}

fn gather() -> Facts {
    let root = Path::new("/");
    let machine = hostfacts::machine::read(hostfacts::kmsg::boot_log().as_deref());
    let (kvm, cpu_kinds) = kvm(&machine);
    Facts {
        detector: hostfacts::detector::read(root),
        kvm,
        cpu_kinds,
        tracing: trace::survey().map_err(|absent| (absent.to_string(), remedy(&absent))),
        no_kernel_log: Kmsg::open().err().map(|error| error.to_string()),
        dangers: dangers(root),
        nohz_full: procfs::read(root, "/sys/devices/system/cpu/nohz_full")
            .and_then(|list| procfs::cpu_list(&list))
            .unwrap_or_default(),
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

/// Names of the sysctls below `kernel.` that turn a complaint into a panic.
const PANICS: [&str; 5] =
    ["softlockup_panic", "hardlockup_panic", "hung_task_panic", "panic_on_rcu_stall", "panic_on_warn"];

fn dangers(root: &Path) -> Dangers {
    let sysctl = |name: &str| procfs::read_number::<i64>(root, &format!("/proc/sys/kernel/{name}"));
    Dangers {
        panics: PANICS.iter().filter(|name| sysctl(name).unwrap_or(0) != 0).map(|name| (*name).into()).collect(),
        reboot_after_panic_s: sysctl("panic").unwrap_or(0),
        watchdogs: watchdogs(root),
    }
}

/// Describes the hardware watchdogs in `/sys/class/watchdog`. Opening `/dev/watchdog0` would start it.
fn watchdogs(root: &Path) -> Vec<String> {
    const CLASS: &str = "/sys/class/watchdog";
    let entries = std::fs::read_dir(procfs::under(root, CLASS)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
        .iter()
        .map(|name| {
            let field = |file: &str| procfs::read(root, &format!("{CLASS}/{name}/{file}"));
            let what = field("identity").map(|identity| format!(" ({identity})")).unwrap_or_default();
            let state = field("state").map(|state| format!(", {state}")).unwrap_or_default();
            let timeout = field("timeout").map(|timeout| format!(", resets after {timeout} s")).unwrap_or_default();
            format!("/dev/{name}{what}{state}{timeout}")
        })
        .collect()
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

    #[test]
    fn dangers_are_read_from_sysfs() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in [
            ("proc/sys/kernel/softlockup_panic", "1\n"),
            ("proc/sys/kernel/panic_on_warn", "0\n"),
            ("proc/sys/kernel/panic", "10\n"),
            ("sys/class/watchdog/watchdog0/identity", "SBSA\n"),
            ("sys/class/watchdog/watchdog0/timeout", "30\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a file")).expect("directory");
            std::fs::write(path, text).expect("file");
        }
        let found = dangers(root.path());
        assert_eq!((found.panics.as_slice(), found.reboot_after_panic_s), (&["softlockup_panic".to_owned()][..], 10));
        assert_eq!(found.watchdogs, ["/dev/watchdog0 (SBSA), resets after 30 s"]);
    }
}
