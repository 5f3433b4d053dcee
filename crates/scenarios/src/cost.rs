//! Bounds on what one line and one fault cost on a machine: they tell time spent line by line from any other.

use record::machine::{Machine, Platform};
use record::result::{L1Ip, VcpuFacts};
use units::stats;

/// Bounds on the cost of a line and of a fault on one machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    /// Host page in bytes.
    pub page_bytes: u64,
    /// Smallest I-cache line in bytes.
    pub line_bytes: u64,
    /// The I-cache is virtually indexed: even unfixed kernels always invalidate all of it.
    pub aliasing: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
    /// Smallest step of the guest's counter, in ns.
    pub resolution_ns: u64,
    /// What every instruction takes, where emulated time counts instructions.
    pub instruction_ns: Option<u64>,
}

impl CostModel {
    /// Returns what the machine and the guest's own registers say; without a vCPU's, the most careful assumption.
    pub fn new(machine: &Machine, vcpu: Option<&VcpuFacts>, page_bytes: u64) -> Self {
        let scale = machine.lab.as_ref().and_then(|lab| lab.time_scale);
        let scale = scale.filter(|_| machine.platform == Platform::Emulated);
        let fact = |of: &dyn Fn(&VcpuFacts) -> u64| vcpu.map_or(0, of);
        Self {
            page_bytes,
            line_bytes: fact(&|v| v.imin_line_bytes).max(4),
            aliasing: vcpu.is_some_and(|v| v.l1ip != L1Ip::Pipt),
            dic: vcpu.is_some_and(|v| v.dic),
            resolution_ns: fact(&|v| stats::ns(v.resolution_ticks, v.cntfrq_hz)).max(1),
            instruction_ns: scale.map(|n| 1 << n),
        }
    }

    /// Returns what one line takes at least, in ns: two instructions of the kernel's loop of four, or a cycle.
    pub fn line_floor_ns(&self) -> f64 {
        self.instruction_ns.map_or(0.25, |ns| 2.0 * ns as f64)
    }

    /// Returns what one line is expected to take in a page, in ns: the loop, or the least that is worth counting on.
    pub fn line_expected_ns(&self) -> u64 {
        self.instruction_ns.map_or(1, |ns| 4 * ns)
    }

    /// Returns what a fault takes at most besides invalidating lines, in ns. `IC IALLUIS` took up to 153 µs on known
    /// machines.
    pub fn fixed_ceiling_ns(&self) -> u64 {
        self.instruction_ns.map_or(10_000_000, |ns| 20_000 * ns)
    }

    /// Returns the lines of a block.
    pub fn lines(&self, mapped_bytes: u64) -> u64 {
        mapped_bytes / self.line_bytes.max(1)
    }

    /// Says whether a stall that long over a block was spent line by line; `None` if it may be either.
    pub fn by_line(&self, stall_ns: u64, mapped_bytes: u64) -> Option<bool> {
        let least = self.lines(mapped_bytes) as f64 * self.line_floor_ns();
        if (stall_ns as f64) < least { Some(false) } else { (stall_ns >= self.fixed_ceiling_ns()).then_some(true) }
    }
}
