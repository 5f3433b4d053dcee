//! PSCI by the conduit that the device tree names.

use core::sync::atomic::{AtomicBool, Ordering};

use smccc::{Hvc, Smc, psci};

static BY_SMC: AtomicBool = AtomicBool::new(false);

/// Chooses SMC instead of HVC.
pub fn use_smc() {
    BY_SMC.store(true, Ordering::Relaxed);
}

fn by_smc() -> bool {
    BY_SMC.load(Ordering::Relaxed)
}

/// Starts the CPU with this MPIDR affinity at physical address `entry`, with `context` in x0.
///
/// # Errors
///
/// What PSCI answers.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), psci::Error> {
    if by_smc() { psci::cpu_on::<Smc>(mpidr, entry, context) } else { psci::cpu_on::<Hvc>(mpidr, entry, context) }
}

/// Turns this CPU off.
pub fn cpu_off() -> ! {
    // Returns only where PSCI refuses; then there is nothing left but to wait.
    let _ = if by_smc() { psci::cpu_off::<Smc>() } else { psci::cpu_off::<Hvc>() };
    loop {
        crate::asm::wfe();
    }
}

/// Powers the machine off. Never a reset: without a watching host that would run the guest for ever.
pub fn system_off() -> ! {
    let _ = if by_smc() { psci::system_off::<Smc>() } else { psci::system_off::<Hvc>() };
    loop {
        crate::asm::wfe();
    }
}
