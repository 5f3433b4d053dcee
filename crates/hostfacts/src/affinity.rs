//! The CPUs on which a thread may run.

use std::io;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Returns the CPUs on which this thread may run, or CPU 0 if the kernel does not tell.
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Pins a thread, or this one if `thread` is `None`, to one CPU.
///
/// The function is async-signal-safe, so a child may call it between fork and exec.
///
/// # Errors
///
/// The error of sched_setaffinity(2), for example because the CPU went offline.
pub fn pin(thread: Option<Pid>, cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(thread, &set)?)
}
