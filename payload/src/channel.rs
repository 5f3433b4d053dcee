//! Guest side of the channel: it reads programs, and writes records and progress.

use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::channel::{HEADER_BYTES, MAGIC, State, VCPU_BYTES, VERSION};
use abi::{Header, Op, Record, Region, Vcpu};
use payload::interpreter::Sink;

use crate::asm;
use crate::platform::IpaRange;

/// Stores a field that the guest writes.
macro_rules! store_field {
    ($self:ident.$pointer:ident $(($($argument:tt)*))? . $field:ident = $value:expr) => {
        // SAFETY: the channel stays mapped. Only this CPU writes the field.
        unsafe { addr_of_mut!((*$self.$pointer $(($($argument)*))?).$field).write_volatile($value) }
    };
}

/// Channel that stays mapped.
#[derive(Clone, Copy)]
pub(crate) struct Channel {
    base: u64,
}

// SAFETY: the type holds an address. CPUs access the memory there by volatile or atomic accesses, and one CPU alone
// writes each field.
unsafe impl Send for Channel {}

impl Channel {
    /// Returns the channel in `memory`, or `None` if it has another version.
    ///
    /// # Safety
    ///
    /// `memory` must stay mapped and hold nothing but the channel.
    pub(crate) unsafe fn open(memory: IpaRange) -> Option<Self> {
        let channel = Self { base: memory.base };
        let header = channel.header();
        (header.magic == MAGIC && header.version == VERSION).then_some(channel)
    }

    fn header_ptr(&self) -> *mut Header {
        self.base as *mut Header
    }

    /// Returns a copy of the header.
    pub(crate) fn header(&self) -> Header {
        // SAFETY: the caller of `open` promised that the channel stays mapped. The host wrote the header before the
        // guest ran.
        unsafe { self.header_ptr().read_volatile() }
    }

    /// Returns the regions that the guest has to map.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> {
        let header = self.header();
        let first = (self.base + header.regions_offset) as *const Region;
        // SAFETY: the channel stays mapped, and the host puts the regions inside it.
        (0..header.regions as usize).map(move |n| unsafe { first.add(n).read_volatile() })
    }

    /// Stores the counter at the first instruction of the guest.
    pub(crate) fn set_entry_ticks(&self, ticks: u64) {
        store_field!(self.header_ptr().entry_ticks = ticks);
    }

    /// Stores the number of descriptors that mapping the regions wrote.
    pub(crate) fn set_descriptor_writes(&self, count: u64) {
        store_field!(self.header_ptr().descriptor_writes = count);
    }

    /// Stores the counter before the first op of vCPU 0.
    pub(crate) fn set_first_op_ticks(&self, ticks: u64) {
        store_field!(self.header_ptr().first_op_ticks = ticks);
    }

    /// Returns the part of the vCPU `index`.
    pub(crate) fn vcpu(&self, index: usize) -> VcpuChannel {
        let entry = (self.base + HEADER_BYTES + index as u64 * VCPU_BYTES) as *mut Vcpu;
        // SAFETY: the channel stays mapped. The host writes its half of the entry before the guest runs, and again only
        // while all vCPUs wait for their next programs.
        let host_half = unsafe { entry.read_volatile() };
        let Vcpu { program_offset, program_ops, records_offset, records_capacity, .. } = host_half;
        VcpuChannel {
            entry,
            program: (self.base + program_offset) as *const Op,
            program_ops: program_ops as usize,
            records: (self.base + records_offset) as *mut Record,
            capacity: records_capacity,
            written: 0,
            dropped: 0,
        }
    }
}

/// Program, record buffer and progress of one vCPU.
pub(crate) struct VcpuChannel {
    entry: *mut Vcpu,
    program: *const Op,
    program_ops: usize,
    records: *mut Record,
    capacity: u64,
    written: u64,
    dropped: u64,
}

impl VcpuChannel {
    /// Returns the program.
    pub(crate) fn program(&self) -> &'static [Op] {
        // SAFETY: the host wrote these ops before this vCPU runs them. It changes them only after the vCPU has asked
        // for the next program, when the vCPU holds no reference to them any more.
        unsafe { core::slice::from_raw_parts(self.program, self.program_ops) }
    }

    /// Returns the index of the op that the vCPU runs.
    pub(crate) fn current_op(&self) -> u32 {
        // SAFETY: the entry stays mapped, and only this vCPU writes the field.
        unsafe { addr_of_mut!((*self.entry).current_op).read_volatile() as u32 }
    }

    /// Stores the identification registers of this vCPU, and the frequency of the counter.
    pub(crate) fn describe(&self, ctr_el0: u64, clidr_el1: u64, midr_el1: u64, mpidr_el1: u64, cntfrq_el0: u64) {
        store_field!(self.entry.ctr_el0 = ctr_el0);
        store_field!(self.entry.clidr_el1 = clidr_el1);
        store_field!(self.entry.midr_el1 = midr_el1);
        store_field!(self.entry.mpidr_el1 = mpidr_el1);
        store_field!(self.entry.cntfrq_el0 = cntfrq_el0);
    }

    /// Stores the resolution of the counter.
    pub(crate) fn set_resolution(&self, ticks: u64) {
        store_field!(self.entry.resolution_ticks = ticks);
    }

    /// Continues after the records that are in the buffer, for a CPU that took an unexpected exception.
    pub(crate) fn resume(&mut self) {
        // SAFETY: the entry stays mapped, and only this vCPU writes the field.
        self.written = unsafe { addr_of_mut!((*self.entry).records).read_volatile() };
    }

    /// Stores the state, ordered after all earlier stores of the vCPU.
    pub(crate) fn set_state(&self, state: State) {
        asm::dmb_ish();
        store_field!(self.entry.state = state as u64);
    }
}

impl Sink for VcpuChannel {
    fn at(&mut self, op: u32) {
        store_field!(self.entry.current_op = u64::from(op));
    }

    #[inline]
    fn record(&mut self, record: Record) {
        if self.written >= self.capacity {
            self.dropped += 1;
            store_field!(self.entry.dropped = self.dropped);
            return;
        }
        // SAFETY: the index is below the capacity for which the host made room, in memory that stays mapped.
        unsafe { self.records.add(self.written as usize).write(record) };
        self.written += 1;
        // SAFETY: the field is aligned and stays mapped. Only this vCPU writes it; the host reads it.
        let written = unsafe { AtomicU64::from_ptr(addr_of_mut!((*self.entry).records)) };
        written.store(self.written, Ordering::Release);
    }
}

/// Records of one CPU that stay in the image, for the built-in program.
pub(crate) struct LocalRecords<const N: usize> {
    records: [Record; N],
    len: usize,
    /// CTR_EL0 as this CPU reads it.
    pub(crate) ctr_el0: u64,
}

impl<const N: usize> LocalRecords<N> {
    /// Returns room for `N` records.
    pub(crate) const fn new() -> Self {
        Self { records: [Record::from_words([0; 8]); N], len: 0, ctr_el0: 0 }
    }

    /// Returns the records so far.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records[..self.len]
    }
}

impl<const N: usize> Sink for LocalRecords<N> {
    fn at(&mut self, _: u32) {}

    fn record(&mut self, record: Record) {
        if let Some(slot) = self.records.get_mut(self.len) {
            *slot = record;
            self.len += 1;
        }
    }
}
