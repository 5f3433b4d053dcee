//! The host's side of the channel: its layout, the programs that the host writes, and the reports that it reads.
//!
//! The host trusts nothing that the guest wrote. It clamps counts to the layout, and vm-memory checks the bounds of
//! each access.

use std::mem::offset_of;

use abi::channel::{HEADER_BYTES, MAGIC, State, VCPU_BYTES, VERSION};
use abi::{Header, Op, Record, Region, Vcpu};
use guest::report::{Boot, VcpuReport};
use guest::spec::GuestSpec;
use vm_memory::{Bytes, VolatileMemoryError, VolatileSlice};

use crate::layout::CHANNEL_BYTES_MAX;

const ALIGNMENT: u64 = 64;
const OP_BYTES: u64 = size_of::<Op>() as u64;
const RECORD_BYTES: u64 = size_of::<Record>() as u64;

/// Layout of the channel: the offset and the capacity of each part.
pub struct ChannelLayout {
    regions_offset: u64,
    /// Offset of each vCPU's program.
    programs: Vec<u64>,
    /// Offset of each vCPU's record buffer.
    record_buffers: Vec<u64>,
    /// Number of records for which each record buffer has room.
    records: u64,
    /// Number of ops for which each program has room.
    ops: Vec<u64>,
    bytes: u64,
}

impl ChannelLayout {
    /// Returns the layout for a guest, or `None` if it exceeds [`CHANNEL_BYTES_MAX`].
    pub fn new(spec: &GuestSpec) -> Option<Self> {
        let mut next = HEADER_BYTES + spec.programs.len() as u64 * VCPU_BYTES;
        let mut take = |bytes: u64| {
            let at = next.next_multiple_of(ALIGNMENT);
            next = at.checked_add(bytes)?;
            Some(at)
        };
        let regions_offset = take(spec.regions.len() as u64 * size_of::<Region>() as u64)?;
        let mut programs = Vec::new();
        let ops: Vec<_> = spec.programs.iter().map(|program| spec.ops.max(program.len() as u64)).collect();
        for room in &ops {
            programs.push(take(room.checked_mul(OP_BYTES)?)?);
        }
        let mut record_buffers = Vec::new();
        for _ in &spec.programs {
            record_buffers.push(take(spec.records.checked_mul(RECORD_BYTES)?)?);
        }
        let bytes = next.checked_next_multiple_of(64 << 10).filter(|bytes| *bytes <= CHANNEL_BYTES_MAX)?;
        Some(Self { regions_offset, programs, record_buffers, records: spec.records, ops, bytes })
    }

    /// Returns the size of the channel in bytes, a multiple of 64 KiB.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn vcpu(&self, n: usize) -> u64 {
        HEADER_BYTES + n as u64 * VCPU_BYTES
    }

    /// Writes the host's half of the channel.
    ///
    /// # Errors
    ///
    /// If `memory` is smaller than the layout.
    pub fn fill(&self, memory: &VolatileSlice<'_>, spec: &GuestSpec) -> Result<(), VolatileMemoryError> {
        let put = |offset: u64, value: u64| memory.write_obj(value, offset as usize);
        put(offset_of!(Header, magic) as u64, MAGIC)?;
        put(offset_of!(Header, version) as u64, VERSION)?;
        put(offset_of!(Header, vcpus) as u64, spec.programs.len() as u64)?;
        put(offset_of!(Header, regions_offset) as u64, self.regions_offset)?;
        put(offset_of!(Header, regions) as u64, spec.regions.len() as u64)?;
        for (region, at) in spec.regions.iter().zip((self.regions_offset..).step_by(size_of::<Region>())) {
            put(at + offset_of!(Region, ipa) as u64, region.ipa)?;
            put(at + offset_of!(Region, bytes) as u64, region.bytes)?;
        }
        for (n, program) in spec.programs.iter().enumerate() {
            let vcpu = self.vcpu(n);
            put(vcpu + offset_of!(Vcpu, program_offset) as u64, self.programs[n])?;
            put(vcpu + offset_of!(Vcpu, records_offset) as u64, self.record_buffers[n])?;
            put(vcpu + offset_of!(Vcpu, records_capacity) as u64, self.records)?;
            self.put_program(memory, n, program)?;
        }
        Ok(())
    }

    /// Returns whether vCPU `n` has room for a program of this many ops.
    pub fn has_room(&self, n: usize, ops: usize) -> bool {
        self.ops.get(n).is_some_and(|room| ops as u64 <= *room)
    }

    /// Replaces the program of vCPU `n`, which waits at [`abi::OpCode::Next`], and empties its record buffer.
    ///
    /// # Errors
    ///
    /// If `memory` is smaller than the layout.
    pub fn put_program(&self, memory: &VolatileSlice<'_>, n: usize, program: &[Op]) -> Result<(), VolatileMemoryError> {
        let put = |field: usize, value: u64| memory.write_obj(value, self.vcpu(n) as usize + field);
        put(offset_of!(Vcpu, program_ops), program.len() as u64)?;
        put(offset_of!(Vcpu, records), 0)?;
        put(offset_of!(Vcpu, dropped), 0)?;
        for (op, at) in program.iter().zip((self.programs[n]..).step_by(size_of::<Op>())) {
            memory.write_obj(op.to_words(), at as usize)?;
        }
        Ok(())
    }

    /// Returns the cost of the start that the guest reports.
    ///
    /// # Errors
    ///
    /// If `memory` is smaller than the layout.
    pub fn boot(&self, memory: &VolatileSlice<'_>) -> Result<Boot, VolatileMemoryError> {
        let get = |field: usize| memory.read_obj::<u64>(field);
        let entry = get(offset_of!(Header, entry_ticks))?;
        Ok(Boot {
            descriptor_writes: get(offset_of!(Header, descriptor_writes))?,
            ticks: get(offset_of!(Header, first_op_ticks))?.saturating_sub(entry),
        })
    }

    /// Returns the report of vCPU `n`, without registers and shown CTR_EL0.
    ///
    /// # Errors
    ///
    /// If `memory` is smaller than the layout.
    pub fn report(&self, memory: &VolatileSlice<'_>, n: usize) -> Result<VcpuReport, VolatileMemoryError> {
        let get = |field: usize| memory.read_obj::<u64>(self.vcpu(n) as usize + field);
        let written = get(offset_of!(Vcpu, records))?.min(self.records);
        let mut records = Vec::with_capacity(written as usize);
        for record in 0..written {
            let at = self.record_buffers[n] + record * RECORD_BYTES;
            records.push(Record::from_words(memory.read_obj(at as usize)?));
        }
        Ok(VcpuReport {
            state: State::from_raw(get(offset_of!(Vcpu, state))?),
            current_op: get(offset_of!(Vcpu, current_op))?,
            dropped: get(offset_of!(Vcpu, dropped))?,
            ctr_el0: get(offset_of!(Vcpu, ctr_el0))?,
            shown_ctr: None,
            clidr_el1: get(offset_of!(Vcpu, clidr_el1))?,
            midr_el1: get(offset_of!(Vcpu, midr_el1))?,
            mpidr_el1: get(offset_of!(Vcpu, mpidr_el1))?,
            cntfrq_el0: get(offset_of!(Vcpu, cntfrq_el0))?,
            resolution_ticks: get(offset_of!(Vcpu, resolution_ticks))?,
            records,
            registers: Vec::new(),
        })
    }
}
