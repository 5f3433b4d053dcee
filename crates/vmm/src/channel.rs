//! The host's side of the channel. Nothing that the guest wrote is trusted: counts are clamped to what the host laid
//! out, and every access is bounds-checked by vm-memory.

use std::mem::offset_of;

use abi::channel::{HEADER_BYTES, MAGIC, State, VCPU_BYTES, VERSION};
use abi::{Header, Op, Record, Region, Vcpu};
use vm_memory::{Bytes, VolatileMemoryError, VolatileSlice};

use crate::layout::CHANNEL_BYTES_MAX;
use guest::report::{Boot, VcpuReport};
use guest::spec::GuestSpec;

const ALIGNMENT: u64 = 64;
const OP_BYTES: u64 = size_of::<Op>() as u64;
const RECORD_BYTES: u64 = size_of::<Record>() as u64;

/// Where everything in the channel is.
pub struct Layout {
    regions_offset: u64,
    programs: Vec<u64>,
    rings: Vec<u64>,
    capacity: u64,
    /// Ops that each program has room for.
    ops: Vec<u64>,
    /// Size of the channel in bytes, a multiple of 64 KiB; at most [`CHANNEL_BYTES_MAX`].
    pub bytes: u64,
}

impl Layout {
    /// Lays the channel out; `None` if it would be larger than its place in the IPA map.
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
        let mut rings = Vec::new();
        for _ in &spec.programs {
            rings.push(take(spec.records.checked_mul(RECORD_BYTES)?)?);
        }
        let bytes = next.checked_next_multiple_of(64 << 10).filter(|bytes| *bytes <= CHANNEL_BYTES_MAX)?;
        Some(Self { regions_offset, programs, rings, capacity: spec.records, ops, bytes })
    }

    fn vcpu(&self, n: usize) -> u64 {
        HEADER_BYTES + n as u64 * VCPU_BYTES
    }

    /// Writes the host's half.
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
            put(vcpu + offset_of!(Vcpu, records_offset) as u64, self.rings[n])?;
            put(vcpu + offset_of!(Vcpu, records_capacity) as u64, self.capacity)?;
            self.put_program(memory, n, program)?;
        }
        Ok(())
    }

    /// Returns whether a program of this many ops has room as vCPU `n`'s.
    pub fn has_room(&self, n: usize, ops: usize) -> bool {
        self.ops.get(n).is_some_and(|room| ops as u64 <= *room)
    }

    /// Gives vCPU `n`, which is at [`abi::OpCode::Next`], its next program, and empties its ring.
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

    /// Returns what the guest says its start took.
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

    /// Reads what vCPU `n` left behind.
    ///
    /// # Errors
    ///
    /// If `memory` is smaller than the layout.
    pub fn report(&self, memory: &VolatileSlice<'_>, n: usize) -> Result<VcpuReport, VolatileMemoryError> {
        let get = |field: usize| memory.read_obj::<u64>(self.vcpu(n) as usize + field);
        let written = get(offset_of!(Vcpu, records))?.min(self.capacity);
        let mut records = Vec::with_capacity(written as usize);
        for record in 0..written {
            let at = self.rings[n] + record * RECORD_BYTES;
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
