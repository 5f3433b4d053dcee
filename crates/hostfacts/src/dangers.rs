//! Settings and devices by which a run could take the machine down.

use std::path::Path;

use crate::procfs;

/// Settings and devices by which a run could take the machine down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dangers {
    /// Names of the sysctls below `kernel.` that are set and turn a complaint into a panic, such as `softlockup_panic`.
    pub panics: Vec<String>,
    /// `kernel.panic`: time from a panic to the reboot in seconds; 0 if there is no reboot.
    pub reboot_after_panic_s: i64,
    /// Threads of the kernel that take KVM's `mmu_lock` by themselves, such as `kdamond.0`, which looks for young pages.
    pub lock_takers: Vec<String>,
    /// Hardware watchdogs, each with its device, identity, state and timeout.
    pub watchdogs: Vec<String>,
}

/// Names of the sysctls below `kernel.` that turn a complaint into a panic.
const PANICS: [&str; 5] =
    ["softlockup_panic", "hardlockup_panic", "hung_task_panic", "panic_on_rcu_stall", "panic_on_warn"];

/// Reads the dangers of this machine.
pub fn read() -> Dangers {
    read_below(Path::new("/"))
}

/// Finds DAMON's threads, and KSM's if it is switched on.
fn lock_takers(root: &Path) -> Vec<String> {
    let is_process = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    let commands = procfs::file_names(root, "/proc").filter(is_process);
    let names = commands.filter_map(|id| procfs::read(root, &format!("/proc/{id}/comm")));
    let merges = procfs::read_number::<u64>(root, "/sys/kernel/mm/ksm/run") == Some(1);
    let mut found: Vec<_> = names.filter(|name| name.starts_with("kdamond") || (merges && name == "ksmd")).collect();
    found.sort();
    found
}

fn read_below(root: &Path) -> Dangers {
    let sysctl = |name: &str| procfs::read_number::<i64>(root, &format!("/proc/sys/kernel/{name}"));
    Dangers {
        panics: PANICS.iter().filter(|name| sysctl(name).unwrap_or(0) != 0).map(|name| (*name).into()).collect(),
        reboot_after_panic_s: sysctl("panic").unwrap_or(0),
        lock_takers: lock_takers(root),
        watchdogs: watchdogs(root),
    }
}

/// Lists the hardware watchdogs in `/sys/class/watchdog`. To open `/dev/watchdog0` would start that watchdog.
fn watchdogs(root: &Path) -> Vec<String> {
    const CLASS: &str = "/sys/class/watchdog";
    let mut names: Vec<String> = procfs::file_names(root, CLASS).collect();
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
    fn panics_and_watchdogs() {
        let root = procfs::fake_root(&[
            ("/proc/sys/kernel/softlockup_panic", "1\n"),
            ("/proc/sys/kernel/panic_on_warn", "0\n"),
            ("/proc/sys/kernel/panic", "10\n"),
            ("/proc/77/comm", "kdamond.0\n"),
            ("/proc/78/comm", "ksmd\n"),
            ("/sys/class/watchdog/watchdog0/identity", "SBSA\n"),
            ("/sys/class/watchdog/watchdog0/timeout", "30\n"),
        ]);
        let found = read_below(root.path());
        assert_eq!((found.panics.as_slice(), found.reboot_after_panic_s), (&["softlockup_panic".to_owned()][..], 10));
        assert_eq!(found.lock_takers, ["kdamond.0"]);
        assert_eq!(found.watchdogs, ["/dev/watchdog0 (SBSA), resets after 30 s"]);
    }
}
