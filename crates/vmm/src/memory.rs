//! Host memory behind a memslot.

use std::cell::RefCell;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::null_mut;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, mremap_fixed,
    munmap,
};
use vm_memory::VolatileSlice;

use guest::spec::{Backing, RegionSpec};

/// Memory of this process that a guest may scribble over.
pub struct HostMemory {
    reservation: *mut c_void,
    reservation_bytes: usize,
    start: *mut c_void,
    bytes: usize,
    /// What is mapped, where that is no anonymous memory.
    file: RefCell<Option<OwnedFd>>,
}

// SAFETY: an owned mapping; its contents are only reached through `VolatileSlice` and system calls.
unsafe impl Send for HostMemory {}

impl HostMemory {
    /// Maps and populates `spec`, at a host VA equal to the IPA modulo the backing's alignment: KVM's
    /// `fault_supports_stage2_huge_mapping` otherwise falls back to pages.
    ///
    /// # Errors
    ///
    /// What mmap, madvise or populating said; ENOMEM for hugetlb means that the pool has too few pages.
    pub fn new(spec: &RegionSpec) -> io::Result<Self> {
        let bytes = usize::try_from(spec.bytes).map_err(io::Error::other)?;
        let alignment = spec.backing.alignment();
        let reservation_bytes = bytes + alignment as usize;
        let reserve = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let reservation = unsafe { mmap_anonymous(null_mut(), reservation_bytes, ProtFlags::empty(), reserve)? };
        let skew = (spec.ipa.wrapping_sub(reservation as u64) % alignment) as usize;
        let start = reservation.wrapping_byte_add(skew);
        let file = backing_file(spec)?;
        let memory = Self { reservation, reservation_bytes, start, bytes, file: RefCell::new(file) };
        memory.map(spec.backing)?;
        memory.populate(spec.backing)?;
        Ok(memory)
    }

    /// Maps the backing over the reservation.
    fn map(&self, backing: Backing) -> io::Result<()> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        match &*self.file.borrow() {
            Some(file) => {
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                // SAFETY: replaces part of the reservation just made, which nothing uses yet.
                unsafe { mmap(self.start, self.bytes, protection, flags, file.as_fd(), 0)? };
            }
            None => {
                let flags = MapFlags::PRIVATE | MapFlags::FIXED | backing_flags(backing)?;
                // SAFETY: as above.
                unsafe { mmap_anonymous(self.start, self.bytes, protection, flags)? };
            }
        }
        Ok(())
    }

    fn populate(&self, backing: Backing) -> io::Result<()> {
        // SAFETY: advice on memory that this object owns; none of it drops contents.
        unsafe {
            match backing {
                Backing::Pages => madvise(self.start, self.bytes, Advice::LinuxNoHugepage)?,
                Backing::Thp(_) => madvise(self.start, self.bytes, Advice::LinuxHugepage)?,
                Backing::Hugetlb(_) | Backing::Memfd | Backing::File => (),
                Backing::Reserved => return Ok(()),
            }
            match madvise(self.start, self.bytes, Advice::LinuxPopulateWrite) {
                // Before Linux 5.14 the advice is unknown: the first faults populate then.
                Err(rustix::io::Errno::INVAL) => Ok(()),
                other => other.map_err(io::Error::from),
            }
        }
    }

    /// Returns the host VA.
    pub fn host_va(&self) -> u64 {
        self.start as u64
    }

    /// Returns the contents. Whoever uses them has to expect that the guest changes them at any time.
    pub fn slice(&self) -> VolatileSlice<'_> {
        // SAFETY: the mapping lives as long as `self`, and volatile access is all that the slice gives.
        unsafe { VolatileSlice::new(self.start.cast(), self.bytes) }
    }

    /// Takes the guest's mappings of this memory away and leaves the contents: the MMU notifier of mprotect unmaps
    /// stage 2.
    ///
    /// # Errors
    ///
    /// What mprotect said.
    pub fn unmap_stage2(&self) -> io::Result<()> {
        // SAFETY: memory that this object owns; guest accesses in between fault and wait in KVM, and no thread of the
        // runner touches it during an event.
        unsafe {
            mprotect(self.start, self.bytes, MprotectFlags::empty())?;
            mprotect(self.start, self.bytes, MprotectFlags::READ | MprotectFlags::WRITE)?;
        }
        Ok(())
    }

    /// Lets the guest only read for a moment; the contents stay.
    ///
    /// # Errors
    ///
    /// What mprotect said.
    pub fn protect_read_only(&self) -> io::Result<()> {
        // SAFETY: as for `unmap_stage2`; nothing writes to the memory in between.
        unsafe {
            mprotect(self.start, self.bytes, MprotectFlags::READ)?;
            mprotect(self.start, self.bytes, MprotectFlags::READ | MprotectFlags::WRITE)?;
        }
        Ok(())
    }

    /// Says whether copies of this process share the memory instead of copying it on write.
    pub fn is_shared(&self) -> bool {
        self.file.borrow().is_some()
    }

    /// Drops the contents: the next access finds zeros in pages that are new.
    ///
    /// # Errors
    ///
    /// What madvise said.
    pub fn drop_contents(&self) -> io::Result<()> {
        // Only a hole drops what a file keeps.
        let advice = if self.is_shared() { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
        // SAFETY: memory that this object owns and that only `VolatileSlice` reads; losing its contents is the point.
        unsafe { madvise(self.start, self.bytes, advice)? };
        Ok(())
    }

    /// Asks the kernel to swap the contents out.
    ///
    /// # Errors
    ///
    /// What madvise said.
    pub fn page_out(&self) -> io::Result<()> {
        // SAFETY: memory that this object owns; the contents stay.
        unsafe { madvise(self.start, self.bytes, Advice::LinuxPageOut)? };
        Ok(())
    }

    /// Moves the pages of `other`, of the same size and backing, to where these stand.
    ///
    /// # Errors
    ///
    /// What mremap said.
    pub fn replace_by(&self, other: Self) -> io::Result<()> {
        // SAFETY: both mappings are owned and of the same length; what `other` leaves behind is a hole in its own
        // reservation, which its drop unmaps.
        unsafe { mremap_fixed(other.start, other.bytes, self.bytes, MremapFlags::MAYMOVE, self.start)? };
        self.file.replace(other.file.take());
        Ok(())
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Takes the memory away and leaves inaccessible address space in its place: the notifier of munmap unmaps stage 2.
    ///
    /// # Errors
    ///
    /// What mmap said.
    pub fn discard(&self) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: replaces memory that this object owns by address space that faults on any access: a later access by
        // the guest fails inside KVM, and `VolatileSlice` is not used on a region that was discarded.
        unsafe { mmap_anonymous(self.start, self.bytes, ProtFlags::empty(), flags)? };
        Ok(())
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: `new` made this reservation; the VM that used it is gone before its memory is dropped.
        let _ = unsafe { munmap(self.reservation, self.reservation_bytes) };
    }
}

fn backing_flags(backing: Backing) -> io::Result<MapFlags> {
    let bytes = match backing {
        Backing::Pages | Backing::Thp(_) | Backing::Memfd | Backing::File => return Ok(MapFlags::empty()),
        Backing::Reserved => return Ok(MapFlags::NORESERVE),
        Backing::Hugetlb(bytes) => bytes,
    };
    MapFlags::hugetlb_with_size_log2(bytes.trailing_zeros())
        .filter(|_| bytes.is_power_of_two())
        .ok_or_else(|| io::Error::other(format!("hugetlb page of {bytes} bytes is no size")))
}

/// Returns the file behind a region of shared memory.
fn backing_file(spec: &RegionSpec) -> io::Result<Option<OwnedFd>> {
    let file: OwnedFd = match spec.backing {
        Backing::Memfd => memfd_create("faultline", MemfdFlags::CLOEXEC)?,
        Backing::File => File::into(tempfile::tempfile()?),
        Backing::Pages | Backing::Thp(_) | Backing::Hugetlb(_) | Backing::Reserved => return Ok(None),
    };
    ftruncate(&file, spec.bytes)?;
    Ok(Some(file))
}
