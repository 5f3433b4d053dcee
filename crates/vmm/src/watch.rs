//! The trait by which the caller of the VMM takes part in a run.

use abi::Op;
use guest::report::VcpuReport;

use crate::host::Host;

/// The caller's part in a run.
pub trait Watch {
    /// Carries out the host event that `op` asks for on behalf of vCPU `vcpu`, which waits.
    fn event(&mut self, vcpu: usize, op: &Op, host: &Host<'_>);

    /// Returns the next programs after all vCPUs have reached [`abi::OpCode::Next`], or `None` to end the guest.
    ///
    /// `_reports` holds the records of the programs that ended.
    fn next(&mut self, _reports: &[VcpuReport], _host: &Host<'_>) -> Option<Vec<Vec<Op>>> {
        None
    }

    /// Observes the surroundings, such as the kernel log. It is called several times a second.
    fn tick(&mut self);

    /// Returns whether the run must end now.
    fn interrupted(&self) -> bool;
}

/// A caller without any part in the run. Host events have no effect.
pub struct Unwatched;

impl Watch for Unwatched {
    fn event(&mut self, _: usize, _: &Op, _: &Host<'_>) {}
    fn tick(&mut self) {}
    fn interrupted(&self) -> bool {
        false
    }
}
