//! What KVM gives on this machine, asked of a VM that never runs.

use guest::limits::Limits;

use crate::{DEFAULT_IPA_BITS, Error, max_vcpus, open_kvm, vcpu};

/// Asks KVM.
///
/// # Errors
///
/// Why there is no KVM to ask.
pub fn limits() -> Result<Limits, Error> {
    let kvm = open_kvm()?;
    let ipa_bits = match kvm.get_host_ipa_limit() {
        limit if limit > 0 => limit as u32,
        _ => DEFAULT_IPA_BITS,
    };
    let fwb = || -> Result<bool, Error> {
        let vm = kvm.create_vm().map_err(|error| Error::Kvm("KVM_CREATE_VM", error))?;
        let (fd, _) = vcpu::create(&vm, 0)?;
        vcpu::has_fwb(&fd)
    };
    Ok(Limits { ipa_bits, max_vcpus: max_vcpus(&kvm), fwb: fwb().ok() })
}
