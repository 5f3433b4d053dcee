//! The job of the guest: which programs its CPUs run.

use spin::once::Once;

use crate::channel::Channel;

/// Programs that the CPUs run.
#[derive(Clone, Copy)]
pub(crate) enum Programs {
    /// Programs that the host writes to the channel.
    Host {
        channel: Channel,
        /// Address of the doorbell page, which is mapped.
        doorbell: u64,
    },
    /// The built-in program, which each CPU runs on a part of its own of the memory at `base`.
    BuiltIn { base: u64 },
}

/// Number of CPUs, and the programs that they run.
pub(crate) struct Job {
    pub(crate) programs: Programs,
    pub(crate) cpus: usize,
}

impl Job {
    /// Returns the channel, if the host announced one.
    pub(crate) fn channel(&self) -> Option<Channel> {
        match self.programs {
            Programs::Host { channel, .. } => Some(channel),
            Programs::BuiltIn { .. } => None,
        }
    }
}

/// The job. The boot CPU sets it before it starts the others.
pub(crate) static JOB: Once<Job> = Once::new();
