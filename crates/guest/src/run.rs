//! What a guest run leaves behind, as plain data: no KVM type, so that everything that judges it builds anywhere.

use abi::channel::State;
use abi::record::Exception;
use abi::{Ctr, Op, Outcome, Record};

use crate::ctr::GuestCtr;

/// Memory for the guest to work on: one memslot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// First IPA; the host maps it at a VA equal to it modulo the block size.
    pub ipa: u64,
    /// Length in bytes; a multiple of the block size and of 64 KiB.
    pub bytes: u64,
    /// What stands behind it.
    pub backing: Backing,
}

/// What host memory stands behind a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous base pages.
    Pages,
    /// Anonymous, transparent huge pages of this many bytes.
    Thp(u64),
    /// hugetlb pages of this many bytes.
    Hugetlb(u64),
    /// A shared memfd, in base pages.
    Memfd,
    /// A shared file without a name in the directory for temporary files.
    File,
    /// Address space that is not populated: to be mapped by the guest, not to be touched.
    Reserved,
}

impl Backing {
    /// Returns the alignment that host VA and IPA must share, in bytes.
    pub fn alignment(self) -> u64 {
        match self {
            Self::Pages | Self::Memfd | Self::File | Self::Reserved => 64 << 10,
            Self::Thp(bytes) | Self::Hugetlb(bytes) => bytes.max(64 << 10),
        }
    }
}

/// Bytes somewhere in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Where.
    pub ipa: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// One guest: its memory and its programs.
#[derive(Clone, Debug, Default)]
pub struct GuestSpec {
    /// Memory under test.
    pub regions: Vec<RegionSpec>,
    /// A program for each vCPU.
    pub programs: Vec<Vec<Op>>,
    /// Room for this many ops for each vCPU, where longer programs may follow the first.
    pub ops: u64,
    /// Room for this many records for each vCPU.
    pub records: u64,
    /// Size in bytes of the chunks in which KVM splits blocks when dirty logging begins; none for splitting on faults.
    pub eager_split: Option<u64>,
    /// What the regions hold before the guest starts, beside zeros.
    pub contents: Vec<Contents>,
    /// The CTR_EL0 that it is shown; none for the machine's.
    pub ctr: Option<GuestCtr>,
}

/// Why the guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It powered itself off.
    PoweredOff,
    /// It was still running at the time limit.
    TimedOut,
    /// A signal asked for the end.
    Interrupted,
    /// A vCPU left the guest in a way that nothing handles.
    Trapped(String),
}

/// A CTR_EL0 that KVM agreed to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownCtr {
    /// What KVM would show by itself.
    pub machine: u64,
    /// What it was set to.
    pub set: u64,
}

/// What one vCPU left in the channel, validated: numbers are clamped to what the channel can hold.
#[derive(Clone, Debug, Default)]
pub struct VcpuReport {
    /// How far it came; `None` for a number that means nothing.
    pub state: Option<State>,
    /// The op it was at.
    pub current_op: u64,
    /// Records that found no room.
    pub dropped: u64,
    /// CTR_EL0 as the guest reads it.
    pub ctr_el0: u64,
    /// What KVM was told to show it, where that is not the machine's own.
    pub shown_ctr: Option<ShownCtr>,
    /// CLIDR_EL1 as the guest reads it.
    pub clidr_el1: u64,
    /// MIDR_EL1 as the guest reads it.
    pub midr_el1: u64,
    /// MPIDR_EL1 as the guest reads it.
    pub mpidr_el1: u64,
    /// CNTFRQ_EL0 in Hz.
    pub cntfrq_el0: u64,
    /// Smallest step of the counter, in ticks.
    pub resolution_ticks: u64,
    /// Its records, oldest first.
    pub records: Vec<Record>,
    /// General registers, PC, PSTATE and more as `name=value`, where the vCPU did not end by itself.
    pub registers: Vec<String>,
}

impl VcpuReport {
    /// Returns the machine's CTR_EL0, which KVM's own maintenance goes by whatever guests are shown.
    pub fn machine_ctr(&self) -> Ctr {
        Ctr(self.shown_ctr.map_or(self.ctr_el0, |shown| shown.machine))
    }
}

/// What a guest's start took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Stage-1 descriptor writes that mapping the regions took.
    pub descriptor_writes: u64,
    /// From the guest's first instruction to its first op, in ticks of CNTVCT_EL0.
    pub ticks: u64,
}

/// What a guest run left behind.
#[derive(Clone, Debug)]
pub struct GuestRun {
    /// Why it stopped.
    pub end: End,
    /// Each vCPU's part.
    pub vcpus: Vec<VcpuReport>,
    /// The CPUs that its vCPUs were pinned to.
    pub cpus: Vec<usize>,
    /// What it wrote on its console.
    pub console: String,
    /// What its start took.
    pub boot: Boot,
    /// What the runner could not do as asked but went on without.
    pub notes: Vec<String>,
}

/// Returns the one line that says what became of a guest that did not end well, if it did not.
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
