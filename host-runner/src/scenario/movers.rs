//! Moving vCPUs to other CPUs while they run.

use std::collections::HashMap;
use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::observer::vcpu_threads;

/// The threads that run vCPUs, and the CPUs they may run on.
pub struct Movers {
    threads: HashMap<u32, u64>,
    cpus: Vec<usize>,
    moves: u64,
}

impl Movers {
    /// Returns those of this process.
    pub fn new() -> Self {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
        Self { threads: vcpu_threads(), cpus, moves: 0 }
    }

    /// Has every vCPU go on on the next CPU, so that each still has one for itself.
    ///
    /// # Errors
    ///
    /// If there is one CPU only, or the kernel refuses.
    pub fn rotate(&mut self) -> io::Result<()> {
        if self.cpus.len() < 2 {
            return Err(io::Error::other("there is one CPU only"));
        }
        self.moves += 1;
        for (thread, vcpu) in &self.threads {
            let mut set = CpuSet::new();
            set.set(self.cpus[((vcpu + self.moves) % self.cpus.len() as u64) as usize]);
            sched_setaffinity(Pid::from_raw(*thread as i32), &set)?;
        }
        Ok(())
    }
}
