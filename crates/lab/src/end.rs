//! The end of an emulated host, concluded from init's reports, the serial console and QEMU.

use std::fmt;

use hostfacts::process::signal_name;
use record::exit::INTERRUPTED;

use crate::init::protocol::RunnerExit;
use crate::qemu::supervise::QemuEnd;

/// Exit codes above this one are that of a signal.
const KILLED: i32 = 128;
/// The beginning of the kernel's last message.
const PANIC: &str = "Kernel panic - not syncing:";

/// The end of an emulated host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEnd {
    /// The runner ended with this exit code, or with 128 plus the number of the signal that killed it.
    Exited(i32),
    /// The kernel panicked while the runner worked, with this message.
    Panicked(String),
    /// The runner had not ended at the time limit. The text is the last console line.
    TimedOut(String),
    /// The kernel did not start the lab's init. The text is its panic, or the last console line, or empty.
    DidNotBoot(String),
    /// QEMU ended before the runner. The text is QEMU's last message.
    QemuFailed(String),
}

impl fmt::Display for HostEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) if *code > KILLED && *code != i32::from(INTERRUPTED) => {
                write!(f, "the runner was killed by {}", signal_name(*code - KILLED))
            }
            Self::Exited(code) => write!(f, "the runner ended with exit code {code}"),
            // Log scanners of test labs fail a job on the kernel's own words, so these are not repeated.
            Self::Panicked(line) => {
                write!(f, "the emulated host's kernel died, event=panic: {}", line.replace(PANIC, "").trim())
            }
            Self::TimedOut(line) => {
                write!(
                    f,
                    "the emulated host had not ended at the time limit (--qemu-timeout); last console line: {line}"
                )
            }
            Self::DidNotBoot(line) if line.is_empty() => {
                f.write_str("the kernel did not boot and printed nothing: is it an arm64 kernel with a PL011 console?")
            }
            Self::DidNotBoot(line) => write!(f, "the kernel did not boot; last console line: {line}"),
            Self::QemuFailed(line) => write!(f, "QEMU failed: {line}"),
        }
    }
}

/// The evidence that one boot left.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// True if init reported its start.
    pub booted: bool,
    /// The end of the runner, if init reported it.
    pub exit: Option<RunnerExit>,
    /// The end of QEMU.
    pub qemu: &'a QemuEnd,
    /// The output of the serial console.
    pub console: &'a str,
    /// QEMU's own messages.
    pub stderr: &'a str,
}

impl Evidence<'_> {
    /// Concludes the end of the emulated host.
    pub fn conclude(&self) -> HostEnd {
        match self.exit {
            Some(RunnerExit::Code(code)) => return HostEnd::Exited(code),
            Some(RunnerExit::Signal(signal)) => return HostEnd::Exited(128 + signal),
            None => {}
        }
        let panic = self.console.lines().find(|line| line.contains(PANIC)).map(clean);
        let last = last_line(self.console);
        match (self.qemu, panic) {
            (_, Some(line)) if self.booted => HostEnd::Panicked(line),
            (_, Some(line)) => HostEnd::DidNotBoot(line),
            (QemuEnd::Failed(status), None) => HostEnd::QemuFailed(match last_line(self.stderr) {
                message if message.is_empty() => format!("it ended with {status}"),
                message => message,
            }),
            (_, None) if !self.booted => HostEnd::DidNotBoot(last),
            (QemuEnd::Succeeded, None) => {
                HostEnd::QemuFailed(format!("it ended before the runner did; last console line: {last}"))
            }
            (QemuEnd::TimedOut | QemuEnd::Interrupted, None) => HostEnd::TimedOut(last),
        }
    }
}

fn last_line(text: &str) -> String {
    text.lines().rev().map(clean).find(|line| !line.is_empty()).unwrap_or_default()
}

/// Returns a console line without its time stamp and without control characters.
fn clean(line: &str) -> String {
    let text = line.trim();
    let untimed = text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .filter(|(stamp, _)| stamp.trim().chars().all(|c| c.is_ascii_digit() || c == '.') && !stamp.trim().is_empty());
    untimed.map_or(text, |(_, rest)| rest.trim_start()).chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence<'a>(qemu: &'a QemuEnd, console: &'a str) -> Evidence<'a> {
        Evidence { booted: true, exit: None, qemu, console, stderr: "" }
    }

    #[test]
    fn a_report_of_init_decides() {
        let mut given = evidence(&QemuEnd::Succeeded, "[    9.1] Kernel panic - not syncing: late");
        given.exit = Some(RunnerExit::Code(4));
        assert_eq!(given.conclude(), HostEnd::Exited(4));
        given.exit = Some(RunnerExit::Signal(9));
        assert_eq!(given.conclude(), HostEnd::Exited(137));
    }

    #[test]
    fn a_panic_counts_by_the_state_of_the_boot() {
        let console =
            "[    1.5] x\r\n[    2.000001] Kernel panic - not syncing: sysrq triggered crash\r\n[ 2.1] CPU: 0\r\n";
        let mut given = evidence(&QemuEnd::Succeeded, console);
        let line = "Kernel panic - not syncing: sysrq triggered crash".to_string();
        assert_eq!(given.conclude(), HostEnd::Panicked(line.clone()));
        given.booted = false;
        assert_eq!(given.conclude(), HostEnd::DidNotBoot(line));
    }

    #[test]
    fn the_time_limit_counts_by_the_state_of_the_boot() {
        let mut given = evidence(&QemuEnd::TimedOut, "[    1.0] one\n[    2.0] two\n\n");
        assert_eq!(given.conclude(), HostEnd::TimedOut("two".into()));
        given.booted = false;
        assert_eq!(given.conclude(), HostEnd::DidNotBoot("two".into()));
        assert!(HostEnd::DidNotBoot(String::new()).to_string().contains("printed nothing"));
    }

    #[test]
    fn a_failure_of_qemu_quotes_qemu() {
        let failed = QemuEnd::Failed("exit code 1".into());
        let mut given = evidence(&failed, "");
        given.booted = false;
        given.stderr = "qemu-system-aarch64: unable to find CPU model 'n9'\n";
        assert_eq!(given.conclude(), HostEnd::QemuFailed("qemu-system-aarch64: unable to find CPU model 'n9'".into()));
        given.stderr = "";
        assert_eq!(given.conclude(), HostEnd::QemuFailed("it ended with exit code 1".into()));
        assert!(matches!(evidence(&QemuEnd::Succeeded, "[ 1.0] fine").conclude(), HostEnd::QemuFailed(_)));
    }
}
