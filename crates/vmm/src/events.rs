//! The system calls behind each host event. [`guest::event`] defines the effects of the events.
//!
//! The event `SecondVm` runs a whole guest on the same memory, so this module uses `run`. No module that `run` uses may
//! use this one: the caller's watch calls [`Host::perform`].

use std::io;
use std::time::Duration;

use abi::op::Barrier;
use abi::{Op, OpCode, slot};
use guest::event::{Contents, Event};
use guest::report::{End, trouble};
use guest::spec::{Backing, GuestSpec};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use vm_memory::{Bytes, VolatileMemoryError};

use crate::error::Error;
use crate::host::{DirtyLogging, Host};
use crate::memory::HostMemory;
use crate::run::run_on;
use crate::userfault::{Page, PageServer};
use crate::vm::Parts;
use crate::watch::Unwatched;

/// A host event with its arguments. It acts on the first region.
#[derive(Clone, Debug)]
pub struct EventRequest<'a> {
    /// The event.
    pub event: Event,
    /// Index of the vCPU that asks for it.
    pub vcpu: usize,
    /// IPAs of the slots that an event that writes is to write.
    pub written: &'a [u64],
    /// The new generation of these slots.
    pub generation: u16,
    /// Sorted IPAs of all slots in use. The others of them keep their contents.
    pub slots: &'a [u64],
}

impl EventRequest<'_> {
    /// Returns a request for an event that writes nothing and that keeps all contents without the host's help.
    pub fn without_slots(event: Event, vcpu: usize) -> Self {
        Self { event, vcpu, written: &[], generation: 0, slots: &[] }
    }
}

/// Reason why a host event did not happen. The guest's memory is unchanged unless the message says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// A system call failed.
    #[error("{0}: {1}")]
    Call(&'static str, io::Error),
    /// KVM refused.
    #[error("{0}")]
    Kvm(#[from] Error),
    /// The machine lacks something that the event needs.
    #[error("{0}")]
    NotHere(&'static str),
    /// The second VM did not power itself off.
    #[error("the second VM: {0}")]
    SecondVm(String),
    /// The region does not hold the slots.
    #[error("guest memory: {0}")]
    Memory(#[from] VolatileMemoryError),
}

fn call(name: &'static str) -> impl Fn(io::Error) -> EventError {
    move |error| EventError::Call(name, error)
}

/// Distance in IPA space by which `SlotMove` moves a memslot: beyond every region, and within 40 bits.
const MOVED_IPA_OFFSET: u64 = 1 << 38;
/// Time limit of the second VM, which only writes some code.
const SECOND_VM_LIMIT: Duration = Duration::from_secs(60);

/// Number of attempts to page memory out.
///
/// Older kernels keep pages that the guest has used since the last attempt, and only clear the mark of use
/// (`folio_check_references` in 6.1, by the MMU notifier).
const PAGE_OUT_TRIES: usize = 3;

/// Flag of move_pages(2): move only pages that this process alone uses. Kernel: include/uapi/linux/mempolicy.h.
const MPOL_MF_MOVE: i32 = 1 << 1;

/// The instructions of a slot as bytes.
type Code = [u8; 4 * slot::INSTRUCTIONS];

fn code(ipa: u64, generation: u16) -> Code {
    let mut bytes = Code::default();
    for (to, from) in bytes.chunks_exact_mut(4).zip(slot::encode(ipa, generation)) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    bytes
}

impl Host<'_> {
    /// Carries out one host event.
    ///
    /// # Errors
    ///
    /// The reason why the event did not happen.
    pub fn perform(&self, request: &EventRequest<'_>) -> Result<(), EventError> {
        self.settle().map_err(call("userfaultfd: ioctl(UFFDIO_COPY)"))?;
        let (region, memory) = self.region(0).map_err(call("region"))?;
        match request.event {
            Event::Rewrite => Ok(self.write(request)?),
            Event::Unmap => memory.unmap_stage2().map_err(call("mprotect")),
            Event::ProtectReadOnly => memory.protect_read_only().map_err(call("mprotect")),
            Event::Discard => self.drop_and_write(request, memory),
            Event::Remap => self.remap(request, memory),
            Event::Migrate => self.migrate(request, memory),
            Event::SlotDelete => Ok(self.delete_slot(0)?),
            Event::SlotMove => Ok(self.move_slot(0, region.ipa + MOVED_IPA_OFFSET)?),
            Event::DirtyLogOn => Ok(self.log_dirty(0, DirtyLogging::On)?),
            Event::DirtyLogOff => Ok(self.log_dirty(0, DirtyLogging::Off)?),
            Event::CopyOnWrite => self.copy_on_write(request, memory),
            Event::Fork => self.fork(memory),
            Event::Swap => self.swap(request, memory),
            Event::MoveVcpu => self.move_vcpu(request.vcpu),
            Event::SecondVm => self.second_vm(request),
            Event::Userfault => self.userfault(request, memory),
        }
    }

    /// Writes the new generation into the slots that the event writes.
    fn write(&self, request: &EventRequest<'_>) -> Result<(), VolatileMemoryError> {
        let contents: Vec<_> = request.written.iter().map(|ipa| (*ipa, code(*ipa, request.generation))).collect();
        self.put(self.parts.regions.first(), &contents)
    }

    /// Returns the contents that each slot in use must have after the event.
    fn contents(
        &self,
        request: &EventRequest<'_>,
        memory: &HostMemory,
    ) -> Result<Vec<(u64, Code)>, VolatileMemoryError> {
        let mut contents = Vec::with_capacity(request.slots.len());
        for ipa in request.slots {
            let mut bytes = Code::default();
            memory.slice().read_slice(&mut bytes, self.offset(*ipa))?;
            contents.push((*ipa, bytes));
        }
        if request.event.contents() == Contents::Written {
            for ipa in request.written {
                if let Ok(at) = contents.binary_search_by_key(ipa, |(ipa, _)| *ipa) {
                    contents[at].1 = code(*ipa, request.generation);
                }
            }
        }
        Ok(contents)
    }

    fn offset(&self, ipa: u64) -> usize {
        let base = self.parts.spec.regions.first().map_or(0, |region| region.ipa);
        ipa.wrapping_sub(base) as usize
    }

    fn put(&self, memory: Option<&HostMemory>, contents: &[(u64, Code)]) -> Result<(), VolatileMemoryError> {
        let Some(memory) = memory else { return Ok(()) };
        let slice = memory.slice();
        contents.iter().try_for_each(|(ipa, bytes)| slice.write_slice(bytes, self.offset(*ipa)))
    }

    fn drop_and_write(&self, request: &EventRequest<'_>, memory: &HostMemory) -> Result<(), EventError> {
        let contents = self.contents(request, memory)?;
        memory.drop_contents().map_err(call("madvise"))?;
        Ok(self.put(Some(memory), &contents)?)
    }

    fn remap(&self, request: &EventRequest<'_>, memory: &HostMemory) -> Result<(), EventError> {
        let contents = self.contents(request, memory)?;
        let (region, _) = self.region(0).map_err(call("region"))?;
        let prepared = HostMemory::new(region).map_err(call("a second region: mmap"))?;
        self.put(Some(&prepared), &contents)?;
        memory.replace_by(prepared).map_err(call("mremap"))
    }

    /// Moves the pages of all slots to another NUMA node.
    fn migrate(&self, request: &EventRequest<'_>, memory: &HostMemory) -> Result<(), EventError> {
        let page_bytes = rustix::param::page_size() as u64;
        let va = |ipa: &u64| (memory.host_va() + self.offset(*ipa) as u64) & !(page_bytes - 1);
        let mut pages: Vec<u64> = request.slots.iter().map(va).collect();
        pages.dedup();
        let nodes = move_pages(&pages, None).map_err(call("move_pages"))?;
        let from = nodes.iter().copied().find(|node| *node >= 0).unwrap_or(0);
        let to = other_node(from).ok_or(EventError::NotHere("one NUMA node: nowhere to migrate pages to"))?;
        let status = move_pages(&pages, Some(to)).map_err(call("move_pages"))?;
        // A large folio moves with the first of its pages. The kernel answers EBUSY for the others.
        let nodes = move_pages(&pages, None).map_err(call("move_pages"))?;
        match nodes.iter().zip(status).find(|(node, _)| **node != to) {
            None => Ok(()),
            Some((_, errno)) => Err(EventError::Call("move_pages", io::Error::from_raw_os_error(-errno))),
        }
    }

    /// Breaks copy-on-write of every page in use with writes by the host.
    fn copy_on_write(&self, request: &EventRequest<'_>, memory: &HostMemory) -> Result<(), EventError> {
        let contents = self.contents(request, memory)?;
        self.fork(memory)?;
        self.put(Some(memory), &contents)?;
        self.settle().map_err(call("userfaultfd: ioctl(UFFDIO_COPY)"))
    }

    /// Forks a child that only shares the pages.
    fn fork(&self, memory: &HostMemory) -> Result<(), EventError> {
        if memory.is_shared() {
            return Err(EventError::NotHere("shared memory is not copied on write"));
        }
        let parent = getpid();
        // SAFETY: the child of this process with threads only makes system calls and never returns.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // The child holds the locks, the VM and the trace of its parent, so it must end with it, even after
            // SIGKILL.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            while getppid() == Some(parent) {
                // SAFETY: pause only waits for the signal that ends the child.
                unsafe { libc::pause() };
            }
            // SAFETY: _exit ends the child without running any code of its parent.
            unsafe { libc::_exit(0) };
        }
        let child = Pid::from_raw(child).ok_or_else(io::Error::last_os_error).map_err(call("fork"))?;
        self.child.set(Some(child));
        Ok(())
    }

    fn swap(&self, request: &EventRequest<'_>, memory: &HostMemory) -> Result<(), EventError> {
        if !hostfacts::memory::has_swap() {
            return Err(EventError::NotHere("no swap (/proc/swaps is empty)"));
        }
        let vas: Vec<_> = request.slots.iter().map(|ipa| memory.host_va() + self.offset(*ipa) as u64).collect();
        for _ in 0..PAGE_OUT_TRIES {
            memory.page_out().map_err(call("madvise(MADV_PAGEOUT)"))?;
            if hostfacts::memory::count_present(&vas).map_err(call("pread(pagemap)"))? < vas.len() {
                return Ok(());
            }
        }
        Err(EventError::NotHere("madvise(MADV_PAGEOUT) took no page out"))
    }

    fn move_vcpu(&self, vcpu: usize) -> Result<(), EventError> {
        let moved = self.move_to_next_cpu(vcpu).ok_or(EventError::NotHere("one CPU: nowhere to move a vCPU"))?;
        moved.map(drop).map_err(call("sched_setaffinity"))
    }

    /// Runs a second guest on the same memory. It writes the code and does its own maintenance.
    fn second_vm(&self, request: &EventRequest<'_>) -> Result<(), EventError> {
        let program = writing_program(request.written, request.generation);
        let spec = GuestSpec {
            regions: self.parts.spec.regions.clone(),
            records: program.len() as u64,
            programs: vec![program],
            ctr: self.parts.spec.ctr,
            ..GuestSpec::default()
        };
        let run = run_on(Parts { spec: &spec, ..self.parts }, "second", SECOND_VM_LIMIT, &mut Unwatched)?;
        match trouble(&run) {
            None if run.end == End::PoweredOff => Ok(()),
            trouble => Err(EventError::SecondVm(trouble.unwrap_or_else(|| format!("{:?}", run.end)))),
        }
    }

    fn userfault(&self, request: &EventRequest<'_>, memory: &HostMemory) -> Result<(), EventError> {
        let (region, _) = self.region(0).map_err(call("region"))?;
        let page_bytes = match region.backing {
            Backing::Hugetlb(bytes) => bytes,
            _ => rustix::param::page_size() as u64,
        };
        let mut pages: Vec<Page> = Vec::new();
        for (ipa, bytes) in self.contents(request, memory)? {
            let va = memory.host_va() + self.offset(ipa) as u64;
            let (start, offset) = (va & !(page_bytes - 1), (va & (page_bytes - 1)) as usize);
            match pages.last_mut().filter(|page| page.va == start) {
                Some(page) => page.pieces.push((offset, bytes.to_vec())),
                None => pages.push(Page { va: start, pieces: vec![(offset, bytes.to_vec())] }),
            }
        }
        let server = PageServer::register(memory.host_va(), memory.bytes(), page_bytes).map_err(call("userfaultfd"))?;
        memory.drop_contents().map_err(call("madvise"))?;
        *self.page_server.borrow_mut() = Some(server.serve(pages).map_err(call("userfaultfd"))?);
        Ok(())
    }
}

/// Returns a program that writes this generation into the slots and does the maintenance for it.
fn writing_program(slots: &[u64], generation: u16) -> Vec<Op> {
    let on_slot = |code, ipa, arg| Op::range(code, ipa, slot::BYTES, 0, arg);
    let mut program: Vec<_> = slots.iter().map(|ipa| on_slot(OpCode::WriteCode, *ipa, u64::from(generation))).collect();
    program.extend(slots.iter().map(|ipa| on_slot(OpCode::CleanD, *ipa, 0)));
    program.push(Op::barrier(Barrier::DsbIsh));
    program.extend(slots.iter().map(|ipa| on_slot(OpCode::InvalI, *ipa, 0)));
    program.extend([Op::barrier(Barrier::DsbIsh), Op::barrier(Barrier::Isb), Op::end()]);
    program
}

/// Returns a NUMA node with memory that is not `node`.
fn other_node(node: i32) -> Option<i32> {
    hostfacts::memory::numa_nodes().into_iter().filter_map(|other| other.try_into().ok()).find(|other| *other != node)
}

/// Moves the pages to `node` and returns the node of each page afterwards. With `None`, it moves nothing. A negative
/// number is an errno.
fn move_pages(pages: &[u64], node: Option<i32>) -> io::Result<Vec<i32>> {
    let nodes = node.map(|node| vec![node; pages.len()]);
    let mut status = vec![-libc::ENOENT; pages.len()];
    let nodes = nodes.as_ref().map_or(std::ptr::null(), |nodes| nodes.as_ptr());
    // SAFETY: each of the three arrays has `pages.len()` entries, or is null where that is allowed. Pages that move
    // keep their contents.
    let result = unsafe {
        libc::syscall(libc::SYS_move_pages, 0, pages.len(), pages.as_ptr(), nodes, status.as_mut_ptr(), MPOL_MF_MOVE)
    };
    // A positive result counts the pages that did not move. Their status tells the same.
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}
