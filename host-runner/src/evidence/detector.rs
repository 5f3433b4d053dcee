//! Which lockup detectors this kernel has, whether they are on, and which CPUs they watch.
//!
//! A run on CPUs that nobody watches, or with the detector off, must never pass for want of complaints.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::procfs;

/// State of one detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It watches.
    On,
    /// The kernel has it, and it is switched off.
    Off,
    /// This kernel or machine has none (hard lockups on arm64 before v6.5): silence of it means nothing.
    NotAvailable,
    /// Nobody looked: the run died before it could.
    Unknown,
}

/// The kernel's lockup detectors as they are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detector {
    /// The soft lockup detector.
    pub soft: State,
    /// The hard lockup detector.
    pub hard: State,
    /// `kernel.watchdog_thresh` in seconds; soft lockups are reported after twice this time.
    pub thresh_s: Option<u32>,
    /// The CPUs watched.
    pub cpus: Vec<usize>,
    /// A soft lockup panics this machine.
    pub softlockup_panic: bool,
    /// A warning panics this machine.
    pub panic_on_warn: bool,
    /// `kernel.hung_task_timeout_secs`; 0 means off.
    pub hung_task_timeout_s: Option<u32>,
    /// `kernel.hung_task_warnings`: reports left; -1 means without end.
    pub hung_task_warnings: Option<i64>,
    /// The event counters of this kernel.
    pub counters: Counters,
}

/// Event counters that newer kernels keep; absent where the kernel has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// `/sys/kernel/softlockup_count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub soft_lockups: Option<u64>,
    /// `/sys/kernel/hardlockup_count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hard_lockups: Option<u64>,
    /// `/sys/kernel/rcu_stall_count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rcu_stalls: Option<u64>,
    /// `kernel.hung_task_detect_count`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hung_tasks: Option<u64>,
}

/// Why soft lockups on some CPU would go unseen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWatched {
    /// The kernel has no soft lockup detector.
    #[error("this kernel has no soft lockup detector (CONFIG_SOFTLOCKUP_DETECTOR)")]
    NotAvailable,
    /// It is switched off.
    #[error("the soft lockup detector is off; switch it on with `sysctl kernel.watchdog=1 kernel.soft_watchdog=1`")]
    Off,
    /// A threshold of zero switches everything off.
    #[error("kernel.watchdog_thresh is 0, which switches the detectors off; set it to 1 or more")]
    NoThreshold,
    /// Some CPU in use is left out.
    #[error("the lockup detector does not watch CPU {0}; see kernel.watchdog_cpumask, isolcpus= and nohz_full=")]
    Cpu(usize),
}

impl Detector {
    /// Reads the state below `root`, which is `/` but for tests.
    pub fn read(root: &Path) -> Self {
        let on = |path: &str| match procfs::read_number::<i64>(root, path) {
            Some(0) => State::Off,
            Some(_) => State::On,
            None => State::NotAvailable,
        };
        let sysctl = |name: &str| format!("/proc/sys/kernel/{name}");
        let flag = |name: &str| procfs::read_number::<i64>(root, &sysctl(name)).is_some_and(|value| value != 0);
        let all = on(&sysctl("watchdog"));
        let mut soft = on(&sysctl("soft_watchdog"));
        if all == State::Off && soft == State::On {
            soft = State::Off;
        }
        // The file exists wherever there is any watchdog, and reads 0 where there is no detector behind it.
        let hard = match on(&sysctl("nmi_watchdog")) {
            State::Off if !has_hard_detector(root) => State::NotAvailable,
            _ if all == State::NotAvailable => State::NotAvailable,
            state => state,
        };
        Self {
            soft,
            hard,
            thresh_s: procfs::read_number(root, &sysctl("watchdog_thresh")),
            cpus: procfs::read(root, &sysctl("watchdog_cpumask"))
                .and_then(|l| procfs::cpu_list(&l))
                .unwrap_or_default(),
            softlockup_panic: flag("softlockup_panic"),
            panic_on_warn: flag("panic_on_warn"),
            hung_task_timeout_s: procfs::read_number(root, &sysctl("hung_task_timeout_secs")),
            hung_task_warnings: procfs::read_number(root, &sysctl("hung_task_warnings")),
            counters: Counters::read(root),
        }
    }

    /// Returns the state of detectors that nobody looked at.
    pub fn unknown() -> Self {
        Self {
            soft: State::Unknown,
            hard: State::Unknown,
            thresh_s: None,
            cpus: Vec::new(),
            softlockup_panic: false,
            panic_on_warn: false,
            hung_task_timeout_s: None,
            hung_task_warnings: None,
            counters: Counters::default(),
        }
    }

    /// Returns the time without scheduling after which a soft lockup is reported, in seconds.
    pub fn soft_threshold_s(&self) -> Option<u32> {
        self.thresh_s.map(|thresh| thresh.saturating_mul(2))
    }

    /// Checks that a soft lockup on any of these CPUs would be seen.
    ///
    /// # Errors
    ///
    /// The reason why one would not.
    pub fn watches(&self, cpus: &[usize]) -> Result<(), NotWatched> {
        match self.soft {
            State::NotAvailable | State::Unknown => return Err(NotWatched::NotAvailable),
            State::Off => return Err(NotWatched::Off),
            State::On => {}
        }
        if self.thresh_s == Some(0) {
            return Err(NotWatched::NoThreshold);
        }
        match cpus.iter().find(|cpu| !self.cpus.contains(cpu)) {
            Some(&cpu) => Err(NotWatched::Cpu(cpu)),
            None => Ok(()),
        }
    }
}

/// Says whether a switched-off `nmi_watchdog` could be switched on: the kernel makes the file read-only (0444) when it
/// has no detector, as on arm64 before v6.5.
fn has_hard_detector(root: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(procfs::under(root, "/proc/sys/kernel/nmi_watchdog"))
        .is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0)
}

impl Counters {
    /// Reads the counters below `root`.
    pub fn read(root: &Path) -> Self {
        Self {
            soft_lockups: procfs::read_number(root, "/sys/kernel/softlockup_count"),
            hard_lockups: procfs::read_number(root, "/sys/kernel/hardlockup_count"),
            rcu_stalls: procfs::read_number(root, "/sys/kernel/rcu_stall_count"),
            hung_tasks: procfs::read_number(root, "/proc/sys/kernel/hung_task_detect_count"),
        }
    }

    /// Returns how far each counter rose since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let rise = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Self {
            soft_lockups: rise(self.soft_lockups, before.soft_lockups),
            hard_lockups: rise(self.hard_lockups, before.hard_lockups),
            rcu_stalls: rise(self.rcu_stalls, before.rcu_stalls),
            hung_tasks: rise(self.hung_tasks, before.hung_tasks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = procfs::under(root.path(), path);
            fs::create_dir_all(path.parent().expect("files are in directories")).expect("directory");
            fs::write(path, text).expect("file");
        }
        root
    }

    const ON: [(&str, &str); 5] = [
        ("/proc/sys/kernel/watchdog", "1\n"),
        ("/proc/sys/kernel/soft_watchdog", "1\n"),
        ("/proc/sys/kernel/nmi_watchdog", "1\n"),
        ("/proc/sys/kernel/watchdog_thresh", "10\n"),
        ("/proc/sys/kernel/watchdog_cpumask", "0-3\n"),
    ];

    #[test]
    fn watching() {
        let root = machine(&ON);
        let detector = Detector::read(root.path());
        assert_eq!((detector.soft, detector.hard), (State::On, State::On));
        assert_eq!(detector.soft_threshold_s(), Some(20));
        assert_eq!(detector.watches(&[0, 3]), Ok(()));
        assert_eq!(detector.watches(&[0, 4]), Err(NotWatched::Cpu(4)));
    }

    #[test]
    fn not_watching() {
        assert_eq!(Detector::read(machine(&[]).path()).watches(&[0]), Err(NotWatched::NotAvailable));
        for (path, why) in [
            ("/proc/sys/kernel/soft_watchdog", NotWatched::Off),
            ("/proc/sys/kernel/watchdog", NotWatched::Off),
            ("/proc/sys/kernel/watchdog_thresh", NotWatched::NoThreshold),
        ] {
            let root = machine(&ON);
            fs::write(procfs::under(root.path(), path), "0\n").expect("file");
            assert_eq!(Detector::read(root.path()).watches(&[0]), Err(why), "{path}");
        }
    }

    #[test]
    fn counters_rise() {
        let root = machine(&[("/sys/kernel/softlockup_count", "5\n")]);
        let before = Counters::read(root.path());
        let after = Counters { soft_lockups: Some(7), ..before };
        assert_eq!(after.since(&before), Counters { soft_lockups: Some(2), ..Counters::default() });
    }

    #[test]
    fn no_hard_detector_is_not_off() {
        use std::os::unix::fs::PermissionsExt;
        let root = machine(&ON);
        let path = procfs::under(root.path(), "/proc/sys/kernel/nmi_watchdog");
        fs::write(&path, "0\n").expect("file");
        assert_eq!(Detector::read(root.path()).hard, State::Off);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("mode");
        assert_eq!(Detector::read(root.path()).hard, State::NotAvailable);
    }
}
