//! Starting the other CPUs, and knowing when they are done.

use core::sync::atomic::{AtomicUsize, Ordering};

use abi::channel::MAX_VCPUS;

use crate::{asm, boot, layout, psci};

static DONE: AtomicUsize = AtomicUsize::new(0);

/// Starts CPUs 1 to `cpus` − 1 of the device tree; returns how many PSCI refused.
///
/// `image_pa` is where the image was loaded: the others start there with the MMU off.
pub fn start(affinities: &[u64; MAX_VCPUS], cpus: usize, image_pa: usize) -> usize {
    let entry = boot::start_secondary as *const () as usize - layout::image_start() + image_pa;
    let mut refused = 0;
    for (index, affinity) in affinities.iter().enumerate().take(cpus).skip(1) {
        if let Err(error) = psci::cpu_on(*affinity, entry as u64, index as u64) {
            log::error!("cpu {index} does not start: {error}");
            refused += 1;
        }
    }
    refused
}

/// Says that this CPU is done.
pub fn done() {
    DONE.fetch_add(1, Ordering::AcqRel);
    asm::sev();
}

/// Waits until `cpus` CPUs are done.
pub fn wait_done(cpus: usize) {
    while DONE.load(Ordering::Acquire) < cpus {
        asm::wfe();
    }
}
