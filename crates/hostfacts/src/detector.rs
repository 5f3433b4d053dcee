//! Reads which lockup detectors this kernel has, whether they are on, and which CPUs they watch.

use std::path::Path;

use record::detector::{Counters, Detector, State};

use crate::procfs;

/// Reads the state below `root`, which is `/` but for tests.
pub fn read(root: &Path) -> Detector {
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
    Detector {
        soft,
        hard,
        thresh_s: procfs::read_number(root, &sysctl("watchdog_thresh")),
        cpus: procfs::read(root, &sysctl("watchdog_cpumask")).and_then(|l| procfs::cpu_list(&l)).unwrap_or_default(),
        softlockup_panic: flag("softlockup_panic"),
        panic_on_warn: flag("panic_on_warn"),
        hung_task_timeout_s: procfs::read_number(root, &sysctl("hung_task_timeout_secs")),
        hung_task_warnings: procfs::read_number(root, &sysctl("hung_task_warnings")),
        counters: counters(root),
    }
}

/// Says whether a switched-off `nmi_watchdog` could be switched on: the kernel makes the file read-only (0444) when it
/// has no detector, as on arm64 before v6.5.
fn has_hard_detector(root: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(procfs::under(root, "/proc/sys/kernel/nmi_watchdog"))
        .is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0)
}

/// Reads the counters below `root`.
pub fn counters(root: &Path) -> Counters {
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
    use record::detector::NotWatched;
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
        let detector = read(root.path());
        assert_eq!((detector.soft, detector.hard), (State::On, State::On));
        assert_eq!(detector.soft_threshold_s(), Some(20));
        assert_eq!(detector.watches(&[0, 3]), Ok(()));
        assert_eq!(detector.watches(&[0, 4]), Err(NotWatched::Cpu(4)));
    }

    #[test]
    fn not_watching() {
        assert_eq!(read(machine(&[]).path()).watches(&[0]), Err(NotWatched::NotAvailable));
        for (path, why) in [
            ("/proc/sys/kernel/soft_watchdog", NotWatched::Off),
            ("/proc/sys/kernel/watchdog", NotWatched::Off),
            ("/proc/sys/kernel/watchdog_thresh", NotWatched::NoThreshold),
        ] {
            let root = machine(&ON);
            fs::write(procfs::under(root.path(), path), "0\n").expect("file");
            assert_eq!(read(root.path()).watches(&[0]), Err(why), "{path}");
        }
    }

    #[test]
    fn counters_rise() {
        let root = machine(&[("/sys/kernel/softlockup_count", "5\n")]);
        let before = counters(root.path());
        let after = Counters { soft_lockups: Some(7), ..before };
        assert_eq!(after.since(&before), Counters { soft_lockups: Some(2), ..Counters::default() });
    }

    #[test]
    fn no_hard_detector_is_not_off() {
        use std::os::unix::fs::PermissionsExt;
        let root = machine(&ON);
        let path = procfs::under(root.path(), "/proc/sys/kernel/nmi_watchdog");
        fs::write(&path, "0\n").expect("file");
        assert_eq!(read(root.path()).hard, State::Off);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("mode");
        assert_eq!(read(root.path()).hard, State::NotAvailable);
    }
}
