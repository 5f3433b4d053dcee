//! The channel: one memslot in which the host writes programs and the guest writes records.
//!
//! ```text
//! offset 0        Header
//! HEADER_BYTES    Vcpu 0, Vcpu 1, …            VCPU_BYTES each: half written by the host, half by the guest
//! regions_offset  Region 0, Region 1, …        what stage 1 has to map
//! …               programs (arrays of Op) and record rings (arrays of Record), where each Vcpu says
//! ```
//!
//! All offsets count bytes from the start of the channel; all fields are little-endian `u64`. The guest trusts the
//! host; the host trusts nothing the guest wrote.

use core::mem::size_of;

/// `compatible` string of the device-tree node that announces the channel.
///
/// Its `reg` has two entries: the channel's memory and the doorbell page.
pub const COMPATIBLE: &str = "faultline,channel-v1";

/// First field of [`Header`]: "faultlin" in ASCII, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"faultlin");

/// Version of everything in this crate that crosses memory.
pub const VERSION: u64 = 1;

/// The most vCPUs one channel describes; a limit of the guest's static stacks.
pub const MAX_VCPUS: usize = 64;

/// Size in bytes of [`Header`].
pub const HEADER_BYTES: u64 = size_of::<Header>() as u64;

/// Size in bytes of [`Vcpu`].
pub const VCPU_BYTES: u64 = size_of::<Vcpu>() as u64;

/// Start of the channel; written by the host before the guest runs.
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
    /// Counter read at the first op of vCPU 0; written by the guest.
    pub first_op_ticks: u64,
    /// Descriptor writes that mapping the regions took; written by the guest.
    pub descriptor_writes: u64,
    /// Counter read by the guest's first instruction; written by the guest.
    pub entry_ticks: u64,
}

/// One vCPU's program, records and progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Vcpu {
    /// Host: offset of the first [`crate::Op`].
    pub program_offset: u64,
    /// Host: number of ops. Changes between programs.
    pub program_ops: u64,
    /// Host: offset of the first [`crate::Record`].
    pub records_offset: u64,
    /// Host: room for this many records.
    pub records_capacity: u64,
    /// Keeps the guest's half on a line of its own for lines up to 64 bytes.
    pub reserved_host: [u64; 4],
    /// Guest: records written so far; stored with release order after the record itself.
    pub records: u64,
    /// Guest: records that found no room.
    pub dropped: u64,
    /// Guest: index of the op being run.
    pub current_op: u64,
    /// Guest: [`State`] as a number.
    pub state: u64,
    /// Guest: CTR_EL0 as this vCPU reads it.
    pub ctr_el0: u64,
    /// Guest: MPIDR_EL1.
    pub mpidr_el1: u64,
    /// Guest: MIDR_EL1.
    pub midr_el1: u64,
    /// Guest: CNTFRQ_EL0, in Hz.
    pub cntfrq_el0: u64,
    /// Guest: CLIDR_EL1, which with CTR_EL0 gives the effective IDC.
    pub clidr_el1: u64,
    /// Guest: smallest difference of two consecutive counter reads that was not zero, in ticks.
    pub resolution_ticks: u64,
    /// Keeps the size a multiple of 64.
    pub reserved_guest: [u64; 6],
}

/// How far a vCPU has come, in [`Vcpu::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// Never started.
    Off = 0,
    /// Running its program.
    Running = 1,
    /// Reached [`crate::OpCode::End`].
    Ended = 2,
    /// Stopped at an op it does not know or may not run.
    BadProgram = 3,
    /// Took an exception outside an op that expects one.
    Died = 4,
    /// At [`crate::OpCode::Next`].
    Between = 5,
}

impl State {
    /// Returns the state a number stands for, if any.
    pub fn from_raw(raw: u64) -> Option<Self> {
        let all = [Self::Off, Self::Running, Self::Ended, Self::BadProgram, Self::Died, Self::Between];
        all.into_iter().find(|s| *s as u64 == raw)
    }
}

/// A range of IPA that stage 1 maps one to one, cacheable, with the largest blocks that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Region {
    /// First address; a multiple of 4 KiB.
    pub ipa: u64,
    /// Length in bytes; a multiple of 4 KiB.
    pub bytes: u64,
}

/// Offsets in the doorbell page, and what a write there means. The write exits to the host, which acts before it
/// lets the vCPU go on.
pub mod doorbell {
    /// A 64-bit write of `vcpu << 32 | op index` asks for the host event in that op of that vCPU's program.
    pub const EVENT: u64 = 0x0;
    /// A 64-bit write of `vcpu << 32 | op index` blocks the vCPU until all that the op names have arrived.
    pub const ARRIVE: u64 = 0x8;
    /// A 64-bit write of `vcpu << 32 | op index` blocks the vCPU until the host has put another program in place of the one that it
    /// has run: once all vCPUs are there.
    pub const NEXT: u64 = 0x10;
    /// Size of the page in bytes.
    pub const BYTES: u64 = 0x1000;
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<Vcpu>() == 192);
const _: () = assert!(size_of::<Region>() == 16);
