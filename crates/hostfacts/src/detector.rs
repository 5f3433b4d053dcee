//! The kernel's lockup detectors: their state, their settings and the CPUs that they watch.

use std::path::Path;

use record::detector::{Counters, Detector, State};

use crate::procfs;

/// Reads the state of the lockup detectors.
pub fn read() -> Detector {
    read_below(Path::new("/"))
}

fn read_below(root: &Path) -> Detector {
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
    // The file exists if there is any watchdog. It reads 0 if the kernel has no hard lockup detector.
    let hard = match on(&sysctl("nmi_watchdog")) {
        State::Off if !has_hard_detector(root) => State::NotAvailable,
        _ if all == State::NotAvailable => State::NotAvailable,
        state => state,
    };
    Detector {
        soft,
        hard,
        thresh_s: procfs::read_number(root, &sysctl("watchdog_thresh")),
        cpus: procfs::read_list(root, &sysctl("watchdog_cpumask")),
        softlockup_panic: flag("softlockup_panic"),
        panic_on_warn: flag("panic_on_warn"),
        hung_task_timeout_s: procfs::read_number(root, &sysctl("hung_task_timeout_secs")),
        hung_task_warnings: procfs::read_number(root, &sysctl("hung_task_warnings")),
        counters: counters(root),
    }
}

/// Returns whether an `nmi_watchdog` that is off could be enabled. Without a detector, as on arm64 before v6.5, the
/// kernel makes the file read-only (0444).
fn has_hard_detector(root: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(procfs::under(root, "/proc/sys/kernel/nmi_watchdog"))
        .is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0)
}

fn counters(root: &Path) -> Counters {
    Counters {
        soft_lockups: procfs::read_number(root, "/sys/kernel/softlockup_count"),
        hard_lockups: procfs::read_number(root, "/sys/kernel/hardlockup_count"),
        rcu_stalls: procfs::read_number(root, "/sys/kernel/rcu_stall_count"),
        hung_tasks: procfs::read_number(root, "/proc/sys/kernel/hung_task_detect_count"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::fake_root;
    use record::detector::NotWatched;
    use std::fs;

    const ON: [(&str, &str); 5] = [
        ("/proc/sys/kernel/watchdog", "1\n"),
        ("/proc/sys/kernel/soft_watchdog", "1\n"),
        ("/proc/sys/kernel/nmi_watchdog", "1\n"),
        ("/proc/sys/kernel/watchdog_thresh", "10\n"),
        ("/proc/sys/kernel/watchdog_cpumask", "0-3\n"),
    ];

    #[test]
    fn watching() {
        let root = fake_root(&ON);
        let detector = read_below(root.path());
        assert_eq!((detector.soft, detector.hard), (State::On, State::On));
        assert_eq!(detector.soft_threshold_s(), Some(20));
        assert_eq!(detector.watches(&[0, 3]), Ok(()));
        assert_eq!(detector.watches(&[0, 4]), Err(NotWatched::Cpu(4)));
    }

    #[test]
    fn not_watching() {
        assert_eq!(read_below(fake_root(&[]).path()).watches(&[0]), Err(NotWatched::NotAvailable));
        for (path, why) in [
            ("/proc/sys/kernel/soft_watchdog", NotWatched::Off),
            ("/proc/sys/kernel/watchdog", NotWatched::Off),
            ("/proc/sys/kernel/watchdog_thresh", NotWatched::NoThreshold),
        ] {
            let root = fake_root(&ON);
            fs::write(procfs::under(root.path(), path), "0\n").expect("file");
            assert_eq!(read_below(root.path()).watches(&[0]), Err(why), "{path}");
        }
    }

    #[test]
    fn counters_rise() {
        let root = fake_root(&[("/sys/kernel/softlockup_count", "5\n")]);
        let before = counters(root.path());
        let after = Counters { soft_lockups: Some(7), ..before };
        assert_eq!(after.since(&before), Counters { soft_lockups: Some(2), ..Counters::default() });
    }

    #[test]
    fn no_hard_detector_is_not_off() {
        use std::os::unix::fs::PermissionsExt;
        let root = fake_root(&ON);
        let path = procfs::under(root.path(), "/proc/sys/kernel/nmi_watchdog");
        fs::write(&path, "0\n").expect("file");
        assert_eq!(read_below(root.path()).hard, State::Off);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("mode");
        assert_eq!(read_below(root.path()).hard, State::NotAvailable);
    }
}
