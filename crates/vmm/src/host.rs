//! The host's access to a running guest: the memory and the memslots of its regions, and the threads of its vCPUs.

use std::cell::{Cell, RefCell};
use std::io;

use abi::Op;
use guest::spec::RegionSpec;
use hostfacts::affinity;
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_ioctls::VmFd;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use vm_memory::Bytes;

use crate::error::Error;
use crate::memory::HostMemory;
use crate::memslots::{self, region_slot};
use crate::shared::Shared;
use crate::userfault::PageServer;
use crate::vm::Parts;

/// The host's access to a running guest, for the caller's watch.
pub struct Host<'a> {
    pub(crate) parts: Parts<'a>,
    vm: &'a VmFd,
    pub(crate) shared: &'a Shared,
    cpus: &'a [usize],
    /// Index in `cpus` of the CPU to which each vCPU is pinned.
    pinned: RefCell<Vec<usize>>,
    /// A child that shares the regions' pages until somebody writes to them.
    pub(crate) child: Cell<Option<Pid>>,
    /// The server of the pages that the guest has not touched yet.
    pub(crate) page_server: RefCell<Option<PageServer>>,
}

impl<'a> Host<'a> {
    pub(crate) fn new(parts: Parts<'a>, vm: &'a VmFd, shared: &'a Shared, cpus: &'a [usize]) -> Self {
        let pinned = RefCell::new((0..parts.spec.programs.len()).map(|n| n % cpus.len().max(1)).collect());
        Self { parts, vm, shared, cpus, pinned, child: Cell::new(None), page_server: RefCell::new(None) }
    }

    /// Returns the number of vCPUs.
    pub fn vcpus(&self) -> usize {
        self.parts.spec.programs.len()
    }

    /// Returns the number of CPUs to which vCPUs can be pinned.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// Replaces the host's copy of the programs.
    pub(crate) fn set_programs(&self, programs: Vec<Vec<Op>>) {
        self.shared.set_programs(programs);
    }

    /// Removes the stage-2 mappings of region `n` and keeps its contents.
    ///
    /// # Errors
    ///
    /// The error of mprotect(2), or EINVAL if there is no such region.
    pub fn unmap_stage2(&self, n: usize) -> io::Result<()> {
        self.region(n)?.1.unmap_stage2()
    }

    /// Removes the memory of region `n` while the VM lives, as the exit of a VMM does.
    ///
    /// # Errors
    ///
    /// The error of mmap(2), or EINVAL if there is no such region.
    pub fn discard(&self, n: usize) -> io::Result<()> {
        self.region(n)?.1.discard()
    }

    /// Writes the code slot of `ipa` in `generation` into region `n`.
    ///
    /// # Errors
    ///
    /// If region `n` does not exist or does not hold the slot.
    pub fn write_code(&self, n: usize, ipa: u64, generation: u16) -> io::Result<()> {
        let (region, memory) = self.region(n)?;
        let offset = ipa.checked_sub(region.ipa).ok_or(io::ErrorKind::InvalidInput)? as usize;
        let code = abi::slot::encode(ipa, generation).map(u32::to_le_bytes).concat();
        memory.slice().write_slice(&code, offset).map_err(io::Error::other)
    }

    /// Returns the host virtual address of region `n`, if there is one.
    pub fn host_va(&self, n: usize) -> Option<u64> {
        Some(self.region(n).ok()?.1.host_va())
    }

    pub(crate) fn region(&self, n: usize) -> io::Result<(&RegionSpec, &HostMemory)> {
        let found = self.parts.spec.regions.get(n).zip(self.parts.regions.get(n));
        found.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn region_of_slot(&self, n: usize) -> Result<(&RegionSpec, &HostMemory), Error> {
        self.region(n).map_err(|_| Error::NoRegion(n))
    }

    /// Deletes the memslot of region `n` and adds it again.
    pub(crate) fn delete_slot(&self, n: usize) -> Result<(), Error> {
        let (region, memory) = self.region_of_slot(n)?;
        memslots::delete(self.vm, region_slot(n))?;
        memslots::set(self.vm, region_slot(n), region.ipa, memory, 0)
    }

    /// Moves the memslot of region `n` to another IPA and back.
    pub(crate) fn move_slot(&self, n: usize, to: u64) -> Result<(), Error> {
        let (region, memory) = self.region_of_slot(n)?;
        memslots::set(self.vm, region_slot(n), to, memory, 0)?;
        memslots::set(self.vm, region_slot(n), region.ipa, memory, 0)
    }

    /// Enables or disables dirty logging of region `n`.
    pub(crate) fn log_dirty(&self, n: usize, logging: DirtyLogging) -> Result<(), Error> {
        let (region, memory) = self.region_of_slot(n)?;
        let flags = match logging {
            DirtyLogging::On => KVM_MEM_LOG_DIRTY_PAGES,
            DirtyLogging::Off => 0,
        };
        memslots::set(self.vm, region_slot(n), region.ipa, memory, flags)
    }

    /// Moves vCPU `index` to the next CPU and returns that CPU; returns `None` if there is no other CPU.
    pub(crate) fn move_to_next_cpu(&self, index: usize) -> Option<io::Result<usize>> {
        let mut pinned = self.pinned.borrow_mut();
        let at = pinned.get_mut(index)?;
        let to = (*at + 1) % self.cpus.len();
        if to == *at {
            return None;
        }
        *at = to;
        Some(self.pin(index, self.cpus[to]).map(|()| self.cpus[to]))
    }

    /// Moves all vCPUs back to their first CPUs.
    pub(crate) fn move_vcpus_back(&self) {
        for (index, at) in self.pinned.borrow_mut().iter_mut().enumerate() {
            let first = index % self.cpus.len().max(1);
            // If the first CPU went offline, the vCPU stays on its current CPU.
            if *at != first && self.pin(index, self.cpus[first]).is_ok() {
                *at = first;
            }
        }
    }

    fn pin(&self, index: usize, cpu: usize) -> io::Result<()> {
        affinity::pin(self.shared.thread(index).and_then(Pid::from_raw), cpu)
    }

    /// Ends the lasting effects of earlier events: kills a child that shares pages, and stops a page server, which
    /// first supplies all pages that are still missing.
    ///
    /// # Errors
    ///
    /// The error of a page that could not be supplied. The memory has lost its contents then.
    pub(crate) fn settle(&self) -> io::Result<()> {
        if let Some(child) = self.child.take() {
            // Both fail only if the child has ended already.
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
        self.page_server.borrow_mut().take().map_or(Ok(()), PageServer::finish)
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        // The guest is over, so nobody reads the memory any more.
        let _ = self.settle();
    }
}

/// State of KVM's dirty logging for a memslot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DirtyLogging {
    /// KVM logs the pages to which the guest writes.
    On,
    /// KVM logs nothing.
    Off,
}
