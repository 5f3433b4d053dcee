//! The CPU on which the interpreter runs: a trait, so that host tests can run programs on a fake CPU.

use abi::Ctr;
use abi::op::{Attr, Barrier, CACHES_OFF, NON_CACHEABLE};

/// Result of one access under test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Access {
    /// Counter just before the access, in ticks; 0 if it took an exception.
    pub began: u64,
    /// Counter just after the access, in ticks; 0 if it took an exception.
    pub ended: u64,
    /// Value that a load loaded, or that a call returned.
    pub value: u64,
    /// ESR_EL1 if the access took an exception, otherwise 0.
    pub esr: u64,
    /// FAR_EL1 of that exception.
    pub far: u64,
    /// ELR_EL1 of that exception.
    pub elr: u64,
}

impl Access {
    /// Returns the duration of the access in ticks.
    pub(super) fn ticks(&self) -> u64 {
        self.ended.wrapping_sub(self.began)
    }
}

/// Instruction that [`Cpu::clean_d`] executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clean {
    /// `DC CVAU`: clean to the PoU.
    ToPou,
    /// `DC CVAC`: clean to the PoC.
    ToPoc,
    /// `DC CIVAC`: clean and invalidate to the PoC.
    AndInvalidate,
}

/// Way in which [`Cpu::load`] reads memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadMode {
    /// Through the data caches.
    Cacheable,
    /// Through a Non-cacheable mapping.
    NonCacheable,
    /// With SCTLR_EL1.C cleared.
    CachesOff,
}

impl LoadMode {
    /// Returns the mode that the flags of a load ask for.
    pub(super) fn from_flags(flags: u16) -> Self {
        match flags {
            flags if flags & CACHES_OFF != 0 => Self::CachesOff,
            flags if flags & NON_CACHEABLE != 0 => Self::NonCacheable,
            _ => Self::Cacheable,
        }
    }
}

/// Place in which a vCPU waits for the others at a rendezvous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitIn {
    /// The guest, which executes WFE.
    Guest,
    /// The host, until all have arrived.
    Host {
        /// Index of the rendezvous op.
        op: u32,
    },
}

/// Operations that the interpreter needs from a CPU. Addresses are IPAs, which stage 1 maps one to one.
pub trait Cpu {
    /// Returns CTR_EL0.
    fn ctr(&self) -> Ctr;
    /// Returns whether CLIDR_EL1 implies IDC.
    fn clidr_implies_idc(&self) -> bool;
    /// Returns the counter. Earlier instructions execute before the read, later ones after it.
    fn ticks(&mut self) -> u64;
    /// Calls the code at `ipa` and measures the time.
    fn fetch(&mut self, ipa: u64) -> Access;
    /// Loads the `u64` at `ipa`.
    fn load(&mut self, ipa: u64, mode: LoadMode) -> Access;
    /// Prepares a range for loads in this mode. Returns whether such loads are possible.
    fn prepare_load(&mut self, mode: LoadMode, ipa: u64, bytes: u64) -> bool;
    /// Stores `value` at `ipa`.
    fn store(&mut self, ipa: u64, value: u64) -> Access;
    /// Cleans the D-cache line that contains `ipa`.
    fn clean_d(&mut self, clean: Clean, ipa: u64);
    /// Executes `IC IVAU` for the line that contains `ipa`.
    fn inval_i(&mut self, ipa: u64);
    /// Executes `IC IALLUIS`.
    fn inval_i_all(&mut self);
    /// Executes a barrier.
    fn barrier(&mut self, barrier: Barrier);
    /// Maps a range anew with break-before-make. Returns whether that was possible.
    fn remap(&mut self, ipa: u64, bytes: u64, attr: Attr, max_block_bytes: u64) -> bool;
    /// Waits until `vcpus` vCPUs are at the rendezvous `number`.
    fn rendezvous(&mut self, number: u64, vcpus: u64, wait: WaitIn);
    /// Asks the host for the host event of the op with index `op`, and waits until it is done.
    fn event(&mut self, op: u32);
    /// Waits for this many ticks.
    fn wait(&mut self, ticks: u64);
    /// Calls the code at `ipa` without barriers and without measuring the time.
    fn call(&mut self, ipa: u64) -> Access;
    /// Loads a word that other vCPUs may write.
    fn peek(&mut self, ipa: u64) -> u64;
    /// Stores a word that other vCPUs may read.
    fn poke(&mut self, ipa: u64, value: u64);
    /// Waits until `vcpus` vCPUs have arrived at the meeting. The word at `ipa` counts arrivals.
    fn meet(&mut self, ipa: u64, vcpus: u64);
    /// Executes an empty loop.
    fn spin(&mut self, rounds: u64);
}
