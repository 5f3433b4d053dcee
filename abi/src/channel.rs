//! The channel: one memslot in which the host writes programs and the guest writes records.
//!
//! ```text
//! offset 0        Header
//! HEADER_BYTES    Vcpu 0, Vcpu 1, …            VCPU_BYTES each: half written by the host, half by the guest
//! regions_offset  Region 0, Region 1, …        memory that the guest maps at stage 1
//! …               programs (arrays of Op) and record buffers (arrays of Record), at the offsets in each Vcpu
//! ```
//!
//! All offsets count bytes from the start of the channel. All fields are little-endian `u64`. The guest trusts what the
//! host wrote. The host does not trust what the guest wrote.

use core::mem::size_of;

/// `compatible` string of the device-tree node that announces the channel.
///
/// The node's `reg` has two entries: the memory of the channel and the doorbell page.
pub const COMPATIBLE: &str = "faultline,channel-v1";

/// Value of [`Header::magic`]: "faultlin" in ASCII, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"faultlin");

/// Version of the formats in this crate that guest and host exchange through memory.
///
/// Version 2: races write records of a kind of their own.
pub const VERSION: u64 = 2;

/// Maximum number of vCPUs. The guest reserves a stack for each of them in its image.
pub const MAX_VCPUS: usize = 64;

/// Size in bytes of [`Header`].
pub const HEADER_BYTES: u64 = size_of::<Header>() as u64;

/// Size in bytes of [`Vcpu`].
pub const VCPU_BYTES: u64 = size_of::<Vcpu>() as u64;

/// Start of the channel. The host writes it before the guest runs, except the fields that say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u64,
    /// Number of [`Vcpu`] entries, and of vCPUs to start.
    pub vcpus: u64,
    /// Offset of the first [`Region`].
    pub regions_offset: u64,
    /// Number of [`Region`] entries.
    pub regions: u64,
    /// Counter before the first op of vCPU 0, in ticks; written by the guest.
    pub first_op_ticks: u64,
    /// Number of stage-1 descriptors that the guest wrote to map the regions; written by the guest.
    pub descriptor_writes: u64,
    /// Counter at the first instruction of the guest, in ticks; written by the guest.
    pub entry_ticks: u64,
}

/// Entry of one vCPU: its program, its records and its progress.
///
/// Each field names the side that writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Vcpu {
    /// Host: offset of the first [`crate::op::Op`].
    pub program_offset: u64,
    /// Host: number of ops. The host changes it when it replaces the program.
    pub program_ops: u64,
    /// Host: offset of the first [`crate::record::Record`].
    pub records_offset: u64,
    /// Host: maximum number of records in the buffer.
    pub records_capacity: u64,
    /// Unused. It keeps both halves on different cache lines, for lines of up to 64 bytes.
    _reserved_host: [u64; 4],
    /// Guest: number of records written. The guest stores it with release order after the record itself.
    pub records: u64,
    /// Guest: number of records that the guest dropped because the buffer was full.
    pub dropped: u64,
    /// Guest: index of the op that the vCPU runs.
    pub current_op: u64,
    /// Guest: [`State`] as a number.
    pub state: u64,
    /// Guest: CTR_EL0 as this vCPU reads it. See [`crate::ctr::Ctr`].
    pub ctr_el0: u64,
    /// Guest: MPIDR_EL1.
    pub mpidr_el1: u64,
    /// Guest: MIDR_EL1.
    pub midr_el1: u64,
    /// Guest: CNTFRQ_EL0, the frequency of the counter in Hz.
    pub cntfrq_el0: u64,
    /// Guest: CLIDR_EL1. The effective IDC follows from it and CTR_EL0.
    pub clidr_el1: u64,
    /// Guest: smallest difference, other than zero, between two consecutive reads of the counter, in ticks.
    pub resolution_ticks: u64,
    /// Unused. It makes the size a multiple of 64 bytes.
    _reserved_guest: [u64; 6],
}

/// Progress of a vCPU, in [`Vcpu::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// The vCPU has not started.
    Off = 0,
    /// The vCPU runs its program.
    Running = 1,
    /// The vCPU has reached the end op.
    Ended = 2,
    /// The vCPU stopped at an op that it does not know or that it could not do.
    BadProgram = 3,
    /// The vCPU took an exception that no op expects.
    Died = 4,
    /// The vCPU waits at a next op for its next program.
    BetweenPrograms = 5,
}

impl State {
    /// Returns the state with this number, if there is one.
    pub fn from_raw(raw: u64) -> Option<Self> {
        let all = [Self::Off, Self::Running, Self::Ended, Self::BadProgram, Self::Died, Self::BetweenPrograms];
        all.into_iter().find(|s| *s as u64 == raw)
    }
}

/// Range of IPAs that the guest maps one to one at stage 1: cacheable, with the largest blocks that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Region {
    /// First IPA; a multiple of 4 KiB.
    pub ipa: u64,
    /// Length in bytes; a multiple of 4 KiB.
    pub bytes: u64,
}

/// Registers of the doorbell page, by their offsets in bytes.
///
/// A write to a register exits to the host. The host acts on the write before it lets the vCPU continue. Each register
/// takes a 64-bit write of `vcpu << 32 | op index`, which names an op of that vCPU's program.
pub mod doorbell {
    /// Asks for the host event of the op.
    pub const EVENT: u64 = 0x0;
    /// Blocks the vCPU until all vCPUs of the rendezvous op have arrived.
    pub const ARRIVE: u64 = 0x8;
    /// Blocks the vCPU until the host has replaced its program. The host does so once all vCPUs have asked for it.
    pub const NEXT: u64 = 0x10;
    /// Size of the page, in bytes.
    pub const BYTES: u64 = 0x1000;
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<Vcpu>() == 192);
const _: () = assert!(size_of::<Region>() == 16);
