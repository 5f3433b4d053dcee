//! Bounds on the time of one cache line and of one fault on a machine. They separate maintenance by line from all other
//! reasons for a slow fault.

use record::machine::{KvmMode, Machine, Platform};
use record::result::{L1Ip, VcpuFacts};
use units::stats;

/// Bounds on the time of one cache line and of one fault on a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    /// Size of a host page in bytes.
    pub page_bytes: u64,
    /// Size of the smallest I-cache line in bytes.
    pub line_bytes: u64,
    /// True if the I-cache is virtually indexed. Every kernel invalidates such a cache as a whole.
    pub aliasing: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
    /// Smallest step of the guest's counter, in ns.
    pub resolution_ns: u64,
    /// Time of one instruction, if emulated time counts instructions.
    pub instruction_ns: Option<u64>,
    /// True if KVM is in protected mode, in which stage 2 may be changed at EL2.
    pub protected: bool,
}

impl CostModel {
    /// Derives the bounds from the machine and from the registers that a vCPU read. Without a vCPU, it assumes the most
    /// lines and the finest counter.
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
            protected: machine.kvm_mode == Some(KvmMode::Protected),
        }
    }

    /// Returns the shortest time for one line, in ns: two of the four instructions in the kernel's loop, or a clock cycle.
    pub fn line_floor_ns(&self) -> f64 {
        self.instruction_ns.map_or(0.25, |ns| 2.0 * ns as f64)
    }

    /// Returns the expected time for one line of a page, in ns: four instructions, or 1 ns on hardware.
    pub fn line_expected_ns(&self) -> u64 {
        self.instruction_ns.map_or(1, |ns| 4 * ns)
    }

    /// Returns the longest time for the rest of a fault, without maintenance by line, in ns. On known machines,
    /// `IC IALLUIS` took up to 153 µs of it.
    pub fn fixed_ceiling_ns(&self) -> u64 {
        self.instruction_ns.map_or(10_000_000, |ns| 20_000 * ns)
    }

    /// Returns the number of lines in a block.
    pub fn lines(&self, mapped_bytes: u64) -> u64 {
        mapped_bytes / self.line_bytes.max(1)
    }

    /// Returns whether maintenance by line caused a stall of this length over a block; `None` if the time does not
    /// tell.
    pub fn is_by_line(&self, stall_ns: u64, mapped_bytes: u64) -> Option<bool> {
        let least = self.lines(mapped_bytes) as f64 * self.line_floor_ns();
        if (stall_ns as f64) < least { Some(false) } else { (stall_ns >= self.fixed_ceiling_ns()).then_some(true) }
    }
}
