//! How each host event is done. What it means is in `coherence::event`.

use std::io;
use std::time::Duration;

use abi::op::Barrier;
use abi::{Op, OpCode, slot};
use rustix::process::Signal;
use vm_memory::{Bytes, VolatileMemoryError};

use crate::host::{Host, Logging};
use crate::memory::HostMemory;
use crate::userfault::{Page, Server};
use crate::{Error, Watch, run_on};
use guest::event::{Contents, Event};
use guest::report::End;
use guest::spec::{Backing, GuestSpec};

/// One event to be done to the first region.
#[derive(Clone, Debug)]
pub struct Act<'a> {
    /// What.
    pub event: Event,
    /// The vCPU that asked.
    pub vcpu: usize,
    /// IPAs of the slots that are written, where the event writes.
    pub written: &'a [u64],
    /// What these become.
    pub generation: u16,
    /// IPAs of every slot in use: they keep their contents.
    pub slots: &'a [u64],
}

impl Act<'_> {
    /// Returns an event that writes nothing, to memory whose contents it keeps by itself.
    pub fn on_nothing(event: Event, vcpu: usize) -> Self {
        Self { event, vcpu, written: &[], generation: 0, slots: &[] }
    }
}

/// Why an event did not happen. The guest's memory is as it was, unless a message says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A system call failed.
    #[error("{0}: {1}")]
    Call(&'static str, io::Error),
    /// KVM refused.
    #[error("{0}")]
    Kvm(#[from] Error),
    /// This machine does not have it.
    #[error("{0}")]
    NotHere(&'static str),
    /// The second VM did not end well.
    #[error("the second VM: {0}")]
    SecondVm(String),
    /// The region does not hold the slots.
    #[error("guest memory: {0}")]
    Memory(#[from] VolatileMemoryError),
}

fn call(name: &'static str) -> impl Fn(io::Error) -> Refused {
    move |error| Refused::Call(name, error)
}

/// IPA distance of a slot that was moved away from its region, beyond any region and within 40 bits.
const MOVED_IPA_OFFSET: u64 = 1 << 38;
/// Time for the second VM, which writes some code and ends.
const SECOND_VM_LIMIT: Duration = Duration::from_secs(60);

/// Older kernels keep pages that the guest has used since the last look, and only note that they looked
/// (`folio_check_references` in 6.1, by the MMU notifier).
const PAGE_OUT_TRIES: usize = 3;

/// Flag of move_pages(2): pages of this process alone. Kernel: include/uapi/linux/mempolicy.h.
const MPOL_MF_MOVE: i32 = 1 << 1;

/// The instructions of a slot, as bytes.
type Code = [u8; 4 * slot::INSTRUCTIONS];

fn code(ipa: u64, generation: u16) -> Code {
    let mut bytes = Code::default();
    for (to, from) in bytes.chunks_exact_mut(4).zip(slot::encode(ipa, generation)) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    bytes
}

impl Host<'_> {
    /// Does one event to the first region.
    ///
    /// # Errors
    ///
    /// Why it could not be done.
    pub fn perform(&self, act: &Act<'_>) -> Result<(), Refused> {
        self.settle();
        let (region, memory) = self.region(0).map_err(call("region"))?;
        match act.event {
            Event::Rewrite => Ok(self.write(act)?),
            Event::Unmap => memory.unmap_stage2().map_err(call("mprotect")),
            Event::ProtectReadOnly => memory.protect_read_only().map_err(call("mprotect")),
            Event::Discard => self.discard_and_write(act, memory),
            Event::Remap => self.remap(act, memory),
            Event::Migrate => migrate(self, act, memory),
            Event::SlotDelete => Ok(self.delete_slot(0)?),
            Event::SlotMove => Ok(self.move_slot(0, region.ipa + MOVED_IPA_OFFSET)?),
            Event::DirtyLogOn => Ok(self.log_dirty(0, Logging::On)?),
            Event::DirtyLogOff => Ok(self.log_dirty(0, Logging::Off)?),
            Event::CopyOnWrite => self.copy_on_write(act, memory),
            Event::Fork => self.fork(memory),
            Event::Swap => self.swap(act, memory),
            Event::MoveVcpu => self.move_vcpu(act.vcpu),
            Event::SecondVm => self.second_vm(act),
            Event::Userfault => self.userfault(act, memory),
        }
    }

    /// Writes the event's generation into the slots that it writes.
    fn write(&self, act: &Act<'_>) -> Result<(), VolatileMemoryError> {
        let contents: Vec<_> = act.written.iter().map(|ipa| (*ipa, code(*ipa, act.generation))).collect();
        self.put(self.regions.first(), &contents)
    }

    /// Returns what every slot in use is to hold after the event.
    fn contents(&self, act: &Act<'_>, memory: &HostMemory) -> Result<Vec<(u64, Code)>, VolatileMemoryError> {
        let mut contents = Vec::with_capacity(act.slots.len());
        for ipa in act.slots {
            let mut bytes = Code::default();
            memory.slice().read_slice(&mut bytes, self.offset(*ipa))?;
            contents.push((*ipa, bytes));
        }
        if act.event.contents() == Contents::Written {
            for ipa in act.written {
                if let Ok(at) = contents.binary_search_by_key(ipa, |(ipa, _)| *ipa) {
                    contents[at].1 = code(*ipa, act.generation);
                }
            }
        }
        Ok(contents)
    }

    fn offset(&self, ipa: u64) -> usize {
        let base = self.spec.regions.first().map_or(0, |region| region.ipa);
        ipa.wrapping_sub(base) as usize
    }

    fn put(&self, memory: Option<&HostMemory>, contents: &[(u64, Code)]) -> Result<(), VolatileMemoryError> {
        let Some(memory) = memory else { return Ok(()) };
        let slice = memory.slice();
        contents.iter().try_for_each(|(ipa, bytes)| slice.write_slice(bytes, self.offset(*ipa)))
    }

    fn discard_and_write(&self, act: &Act<'_>, memory: &HostMemory) -> Result<(), Refused> {
        let contents = self.contents(act, memory)?;
        memory.drop_contents().map_err(call("madvise"))?;
        Ok(self.put(Some(memory), &contents)?)
    }

    fn remap(&self, act: &Act<'_>, memory: &HostMemory) -> Result<(), Refused> {
        let contents = self.contents(act, memory)?;
        let (region, _) = self.region(0).map_err(call("region"))?;
        let prepared = HostMemory::new(region).map_err(call("a second region: mmap"))?;
        self.put(Some(&prepared), &contents)?;
        memory.replace_by(prepared).map_err(call("mremap"))
    }

    /// Breaks copy-on-write in every page in use, by the host's own writes.
    fn copy_on_write(&self, act: &Act<'_>, memory: &HostMemory) -> Result<(), Refused> {
        let contents = self.contents(act, memory)?;
        self.fork(memory)?;
        self.put(Some(memory), &contents)?;
        self.settle();
        Ok(())
    }

    /// Forks a child that does nothing but share the pages.
    fn fork(&self, memory: &HostMemory) -> Result<(), Refused> {
        if memory.is_shared() {
            return Err(Refused::NotHere("shared memory is not copied on write"));
        }
        let parent = rustix::process::getpid();
        // SAFETY: the child of this threaded process makes system calls alone, and never returns.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // It has this process's locks, the VM and the trace: it may not outlive it, not even by SIGKILL.
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            while rustix::process::getppid() == Some(parent) {
                // SAFETY: waits for the signal that ends it.
                unsafe { libc::pause() };
            }
            // SAFETY: ends the child without running anything of its parent's.
            unsafe { libc::_exit(0) };
        }
        let child = rustix::process::Pid::from_raw(child).ok_or_else(io::Error::last_os_error).map_err(call("fork"))?;
        self.child.set(Some(child));
        Ok(())
    }

    fn swap(&self, act: &Act<'_>, memory: &HostMemory) -> Result<(), Refused> {
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        if swaps.lines().count() < 2 {
            return Err(Refused::NotHere("no swap (/proc/swaps is empty)"));
        }
        let vas: Vec<_> = act.slots.iter().map(|ipa| memory.host_va() + self.offset(*ipa) as u64).collect();
        for _ in 0..PAGE_OUT_TRIES {
            memory.page_out().map_err(call("madvise(MADV_PAGEOUT)"))?;
            if present(&vas).map_err(call("/proc/self/pagemap"))? < vas.len() {
                return Ok(());
            }
        }
        Err(Refused::NotHere("madvise(MADV_PAGEOUT) took no page out"))
    }

    fn move_vcpu(&self, vcpu: usize) -> Result<(), Refused> {
        let moved = self.move_on(vcpu).ok_or(Refused::NotHere("one CPU: nowhere to move a vCPU"))?;
        moved.map(drop).map_err(call("sched_setaffinity"))
    }

    /// Runs a guest of its own on the same memory, which writes the code and does its own maintenance.
    fn second_vm(&self, act: &Act<'_>) -> Result<(), Refused> {
        let one = |code, ipa, arg| Op::range(code, ipa, slot::BYTES, 0, arg);
        let mut program: Vec<_> =
            act.written.iter().map(|ipa| one(OpCode::WriteCode, *ipa, u64::from(act.generation))).collect();
        program.extend(act.written.iter().map(|ipa| one(OpCode::CleanD, *ipa, 0)));
        program.push(Op::barrier(Barrier::DsbIsh));
        program.extend(act.written.iter().map(|ipa| one(OpCode::InvalI, *ipa, 0)));
        program.extend([Op::barrier(Barrier::DsbIsh), Op::barrier(Barrier::Isb), Op::end()]);
        let records = program.len() as u64;
        let spec = GuestSpec {
            regions: self.spec.regions.clone(),
            programs: vec![program],
            records,
            ctr: self.spec.ctr,
            ..GuestSpec::default()
        };
        let run = run_on(&spec, self.image, SECOND_VM_LIMIT, &mut Unwatched, self.regions, "second")?;
        match guest::report::trouble(&run) {
            None if run.end == End::PoweredOff => Ok(()),
            trouble => Err(Refused::SecondVm(trouble.unwrap_or_else(|| format!("{:?}", run.end)))),
        }
    }

    fn userfault(&self, act: &Act<'_>, memory: &HostMemory) -> Result<(), Refused> {
        let (region, _) = self.region(0).map_err(call("region"))?;
        let page_bytes = match region.backing {
            Backing::Hugetlb(bytes) => bytes,
            _ => rustix::param::page_size() as u64,
        };
        let mut pages: Vec<Page> = Vec::new();
        for (ipa, bytes) in self.contents(act, memory)? {
            let va = memory.host_va() + self.offset(ipa) as u64;
            let (start, offset) = (va & !(page_bytes - 1), (va & (page_bytes - 1)) as usize);
            match pages.last_mut().filter(|page| page.va == start) {
                Some(page) => page.pieces.push((offset, bytes.to_vec())),
                None => pages.push(Page { va: start, pieces: vec![(offset, bytes.to_vec())] }),
            }
        }
        let server = Server::register(memory.host_va(), memory.bytes(), page_bytes).map_err(call("userfaultfd"))?;
        memory.drop_contents().map_err(call("madvise"))?;
        *self.server.borrow_mut() = Some(server.serve(pages).map_err(call("userfaultfd"))?);
        Ok(())
    }
}

/// Watches nothing: the second VM asks for nothing and ends soon.
struct Unwatched;

impl Watch for Unwatched {
    fn event(&mut self, _: usize, _: &Op, _: &Host<'_>) {}
    fn tick(&mut self) {}
    fn interrupted(&self) -> bool {
        false
    }
}

/// Moves the pages of all slots to another NUMA node.
fn migrate(host: &Host<'_>, act: &Act<'_>, memory: &HostMemory) -> Result<(), Refused> {
    let page_bytes = rustix::param::page_size() as u64;
    let va = |ipa: &u64| (memory.host_va() + host.offset(*ipa) as u64) & !(page_bytes - 1);
    let mut pages: Vec<u64> = act.slots.iter().map(va).collect();
    pages.dedup();
    let nodes = move_pages(&pages, None).map_err(call("move_pages"))?;
    let from = nodes.iter().copied().find(|node| *node >= 0).unwrap_or(0);
    let to = other_node(from).ok_or(Refused::NotHere("one NUMA node: nowhere to migrate pages to"))?;
    let status = move_pages(&pages, Some(to)).map_err(call("move_pages"))?;
    match status.into_iter().find(|status| *status != to) {
        None => Ok(()),
        Some(errno) => Err(Refused::Call("move_pages", io::Error::from_raw_os_error(-errno))),
    }
}

/// Returns a NUMA node with memory that is not `node`.
fn other_node(node: i32) -> Option<i32> {
    let nodes = std::fs::read_to_string("/sys/devices/system/node/has_memory").ok()?;
    let ranges = nodes.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<i32>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().find(|other| *other != node)
}

/// Returns the node of each page, or moves them to `node` and returns where they are then; negative is an errno.
fn move_pages(pages: &[u64], node: Option<i32>) -> io::Result<Vec<i32>> {
    let nodes = node.map(|node| vec![node; pages.len()]);
    let mut status = vec![-libc::ENOENT; pages.len()];
    let nodes = nodes.as_ref().map_or(std::ptr::null(), |nodes| nodes.as_ptr());
    // SAFETY: the three arrays have as many entries as are named; pages that move keep their contents.
    let result = unsafe {
        libc::syscall(libc::SYS_move_pages, 0, pages.len(), pages.as_ptr(), nodes, status.as_mut_ptr(), MPOL_MF_MOVE)
    };
    // A positive number counts pages that did not move, which their status says as well.
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

/// Returns how many of these host VAs are in this process's page tables (bit 63 of proc_pid_pagemap).
fn present(vas: &[u64]) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;
    let pagemap = std::fs::File::open("/proc/self/pagemap")?;
    let page_bytes = rustix::param::page_size() as u64;
    let mut count = 0;
    for va in vas {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, va / page_bytes * 8)?;
        count += usize::from(u64::from_le_bytes(entry) >> 63 != 0);
    }
    Ok(count)
}
