//! A pair of kprobe events: entry with arguments, and return.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Probes on one function, removed on drop.
#[derive(Debug)]
pub(super) struct Probe {
    root: PathBuf,
    group: String,
    name: &'static str,
}

impl Probe {
    /// Creates `group/name` and `group/name_ret` on the first of `symbols` that can be probed.
    ///
    /// # Errors
    ///
    /// Why none of them can, in words for the result.
    pub fn create(root: &Path, group: &str, name: &'static str, symbols: &[&str]) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for symbol in symbols {
            match define(root, group, name, symbol) {
                Ok(()) => return Ok(Self { root: root.into(), group: group.into(), name }),
                Err(error) => reasons.push(format!("{symbol}: {}", explain(&error))),
            }
        }
        Err(reasons.join("; "))
    }

    /// Switches both events on in a tracing instance.
    ///
    /// # Errors
    ///
    /// Why they stay off.
    pub fn enable(&self, instance: &Path) -> Result<(), String> {
        for event in [self.name.to_owned(), self.return_name()] {
            let path = instance.join("events").join(&self.group).join(&event).join("enable");
            crate::trace::write(&path, "1").map_err(|error| format!("cannot enable {event}: {error}"))?;
        }
        Ok(())
    }

    /// Returns how many hits the kernel missed (`kprobe_profile`: name, hits, misses).
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

/// Defines both events, or none. The first two arguments of the function are in x0 and x1 (AAPCS64).
fn define(root: &Path, group: &str, name: &str, symbol: &str) -> io::Result<()> {
    let events = root.join("kprobe_events");
    crate::trace::write(&events, &format!("p:{group}/{name} {symbol} va=%x0:x64 size=%x1:x64\n"))?;
    crate::trace::write(&events, &format!("r:{group}/{name}_ret {symbol}\n"))
        .inspect_err(|_| remove(root, &format!("{group}/{name}")))
}

/// Removes one probe event; a failure leaves it for the next start's clean-up.
pub(super) fn remove(root: &Path, name: &str) {
    let _ = crate::trace::write(&root.join("kprobe_events"), &format!("-:{name}\n"));
}

/// Returns `group/event` of a line of `kprobe_events`, such as `r4:group/event symbol`.
pub(super) fn name_of(line: &str) -> Option<&str> {
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
        assert_eq!(name_of("p:faultline_7/icache invalidate_icache_guest_page va=%x0:x64"), Some("faultline_7/icache"));
        assert_eq!(name_of("r4:faultline_7/icache_ret f"), Some("faultline_7/icache_ret"));
        assert_eq!(name_of(""), None);
    }
}
