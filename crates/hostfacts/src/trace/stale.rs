//! Removal of the instances and probes of dead runs.

use std::fs;
use std::path::Path;

use crate::process;
use crate::trace::{probe, tracefs};

/// Prefix of the names of instances and probe groups; the pid follows.
pub const PREFIX: &str = "faultline_";

/// Removes the instances and probes of dead runs, if this user may. They would make every guest fault slower.
///
/// Call it before this process opens a trace of its own.
pub fn clean_up() {
    if let Ok(root) = tracefs::root() {
        remove_stale(&root);
    }
}

/// Removes the instances and probes of dead runs, and those with this process's pid, which an earlier process had.
pub fn remove_stale(root: &Path) {
    let entries = fs::read_dir(root.join("instances")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| is_stale(name)) {
        let _ = tracefs::write(&root.join("instances").join(&name).join("events/enable"), "0");
        let _ = fs::remove_dir(root.join("instances").join(&name));
    }
    let probes = fs::read_to_string(root.join("kprobe_events")).unwrap_or_default();
    for name in probes.lines().filter_map(probe::name_of).filter(|name| is_stale(name)) {
        probe::remove(root, name);
    }
}

/// Returns whether `faultline_<pid>` or `faultline_<pid>/event` belongs to no live run.
fn is_stale(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('/').next()).and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| pid == std::process::id() || !process::exists(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness() {
        assert!(is_stale("faultline_4294967294"));
        assert!(is_stale("faultline_4294967294/icache"));
        assert!(is_stale(&format!("faultline_{}", std::process::id())));
        for name in ["faultline_1", "other", "faultline_x"] {
            assert!(!is_stale(name), "{name}");
        }
    }
}
