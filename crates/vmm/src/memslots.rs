//! Memslots: their numbers, and the ioctl that adds, changes and deletes them.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use crate::error::Error;
use crate::memory::HostMemory;

/// Memslot of RAM.
pub const RAM_SLOT: u32 = 0;
/// Memslot of the channel.
pub const CHANNEL_SLOT: u32 = 1;
/// Memslot of the first region. The slots of the other regions follow.
const FIRST_REGION_SLOT: u32 = 2;

/// Returns the memslot of region `n`.
pub fn region_slot(n: usize) -> u32 {
    FIRST_REGION_SLOT + n as u32
}

/// Adds a memslot, or changes its IPA or flags.
///
/// # Errors
///
/// [`Error::Kvm`].
pub fn set(vm: &VmFd, slot: u32, ipa: u64, memory: &HostMemory, flags: u32) -> Result<(), Error> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: ipa,
        memory_size: memory.bytes(),
        userspace_addr: memory.host_va(),
    };
    set_user_memory_region(vm, region)
}

/// Deletes a memslot.
///
/// # Errors
///
/// [`Error::Kvm`].
pub fn delete(vm: &VmFd, slot: u32) -> Result<(), Error> {
    // A size of 0 deletes the slot.
    set_user_memory_region(vm, kvm_userspace_memory_region { slot, ..kvm_userspace_memory_region::default() })
}

fn set_user_memory_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), Error> {
    // SAFETY: the range is empty or a live `HostMemory`, whose contents guests may change at any time. If it is unmapped
    // before the VM ends, a later access by the guest fails inside KVM.
    unsafe { vm.set_user_memory_region(region) }.map_err(|error| Error::Kvm("KVM_SET_USER_MEMORY_REGION", error))
}
