//! The guest's side of the channel: programs in, records and progress out.

use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::channel::{HEADER_BYTES, MAGIC, State, VCPU_BYTES, VERSION};
use abi::{Header, Op, Record, Region, Vcpu};
use payload::interpreter::Sink;

use crate::platform::Range;

macro_rules! store_field {
    ($self:ident.$pointer:ident $(($($argument:tt)*))? . $field:ident = $value:expr) => {
        // SAFETY: the channel is mapped for good; the field is the guest's, and written by one CPU alone.
        unsafe { addr_of_mut!((*$self.$pointer $(($($argument)*))?).$field).write_volatile($value) }
    };
}

/// The mapped channel.
#[derive(Clone, Copy)]
pub struct Channel {
    base: u64,
}

// SAFETY: an address; what lies behind is only reached through volatile or atomic accesses, each field by one CPU.
unsafe impl Send for Channel {}

impl Channel {
    /// Returns the channel in `memory` if it speaks this version.
    ///
    /// # Safety
    ///
    /// `memory` must be mapped for good, and used for the channel alone.
    pub unsafe fn open(memory: Range) -> Option<Self> {
        let channel = Self { base: memory.base };
        let header = channel.header();
        (header.magic == MAGIC && header.version == VERSION).then_some(channel)
    }

    fn header_ptr(&self) -> *mut Header {
        self.base as *mut Header
    }

    /// Returns a copy of the header.
    pub fn header(&self) -> Header {
        // SAFETY: `open`'s caller has the channel mapped; the host writes the header before the guest runs.
        unsafe { self.header_ptr().read_volatile() }
    }

    /// Returns the regions to map.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        let header = self.header();
        let first = (self.base + header.regions_offset) as *const Region;
        // SAFETY: as for `header`; the host lays the regions out inside the channel.
        (0..header.regions as usize).map(move |n| unsafe { first.add(n).read_volatile() })
    }

    /// Notes when the guest's first instruction ran.
    pub fn set_entry_ticks(&self, ticks: u64) {
        store_field!(self.header_ptr().entry_ticks = ticks);
    }

    /// Notes what mapping the regions took.
    pub fn set_descriptor_writes(&self, count: u64) {
        store_field!(self.header_ptr().descriptor_writes = count);
    }

    /// Notes when the first op of vCPU 0 runs.
    pub fn set_first_op_ticks(&self, ticks: u64) {
        store_field!(self.header_ptr().first_op_ticks = ticks);
    }

    /// Returns vCPU `index`'s part.
    pub fn vcpu(&self, index: usize) -> VcpuChannel {
        let entry = (self.base + HEADER_BYTES + index as u64 * VCPU_BYTES) as *mut Vcpu;
        // SAFETY: as for `header`; the host writes its half of the entry before the guest runs, and again only while all
        // vCPUs wait for their next program.
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

/// One vCPU's program, record ring and progress.
pub struct VcpuChannel {
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
    pub fn program(&self) -> &'static [Op] {
        // SAFETY: the host wrote these ops before this vCPU came to run them and leaves them alone until it asks for
        // others, when no reference from here is left.
        unsafe { core::slice::from_raw_parts(self.program, self.program_ops) }
    }

    /// Returns the op that was noted last.
    pub fn current_op(&self) -> u32 {
        // SAFETY: the entry is mapped for good; the field is this vCPU's own.
        unsafe { addr_of_mut!((*self.entry).current_op).read_volatile() as u32 }
    }

    /// Notes what this vCPU is; the other arguments are the registers of the same names.
    pub fn describe(&self, ctr_el0: u64, clidr_el1: u64, midr_el1: u64, mpidr_el1: u64, cntfrq_el0: u64) {
        store_field!(self.entry.ctr_el0 = ctr_el0);
        store_field!(self.entry.clidr_el1 = clidr_el1);
        store_field!(self.entry.midr_el1 = midr_el1);
        store_field!(self.entry.mpidr_el1 = mpidr_el1);
        store_field!(self.entry.cntfrq_el0 = cntfrq_el0);
    }

    /// Notes the counter's resolution.
    pub fn set_resolution(&self, ticks: u64) {
        store_field!(self.entry.resolution_ticks = ticks);
    }

    /// Goes on after the records already in the ring, for a CPU that lost its place.
    pub fn resume(&mut self) {
        // SAFETY: the entry is mapped for good; the field is this vCPU's own.
        self.written = unsafe { addr_of_mut!((*self.entry).records).read_volatile() };
    }

    /// Notes how far the vCPU is, after everything it wrote before.
    pub fn set_state(&self, state: State) {
        crate::asm::dmb_ish();
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
        // SAFETY: below the capacity that the host made room for, in memory mapped for good.
        unsafe { self.records.add(self.written as usize).write(record) };
        self.written += 1;
        // SAFETY: the field is aligned, mapped for good, and written by this vCPU alone; the host reads it.
        let written = unsafe { AtomicU64::from_ptr(addr_of_mut!((*self.entry).records)) };
        written.store(self.written, Ordering::Release);
    }
}

/// Records kept in the image, for the built-in plan.
pub struct Local<const N: usize> {
    /// What was recorded.
    pub records: [Record; N],
    /// How many of them.
    pub len: usize,
    /// CTR_EL0 as this CPU reads it.
    pub ctr_el0: u64,
}

impl<const N: usize> Local<N> {
    /// Returns room for `N` records.
    pub const fn new() -> Self {
        Self { records: [Record::from_words([0; 8]); N], len: 0, ctr_el0: 0 }
    }
}

impl<const N: usize> Sink for Local<N> {
    fn at(&mut self, _: u32) {}

    fn record(&mut self, record: Record) {
        if let Some(slot) = self.records.get_mut(self.len) {
            *slot = record;
            self.len += 1;
        }
    }
}
