//! The report on a finished guest: the reason of its end, its records and its registers.
//!
//! It holds no KVM type, so everything that judges a guest builds and is tested anywhere.

use abi::channel::State;
use abi::record::Exception;
use abi::{Ctr, Outcome, Record};

/// Reason why a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest was still running at the time limit.
    TimedOut,
    /// The caller asked for the end, usually because of a signal.
    Interrupted,
    /// A vCPU left the guest in a way that the VMM does not handle, described here.
    Trapped(String),
}

/// A CTR_EL0 that KVM accepted for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownCtr {
    /// The value that guests read by default.
    pub machine: u64,
    /// The value that this guest reads.
    pub set: u64,
}

/// The part of the channel that one vCPU wrote. Counts are clamped to the size of the channel.
#[derive(Clone, Debug, Default)]
pub struct VcpuReport {
    /// State of the interpreter; `None` if the guest wrote a number without meaning.
    pub state: Option<State>,
    /// Index of the last op that the vCPU began.
    pub current_op: u64,
    /// Number of records for which the buffer had no room.
    pub dropped: u64,
    /// CTR_EL0 as the guest read it.
    pub ctr_el0: u64,
    /// The CTR_EL0 that KVM was asked to show, if the specification names one.
    pub shown_ctr: Option<ShownCtr>,
    /// CLIDR_EL1 as the guest read it.
    pub clidr_el1: u64,
    /// MIDR_EL1 as the guest read it.
    pub midr_el1: u64,
    /// MPIDR_EL1 as the guest read it.
    pub mpidr_el1: u64,
    /// CNTFRQ_EL0 in Hz.
    pub cntfrq_el0: u64,
    /// Smallest step of the counter in ticks.
    pub resolution_ticks: u64,
    /// Records, oldest first.
    pub records: Vec<Record>,
    /// Registers as `name=value`, if the vCPU did not end by itself.
    pub registers: Vec<String>,
}

impl VcpuReport {
    /// Returns the CTR_EL0 of the machine. KVM does its own maintenance by this value, even if guests read another one.
    pub fn machine_ctr(&self) -> Ctr {
        Ctr(self.shown_ctr.map_or(self.ctr_el0, |shown| shown.machine))
    }
}

/// The cost of a guest's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Number of stage-1 descriptors that the guest wrote to map the regions.
    pub descriptor_writes: u64,
    /// Time from the guest's first instruction to its first op, in ticks of CNTVCT_EL0.
    pub ticks: u64,
}

/// The report on one guest.
#[derive(Clone, Debug)]
pub struct GuestRun {
    /// Reason why the guest stopped.
    pub end: End,
    /// Report of each vCPU.
    pub vcpus: Vec<VcpuReport>,
    /// CPUs to which the vCPUs were pinned.
    pub cpus: Vec<usize>,
    /// Output on the guest's console.
    pub console: String,
    /// Cost of the start.
    pub boot: Boot,
    /// Deviations from the specification in spite of which the VMM ran the guest.
    pub notes: Vec<String>,
}

/// Returns one line about the first thing that went wrong inside a guest, if anything did.
pub fn trouble(run: &GuestRun) -> Option<String> {
    if let End::Trapped(what) = &run.end {
        return Some(what.clone());
    }
    for (n, vcpu) in run.vcpus.iter().enumerate() {
        let at = vcpu.current_op;
        if let Some(exception) = vcpu.records.iter().find_map(Record::exception) {
            let Exception { esr_el1: esr, far_el1: far, elr_el1: elr, .. } = exception;
            return Some(format!(
                "vcpu-{n} died at op {at}: {:?} ESR_EL1 {esr:#x} FAR_EL1 {far:#x} ELR_EL1 {elr:#x}",
                Outcome::from_esr(esr)
            ));
        }
        match vcpu.state {
            Some(State::Ended) => (),
            Some(State::Off) if run.end == End::PoweredOff => {
                return Some(format!("the guest powered off before vcpu-{n} started: {}", run.console.trim()));
            }
            state if run.end == End::PoweredOff => return Some(format!("vcpu-{n} stopped as {state:?} at op {at}")),
            _ => (),
        }
        if vcpu.dropped > 0 {
            return Some(format!("vcpu-{n} had no room for {} records", vcpu.dropped));
        }
    }
    None
}
