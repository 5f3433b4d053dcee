//! On which of the machine's CPUs a thread may run.

use std::io;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Returns the CPUs that this thread may run on; the first one if the kernel does not say.
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Keeps a thread, this one if none is given, on one CPU. Async-signal-safe, so that a child may call it before exec.
///
/// # Errors
///
/// What sched_setaffinity(2) said; the CPU may have gone offline.
pub fn pin(thread: Option<Pid>, cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(thread, &set)?)
}
