//! What a [`crate::Watch`] can do to the guest that it watches: the regions' memory, the memslots, the vCPUs' threads.

use std::cell::{Cell, RefCell};
use std::io;

use abi::Op;
use kvm_bindings::{
    KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, KVM_MEM_LOG_DIRTY_PAGES, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use rustix::process::Pid;
use vm_memory::Bytes;

use crate::memory::HostMemory;
use crate::userfault::Server;
use crate::vcpu::Shared;
use crate::{Error, REGION_SLOT};
use guest::spec::{GuestSpec, RegionSpec};
use hostfacts::affinity;

/// Adds or changes a memslot.
pub fn set_slot(vm: &VmFd, slot: u32, ipa: u64, memory: &HostMemory, flags: u32) -> Result<(), Error> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: ipa,
        memory_size: memory.bytes(),
        userspace_addr: memory.host_va(),
    };
    set_region(vm, region)
}

fn set_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), Error> {
    // SAFETY: the memory is mapped, belongs to the runner's guests alone, and is dropped after the VM.
    unsafe { vm.set_user_memory_region(region) }.map_err(|error| Error::Kvm("KVM_SET_USER_MEMORY_REGION", error))
}

/// Has KVM split blocks in chunks of this many bytes when dirty logging begins. It must be said before any memslot is
/// there (`kvm_vm_ioctl_enable_cap`).
pub fn split_eagerly(vm: &VmFd, chunk_bytes: u64) -> Result<(), Error> {
    let mut capability = kvm_enable_cap { cap: KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, ..kvm_enable_cap::default() };
    capability.args[0] = chunk_bytes;
    vm.enable_cap(&capability).map_err(Error::EagerSplit)
}

/// A guest as its watcher sees it.
pub struct Host<'a> {
    pub(super) spec: &'a GuestSpec,
    pub(super) image: &'a [u8],
    pub(super) regions: &'a [HostMemory],
    vm: &'a VmFd,
    pub(super) shared: &'a Shared,
    cpus: &'a [usize],
    /// Index in `cpus` of the CPU that each vCPU is pinned to.
    pinned: RefCell<Vec<usize>>,
    /// A child that shares the regions' pages until they are written.
    pub(super) child: Cell<Option<Pid>>,
    /// Who serves the region's pages, where nobody has touched them yet.
    pub(super) server: RefCell<Option<Server>>,
}

impl<'a> Host<'a> {
    pub(super) fn new(
        spec: &'a GuestSpec,
        image: &'a [u8],
        regions: &'a [HostMemory],
        vm: &'a VmFd,
        shared: &'a Shared,
        cpus: &'a [usize],
    ) -> Self {
        let pinned = RefCell::new((0..spec.programs.len()).map(|n| n % cpus.len().max(1)).collect());
        Self { spec, image, regions, vm, shared, cpus, pinned, child: Cell::new(None), server: RefCell::new(None) }
    }

    /// Returns the number of vCPUs.
    pub fn vcpus(&self) -> usize {
        self.spec.programs.len()
    }

    /// Returns the number of CPUs that vCPUs may be pinned to.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// Replaces the host's copy of the programs.
    pub(super) fn set_programs(&self, programs: Vec<Vec<Op>>) {
        self.shared.set_programs(programs);
    }

    /// Takes stage 2's mappings of region `n` away and leaves its contents.
    ///
    /// # Errors
    ///
    /// What mprotect said; EINVAL if there is no such region.
    pub fn unmap_stage2(&self, n: usize) -> io::Result<()> {
        self.region(n)?.1.unmap_stage2()
    }

    /// Takes the memory of region `n` away while the VM lives, as the end of a runner does.
    ///
    /// # Errors
    ///
    /// What mmap said; EINVAL if there is no such region.
    pub fn discard(&self, n: usize) -> io::Result<()> {
        self.region(n)?.1.discard()
    }

    /// Writes the code slot for `ipa` in `generation` into region `n`.
    ///
    /// # Errors
    ///
    /// If the region does not hold it.
    pub fn write_code(&self, n: usize, ipa: u64, generation: u16) -> io::Result<()> {
        let (region, memory) = self.region(n)?;
        let offset = ipa.checked_sub(region.ipa).ok_or(io::ErrorKind::InvalidInput)? as usize;
        let code = abi::slot::encode(ipa, generation).map(u32::to_le_bytes).concat();
        memory.slice().write_slice(&code, offset).map_err(io::Error::other)
    }

    pub(super) fn region(&self, n: usize) -> io::Result<(&RegionSpec, &HostMemory)> {
        let found = self.spec.regions.get(n).zip(self.regions.get(n));
        found.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Deletes the memslot of region `n` and adds it again.
    pub(super) fn delete_slot(&self, n: usize) -> Result<(), Error> {
        let (region, memory) = self.slot_of(n)?;
        let slot = REGION_SLOT + n as u32;
        set_region(self.vm, kvm_userspace_memory_region { slot, ..kvm_userspace_memory_region::default() })?;
        set_slot(self.vm, slot, region.ipa, memory, 0)
    }

    /// Moves the memslot of region `n` to another IPA and back.
    pub(super) fn move_slot(&self, n: usize, to: u64) -> Result<(), Error> {
        let (region, memory) = self.slot_of(n)?;
        let slot = REGION_SLOT + n as u32;
        set_slot(self.vm, slot, to, memory, 0)?;
        set_slot(self.vm, slot, region.ipa, memory, 0)
    }

    /// Switches dirty logging of region `n`.
    pub(super) fn log_dirty(&self, n: usize, logging: Logging) -> Result<(), Error> {
        let (region, memory) = self.slot_of(n)?;
        let flags = if logging == Logging::On { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        set_slot(self.vm, REGION_SLOT + n as u32, region.ipa, memory, flags)
    }

    fn slot_of(&self, n: usize) -> Result<(&RegionSpec, &HostMemory), Error> {
        self.region(n).map_err(|_| Error::Channel)
    }

    /// Moves vCPU `index` to the next CPU, and returns that one; none if there is no other.
    pub(super) fn move_on(&self, index: usize) -> Option<io::Result<usize>> {
        let mut pinned = self.pinned.borrow_mut();
        let at = pinned.get_mut(index)?;
        let to = (*at + 1) % self.cpus.len();
        if to == *at {
            return None;
        }
        *at = to;
        Some(self.pin(index, self.cpus[to]).map(|()| self.cpus[to]))
    }

    /// Pins moved vCPUs to their first CPUs again.
    pub(super) fn return_home(&self) {
        for (index, at) in self.pinned.borrow_mut().iter_mut().enumerate() {
            let home = index % self.cpus.len().max(1);
            // As when the thread began: if that CPU is gone, it stays where it is.
            if *at != home && self.pin(index, self.cpus[home]).is_ok() {
                *at = home;
            }
        }
    }

    /// Pins vCPU `index` to a CPU.
    pub(super) fn pin(&self, index: usize, cpu: usize) -> io::Result<()> {
        let thread = self.shared.thread(index).and_then(rustix::thread::Pid::from_raw);
        affinity::pin(thread, cpu)
    }

    /// Ends what events left behind for the guest to run into: a child that shares pages, pages not yet served.
    pub fn settle(&self) {
        if let Some(child) = self.child.take() {
            // Both can only fail for a child that is gone.
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
            let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
        }
        drop(self.server.borrow_mut().take());
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Whether KVM logs the pages that the guest dirties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logging {
    /// It does.
    On,
    /// It does not.
    Off,
}
