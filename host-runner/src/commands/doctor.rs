//! `faultline doctor`: what this machine can and cannot show. Changes nothing.

use std::io::{self, Write};
use std::path::Path;

use crate::answer::{Failure, Outcome};
use scenarios::inspection::{CpuKind, Kvm};

use crate::doctor::{Answer, Dangers, Facts, State, judge};
use hostfacts::kmsg::Kmsg;
use hostfacts::procfs;
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

/// Settings that turn what the tool provokes into a panic, below `kernel.`.
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

/// Lists hardware watchdogs by `/sys/class/watchdog`: opening `/dev/watchdog0` would start it.
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

    #[test]
    fn what_could_take_a_machine_down() {
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
