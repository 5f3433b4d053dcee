//! Secondary CPUs: their start, and the wait for all CPUs to finish.

use core::sync::atomic::{AtomicUsize, Ordering};

use abi::channel::MAX_VCPUS;

use crate::{asm, psci};

/// Number of CPUs that have finished.
static DONE: AtomicUsize = AtomicUsize::new(0);

/// Starts CPUs 1 to `cpus` − 1 of the device tree at the physical address `entry_pa`, each with its index in x0.
///
/// Returns the number of CPUs that PSCI refused to start.
pub(crate) fn start(affinities: &[u64; MAX_VCPUS], cpus: usize, entry_pa: u64) -> usize {
    let mut refused = 0;
    for (index, affinity) in affinities.iter().enumerate().take(cpus).skip(1) {
        if let Err(error) = psci::cpu_on(*affinity, entry_pa, index as u64) {
            log::error!("cpu {index} does not start: {error}");
            refused += 1;
        }
    }
    refused
}

/// Counts this CPU as finished.
pub(crate) fn done() {
    DONE.fetch_add(1, Ordering::AcqRel);
    asm::sev();
}

/// Waits until `cpus` CPUs have finished.
pub(crate) fn wait_done(cpus: usize) {
    while DONE.load(Ordering::Acquire) < cpus {
        asm::wfe();
    }
}
