//! The host memory behind a memslot.

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

/// Memory of this process that a guest may read and write at any time.
pub struct HostMemory {
    /// Address space that holds the aligned memory.
    reservation: *mut c_void,
    reservation_bytes: usize,
    start: *mut c_void,
    bytes: usize,
    /// The mapped file, unless the memory is anonymous.
    file: RefCell<Option<OwnedFd>>,
}

// SAFETY: the object owns its mapping, and only `VolatileSlice` and system calls reach the contents.
unsafe impl Send for HostMemory {}

impl HostMemory {
    /// Maps and populates the memory of a region.
    ///
    /// The host VA equals the IPA modulo the alignment of the backing. Otherwise KVM would map pages
    /// (`fault_supports_stage2_huge_mapping`).
    ///
    /// # Errors
    ///
    /// The error of mmap(2), madvise(2) or of making the file. ENOMEM for hugetlb means that the pool has too few
    /// pages.
    pub fn new(spec: &RegionSpec) -> io::Result<Self> {
        let bytes = usize::try_from(spec.bytes).map_err(io::Error::other)?;
        let alignment = spec.backing.alignment();
        let reservation_bytes = bytes + alignment as usize;
        let reserve = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let reservation = unsafe { mmap_anonymous(null_mut(), reservation_bytes, ProtFlags::empty(), reserve)? };
        let skew = (spec.ipa.wrapping_sub(reservation as u64) % alignment) as usize;
        let start = reservation.wrapping_byte_add(skew);
        let file = backing_file(spec)?;
        let memory = Self { reservation, reservation_bytes, start, bytes, file: RefCell::new(file) };
        memory.map(spec.backing)?;
        memory.populate(spec.backing)?;
        Ok(memory)
    }

    /// Maps the backing over a part of the reservation.
    fn map(&self, backing: Backing) -> io::Result<()> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        match &*self.file.borrow() {
            Some(file) => {
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                // SAFETY: the mapping replaces a part of the new reservation, which nothing uses yet.
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
        // SAFETY: this object owns the memory, and none of the advice drops contents.
        unsafe {
            match backing {
                Backing::Pages => match madvise(self.start, self.bytes, Advice::LinuxNoHugepage) {
                    // A kernel without transparent huge pages does not know the advice, and does what it says.
                    Err(rustix::io::Errno::INVAL) => (),
                    other => other?,
                },
                Backing::Thp(_) => madvise(self.start, self.bytes, Advice::LinuxHugepage)?,
                Backing::Hugetlb(_) | Backing::Memfd | Backing::File => (),
                Backing::Reserved => return Ok(()),
            }
            match madvise(self.start, self.bytes, Advice::LinuxPopulateWrite) {
                // Linux before 5.14 does not know the advice. The first faults then populate the memory.
                Err(rustix::io::Errno::INVAL) => Ok(()),
                other => other.map_err(io::Error::from),
            }
        }
    }

    /// Returns the host VA.
    pub fn host_va(&self) -> u64 {
        self.start as u64
    }

    /// Returns the contents, which the guest may change at any time.
    pub fn slice(&self) -> VolatileSlice<'_> {
        // SAFETY: the mapping lives as long as `self`, and the slice gives only volatile access.
        unsafe { VolatileSlice::new(self.start.cast(), self.bytes) }
    }

    /// Removes the stage-2 mappings of this memory and keeps its contents, by the MMU notifier of mprotect(2).
    ///
    /// # Errors
    ///
    /// The error of mprotect(2).
    pub fn unmap_stage2(&self) -> io::Result<()> {
        // SAFETY: this object owns the memory. A guest's access between the two calls faults inside KVM, and no thread
        // of this process touches the memory during an event.
        unsafe {
            mprotect(self.start, self.bytes, MprotectFlags::empty())?;
            mprotect(self.start, self.bytes, MprotectFlags::READ | MprotectFlags::WRITE)?;
        }
        Ok(())
    }

    /// Makes the memory read-only for a moment and keeps its contents.
    ///
    /// # Errors
    ///
    /// The error of mprotect(2).
    pub fn protect_read_only(&self) -> io::Result<()> {
        // SAFETY: as in `unmap_stage2`.
        unsafe {
            mprotect(self.start, self.bytes, MprotectFlags::READ)?;
            mprotect(self.start, self.bytes, MprotectFlags::READ | MprotectFlags::WRITE)?;
        }
        Ok(())
    }

    /// Returns whether a forked child shares the memory without copy-on-write.
    pub fn is_shared(&self) -> bool {
        self.file.borrow().is_some()
    }

    /// Drops the contents. The next access to a page finds a new page with zeros.
    ///
    /// # Errors
    ///
    /// The error of madvise(2).
    pub fn drop_contents(&self) -> io::Result<()> {
        // MADV_DONTNEED would keep the contents of a file. A hole drops them.
        let advice = if self.is_shared() { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
        // SAFETY: this object owns the memory, only `VolatileSlice` reads it, and the caller wants to lose the
        // contents.
        unsafe { madvise(self.start, self.bytes, advice)? };
        Ok(())
    }

    /// Asks the kernel to swap the contents out.
    ///
    /// # Errors
    ///
    /// The error of madvise(2).
    pub fn page_out(&self) -> io::Result<()> {
        // SAFETY: this object owns the memory, and the contents stay.
        unsafe { madvise(self.start, self.bytes, Advice::LinuxPageOut)? };
        Ok(())
    }

    /// Moves the pages of `other`, which has the same size and backing, to the host VA of this memory.
    ///
    /// # Errors
    ///
    /// The error of mremap(2).
    pub fn replace_by(&self, other: Self) -> io::Result<()> {
        // SAFETY: both mappings are owned and have the same length. `other` keeps a reservation with a hole, which its
        // drop unmaps.
        unsafe { mremap_fixed(other.start, other.bytes, self.bytes, MremapFlags::MAYMOVE, self.start)? };
        self.file.replace(other.file.take());
        Ok(())
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Replaces the memory by inaccessible address space. The MMU notifier removes the stage-2 mappings.
    ///
    /// # Errors
    ///
    /// The error of mmap(2).
    pub fn discard(&self) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: this object owns the memory. A later access by the guest fails inside KVM, and nothing uses the
        // `VolatileSlice` of a discarded region.
        unsafe { mmap_anonymous(self.start, self.bytes, ProtFlags::empty(), flags)? };
        Ok(())
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: `new` made this reservation, and the VM that used it was dropped before.
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

/// Makes the file behind a region of shared memory; returns `None` for anonymous memory.
fn backing_file(spec: &RegionSpec) -> io::Result<Option<OwnedFd>> {
    let file: OwnedFd = match spec.backing {
        Backing::Memfd => memfd_create("faultline", MemfdFlags::CLOEXEC)?,
        Backing::File => File::into(tempfile::tempfile()?),
        Backing::Pages | Backing::Thp(_) | Backing::Hugetlb(_) | Backing::Reserved => return Ok(None),
    };
    ftruncate(&file, spec.bytes)?;
    Ok(Some(file))
}
