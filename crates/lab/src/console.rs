//! What a serial console and a few other signs say about how a guest ended.

use std::fmt;

use crate::guest::ExitMark;
use crate::qemu::Ending;

const PANIC: &str = "Kernel panic - not syncing:";

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestExit {
    /// The runner ended by itself, with this exit code (128 + the signal, where one killed it).
    Exited(i32),
    /// The guest's kernel panicked while the runner worked; the line says why.
    Panicked(String),
    /// The runner had not ended at the time limit; the last console line.
    TimedOut(String),
    /// The kernel never came as far as the lab's init; its panic or the last console line, if it printed any.
    DidNotBoot(String),
    /// The emulator ended although the guest had not; its last message.
    QemuFailed(String),
}

impl fmt::Display for GuestExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "the runner ended with exit code {code}"),
            // Scanners of lab output take the kernel's own words for a failure of the lab.
            Self::Panicked(line) => write!(f, "the guest kernel died, event=panic: {}", line.replace(PANIC, "").trim()),
            Self::TimedOut(line) => {
                write!(f, "the guest had not ended at the time limit (--qemu-timeout); last console line: {line}")
            }
            Self::DidNotBoot(line) if line.is_empty() => {
                f.write_str("the kernel did not boot and printed nothing: is it an arm64 kernel with a PL011 console?")
            }
            Self::DidNotBoot(line) => write!(f, "the kernel did not boot; last console line: {line}"),
            Self::QemuFailed(line) => write!(f, "QEMU failed: {line}"),
        }
    }
}

/// The signs left behind by one boot.
#[derive(Debug)]
pub struct Signs<'a> {
    /// Whether init said hello.
    pub booted: bool,
    /// Init's word on the runner.
    pub exit: Option<ExitMark>,
    /// How QEMU ended.
    pub ending: &'a Ending,
    /// The serial console.
    pub console: &'a str,
    /// QEMU's own messages.
    pub stderr: &'a str,
}

/// Decides how a guest ended.
pub fn classify(signs: &Signs<'_>) -> GuestExit {
    match signs.exit {
        Some(ExitMark::Code(code)) => return GuestExit::Exited(code),
        Some(ExitMark::Signal(signal)) => return GuestExit::Exited(128 + signal),
        None => {}
    }
    let panic = signs.console.lines().find(|line| line.contains(PANIC)).map(clean);
    let last = last_line(signs.console);
    match (signs.ending, panic) {
        (_, Some(line)) if signs.booted => GuestExit::Panicked(line),
        (_, Some(line)) => GuestExit::DidNotBoot(line),
        (Ending::Exited { success: false, status }, None) => GuestExit::QemuFailed(match last_line(signs.stderr) {
            message if message.is_empty() => format!("it ended with {status}"),
            message => message,
        }),
        (_, None) if !signs.booted => GuestExit::DidNotBoot(last),
        (Ending::Exited { .. }, None) => {
            GuestExit::QemuFailed(format!("it ended before the runner did; last console line: {last}"))
        }
        (Ending::TimedOut | Ending::Interrupted, None) => GuestExit::TimedOut(last),
    }
}

fn last_line(text: &str) -> String {
    text.lines().rev().map(clean).find(|line| !line.is_empty()).unwrap_or_default()
}

/// Returns a console line without the kernel's time stamp and without control characters.
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

    static EXITED: Ending = Ending::Exited { success: true, status: String::new() };

    fn signs<'a>(ending: &'a Ending, console: &'a str) -> Signs<'a> {
        Signs { booted: true, exit: None, ending, console, stderr: "" }
    }

    #[test]
    fn init_has_the_first_word() {
        let mut given = signs(&EXITED, "[    9.1] Kernel panic - not syncing: late");
        given.exit = Some(ExitMark::Code(4));
        assert_eq!(classify(&given), GuestExit::Exited(4));
        given.exit = Some(ExitMark::Signal(9));
        assert_eq!(classify(&given), GuestExit::Exited(137));
    }

    #[test]
    fn panic_before_and_after_init() {
        let console =
            "[    1.5] x\r\n[    2.000001] Kernel panic - not syncing: sysrq triggered crash\r\n[ 2.1] CPU: 0\r\n";
        let mut given = signs(&EXITED, console);
        let line = "Kernel panic - not syncing: sysrq triggered crash".to_string();
        assert_eq!(classify(&given), GuestExit::Panicked(line.clone()));
        given.booted = false;
        assert_eq!(classify(&given), GuestExit::DidNotBoot(line));
    }

    #[test]
    fn time_limit_before_and_after_init() {
        let mut given = signs(&Ending::TimedOut, "[    1.0] one\n[    2.0] two\n\n");
        assert_eq!(classify(&given), GuestExit::TimedOut("two".into()));
        given.booted = false;
        assert_eq!(classify(&given), GuestExit::DidNotBoot("two".into()));
        assert!(GuestExit::DidNotBoot(String::new()).to_string().contains("printed nothing"));
    }

    #[test]
    fn emulator_failures_quote_the_emulator() {
        let ending = Ending::Exited { success: false, status: "exit code 1".into() };
        let mut given = signs(&ending, "");
        given.booted = false;
        given.stderr = "qemu-system-aarch64: unable to find CPU model 'n9'\n";
        assert_eq!(
            classify(&given),
            GuestExit::QemuFailed("qemu-system-aarch64: unable to find CPU model 'n9'".into())
        );
        given.stderr = "";
        assert_eq!(classify(&given), GuestExit::QemuFailed("it ended with exit code 1".into()));
        assert!(matches!(classify(&signs(&EXITED, "[ 1.0] fine")), GuestExit::QemuFailed(_)));
    }
}
