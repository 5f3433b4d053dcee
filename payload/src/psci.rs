//! PSCI calls, by the conduit that the device tree names.

use core::sync::atomic::{AtomicBool, Ordering};

use smccc::{Hvc, Smc, psci};

use crate::asm;

static BY_SMC: AtomicBool = AtomicBool::new(false);

/// Selects SMC instead of HVC as the conduit.
pub(crate) fn use_smc() {
    BY_SMC.store(true, Ordering::Relaxed);
}

fn by_smc() -> bool {
    BY_SMC.load(Ordering::Relaxed)
}

/// Starts the CPU with this MPIDR affinity at the physical address `entry_pa`, with `context` in its x0.
///
/// # Errors
///
/// The error that PSCI returns.
pub(crate) fn cpu_on(mpidr: u64, entry_pa: u64, context: u64) -> Result<(), psci::Error> {
    if by_smc() { psci::cpu_on::<Smc>(mpidr, entry_pa, context) } else { psci::cpu_on::<Hvc>(mpidr, entry_pa, context) }
}

/// Turns this CPU off.
pub(crate) fn cpu_off() -> ! {
    // The call returns only if PSCI refuses it. Then the CPU can only wait.
    let _ = if by_smc() { psci::cpu_off::<Smc>() } else { psci::cpu_off::<Hvc>() };
    loop {
        asm::wfe();
    }
}

/// Powers the guest off.
///
/// It never resets: without a host that watches it, the guest would then run again and again.
pub(crate) fn system_off() -> ! {
    let _ = if by_smc() { psci::system_off::<Smc>() } else { psci::system_off::<Hvc>() };
    loop {
        asm::wfe();
    }
}
