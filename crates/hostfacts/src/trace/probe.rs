//! A pair of kprobe events on one maintenance function: its entry with the size, and its return.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::trace::tracefs;

/// Probes on one function. A drop removes them.
#[derive(Debug)]
pub struct Probe {
    root: PathBuf,
    group: String,
    name: &'static str,
}

impl Probe {
    /// Defines `group/name` and `group/name_ret` on the first of `routines` that accepts a probe.
    ///
    /// # Errors
    ///
    /// The reason of each routine's refusal, as text for the result.
    pub fn define(root: &Path, group: &str, name: &'static str, routines: &[&str]) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for routine in routines {
            match define_pair(root, group, name, routine) {
                Ok(()) => return Ok(Self { root: root.into(), group: group.into(), name }),
                Err(error) => reasons.push(format!("{routine}: {}", explain(&error))),
            }
        }
        Err(reasons.join("; "))
    }

    /// Enables both events in a tracing instance.
    ///
    /// # Errors
    ///
    /// The event that could not be enabled, and the reason.
    pub fn enable(&self, instance: &Path) -> Result<(), String> {
        for event in [self.name.to_owned(), self.return_name()] {
            let path = instance.join("events").join(&self.group).join(&event).join("enable");
            tracefs::write(&path, "1").map_err(|error| format!("cannot enable {event}: {error}"))?;
        }
        Ok(())
    }

    /// Returns the number of hits that the kernel missed. Columns of `kprobe_profile`: name, hits, misses.
    pub fn missed(&self) -> u64 {
        let own = [self.name.to_owned(), self.return_name()];
        let profile = fs::read_to_string(self.root.join("kprobe_profile")).unwrap_or_default();
        profile
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|columns| columns.len() == 3 && own.iter().any(|name| name == columns[0]))
            .filter_map(|columns| columns[2].parse::<u64>().ok())
            .sum()
    }

    fn return_name(&self) -> String {
        format!("{}_ret", self.name)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        for event in [self.return_name(), self.name.to_owned()] {
            remove(&self.root, &format!("{}/{event}", self.group));
        }
    }
}

/// Defines both events, or neither. The size is the second argument of each routine, in x1 (AAPCS64).
fn define_pair(root: &Path, group: &str, name: &str, routine: &str) -> io::Result<()> {
    let events = root.join("kprobe_events");
    tracefs::write(&events, &format!("p:{group}/{name} {routine} size=%x1:x64\n"))?;
    tracefs::write(&events, &format!("r:{group}/{name}_ret {routine}\n"))
        .inspect_err(|_| remove(root, &format!("{group}/{name}")))
}

/// Removes one probe event. After a failure, the clean-up at the next start tries again.
pub fn remove(root: &Path, name: &str) {
    let _ = tracefs::write(&root.join("kprobe_events"), &format!("-:{name}\n"));
}

/// Returns `group/event` of a line of `kprobe_events`, such as `r4:group/event symbol`.
pub fn name_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(':')?;
    rest.split_whitespace().next()
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such function here, or it is inlined".into(),
        Some(libc::EINVAL) => "cannot be probed".into(),
        Some(libc::EADDRNOTAVAIL) => "more than one function has this name".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(
            name_of("p:faultline_7/icache invalidate_icache_guest_page size=%x1:x64"),
            Some("faultline_7/icache")
        );
        assert_eq!(name_of("r4:faultline_7/icache_ret f"), Some("faultline_7/icache_ret"));
        assert_eq!(name_of(""), None);
    }
}
