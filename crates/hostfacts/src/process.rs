//! Facts about processes and threads.

use std::path::Path;

use crate::procfs;

/// Returns the id and the name of each thread of this process.
pub fn threads() -> Vec<(u32, String)> {
    const TASKS: &str = "/proc/self/task";
    let root = Path::new("/");
    procfs::file_names(root, TASKS)
        .filter_map(|id| Some((id.parse().ok()?, procfs::read(root, &format!("{TASKS}/{id}/comm"))?)))
        .collect()
}

/// Returns the largest resident set that this process has had, in KiB.
pub fn peak_resident_kib() -> Option<u64> {
    procfs::read_kib(Path::new("/"), "/proc/self/status", "VmHWM")
}

/// Returns whether a process with this id exists.
pub(crate) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Returns the name of a signal. That of a filter of system calls says what sent it.
pub fn signal_name(signal: i32) -> String {
    let name = signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned);
    if signal == libc::SIGSYS { format!("{name}: a seccomp filter forbids one of its system calls") } else { name }
}

/// Kills a child and all processes of its group, which it leads.
pub fn kill_group(child: &std::process::Child) {
    // The group is gone if the child has just ended.
    let _ = rustix::process::kill_process_group(rustix::process::Pid::from_child(child), rustix::process::Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_thread_is_found() {
        let named = std::thread::Builder::new().name("vcpu-3".into());
        let found = named.spawn(|| threads().into_iter().any(|(_, name)| name == "vcpu-3")).expect("a thread");
        assert!(found.join().expect("it ends"));
    }
}
