//! `/dev/kvm`: its limits on this machine, and the creation of VMs and vCPUs.

use std::sync::OnceLock;

use guest::limits::Limits;
use guest::spec::GuestSpec;
use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, kvm_enable_cap, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::error::Error;
use crate::registers;

/// Size of the IPA space in bits unless the regions need more. KVM gives it by default.
const DEFAULT_IPA_BITS: u32 = 40;
/// Maximum size of the IPA space in bits. Larger sizes need LPA or LPA2, and hung on kernels with 16K and 64K pages.
const MAX_IPA_BITS: u32 = 48;

/// Opens `/dev/kvm`.
///
/// # Errors
///
/// [`Error::NoKvm`], [`Error::NoPermission`], [`Error::Kvm`].
pub fn open() -> Result<Kvm, Error> {
    Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::NoKvm,
        libc::EACCES | libc::EPERM => Error::NoPermission,
        _ => Error::Kvm("opening /dev/kvm", error),
    })
}

/// Checks that KVM is present and allows this many vCPUs. A scenario calls it before it changes any setting.
///
/// # Errors
///
/// [`Error::TooManyVcpus`] and the errors of opening `/dev/kvm`.
pub fn check(vcpus: u64) -> Result<(), Error> {
    check_vcpus(&open()?, usize::try_from(vcpus).unwrap_or(usize::MAX))
}

/// Checks that KVM allows this many vCPUs.
///
/// # Errors
///
/// [`Error::TooManyVcpus`].
pub fn check_vcpus(kvm: &Kvm, vcpus: usize) -> Result<(), Error> {
    let max = max_vcpus(kvm);
    if vcpus > max { Err(Error::TooManyVcpus { wanted: vcpus, max }) } else { Ok(()) }
}

/// Returns the limits of KVM on this machine. It creates a VM that never runs.
///
/// # Errors
///
/// The errors of opening `/dev/kvm`.
pub fn limits() -> Result<Limits, Error> {
    let kvm = open()?;
    let fwb = || -> Result<bool, Error> {
        let vm = kvm.create_vm().map_err(|error| Error::Kvm("KVM_CREATE_VM", error))?;
        registers::has_fwb(&create_vcpu(&vm, 0)?)
    };
    Ok(Limits { ipa_bits: ipa_limit(&kvm), max_vcpus: max_vcpus(&kvm), fwb: fwb().ok() })
}

fn max_vcpus(kvm: &Kvm) -> usize {
    kvm.get_max_vcpus().min(abi::channel::MAX_VCPUS)
}

fn ipa_limit(kvm: &Kvm) -> u32 {
    match kvm.get_host_ipa_limit() {
        limit if limit > 0 => limit as u32,
        _ => DEFAULT_IPA_BITS,
    }
}

/// Returns the size of the IPA space that the regions need, in bits.
///
/// # Errors
///
/// [`Error::TooHigh`].
pub fn ipa_bits(kvm: &Kvm, spec: &GuestSpec) -> Result<u32, Error> {
    let end = spec.regions.iter().map(|region| region.ipa.saturating_add(region.bytes)).max().unwrap_or(0);
    let needed = u64::BITS - end.saturating_sub(1).leading_zeros();
    let limit = ipa_limit(kvm);
    let max_bits = limit.min(MAX_IPA_BITS);
    if needed > max_bits {
        return Err(Error::TooHigh { end, max_bits });
    }
    Ok(needed.max(DEFAULT_IPA_BITS).min(limit))
}

/// Creates a VM with an IPA space that holds the regions.
///
/// # Errors
///
/// [`Error::TooHigh`], [`Error::Kvm`].
pub fn create_vm(kvm: &Kvm, spec: &GuestSpec) -> Result<VmFd, Error> {
    keep_one_vm(kvm)?;
    let bits = ipa_bits(kvm, spec)?;
    // Type 0 means 40 bits. By default, kvm-ioctls asks for the limit. With 52 bits and 16K or 64K pages, KVM_CREATE_VM
    // does not return under QEMU.
    let vm = if bits == DEFAULT_IPA_BITS { kvm.create_vm_with_type(0) } else { kvm.create_vm_with_ipa_size(bits) };
    vm.map_err(|error| Error::Kvm("KVM_CREATE_VM", error))
}

/// Creates one VM that lives as long as this process.
///
/// The scheduler calls KVM's preemption notifiers through branches. The kernel patches these branches in with the first
/// VM of a machine and out with the last (`preempt_notifier_inc`). If an emulator continues with the code before the
/// patch, a vCPU is loaded twice, and its thread returns with the guest's TPIDR_EL0. QEMU 7.2 with two CPUs did so once
/// in some hundred VMs. While this VM lives, no other VM of the process is the first or the last.
fn keep_one_vm(kvm: &Kvm) -> Result<(), Error> {
    static KEPT: OnceLock<VmFd> = OnceLock::new();
    if KEPT.get().is_none() {
        let vm = kvm.create_vm_with_type(0).map_err(|error| Error::Kvm("KVM_CREATE_VM", error))?;
        let _ = KEPT.set(vm);
    }
    Ok(())
}

/// Makes KVM split blocks in chunks of this many bytes when dirty logging starts.
///
/// Call it before the VM has any memslot (`kvm_vm_ioctl_enable_cap`).
///
/// # Errors
///
/// [`Error::EagerSplit`].
pub fn split_eagerly(vm: &VmFd, chunk_bytes: u64) -> Result<(), Error> {
    let mut capability = kvm_enable_cap { cap: KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, ..kvm_enable_cap::default() };
    capability.args[0] = chunk_bytes;
    vm.enable_cap(&capability).map_err(Error::EagerSplit)
}

/// Creates vCPU `index`. All vCPUs but the first wait for PSCI CPU_ON.
///
/// # Errors
///
/// [`Error::Kvm`].
pub fn create_vcpu(vm: &VmFd, index: usize) -> Result<VcpuFd, Error> {
    let fd = vm.create_vcpu(index as u64).map_err(|error| Error::Kvm("KVM_CREATE_VCPU", error))?;
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init).map_err(|error| Error::Kvm("KVM_ARM_PREFERRED_TARGET", error))?;
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    if index > 0 {
        init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    fd.vcpu_init(&init).map_err(|error| Error::Kvm("KVM_ARM_VCPU_INIT", error))?;
    Ok(fd)
}
