//! The registers of a vCPU, by KVM_GET_ONE_REG and KVM_SET_ONE_REG.

use abi::Ctr;
use guest::ctr::GuestCtr;
use guest::report::ShownCtr;
use kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64};
use kvm_ioctls::VcpuFd;

use crate::error::Error;
use crate::layout;

/// Returns the id of a core register, as `KVM_REG_ARM_CORE_REG` of the kernel's API. The id contains the offset in
/// `struct kvm_regs` in words of 32 bits.
const fn core_register(offset_bytes: u64) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset_bytes / 4)
}

/// Returns the id of a system register, as `ARM64_SYS_REG` of the kernel's API.
const fn system_register(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

const fn general_register(n: u64) -> u64 {
    core_register(n * 8)
}

const SP: u64 = core_register(31 * 8);
const PC: u64 = core_register(32 * 8);
const PSTATE: u64 = core_register(33 * 8);
const SP_EL1: u64 = core_register(34 * 8);
const ELR_EL1: u64 = core_register(35 * 8);
const MPIDR_EL1: u64 = system_register(3, 0, 0, 0, 5);
const CTR_EL0: u64 = system_register(3, 3, 0, 0, 1);
/// Fields Aff0 to Aff3 of MPIDR_EL1.
const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// Arm ARM "ID_AA64MMFR2_EL1, AArch64 Memory Model Feature Register 2".
const ID_AA64MMFR2_EL1: u64 = system_register(3, 0, 0, 7, 2);
/// Shift of the field FWB of ID_AA64MMFR2_EL1.
const FWB_SHIFT: u32 = 40;

/// Registers in the report on a dead or hung guest, besides x0 to x30.
const REPORTED: [(&str, u64); 9] = [
    ("pc", PC),
    ("pstate", PSTATE),
    ("sp", SP),
    ("sp_el1", SP_EL1),
    ("elr_el1", ELR_EL1),
    ("esr_el1", system_register(3, 0, 5, 2, 0)),
    ("far_el1", system_register(3, 0, 6, 0, 0)),
    ("vbar_el1", system_register(3, 0, 12, 0, 0)),
    ("sctlr_el1", system_register(3, 0, 1, 0, 0)),
];

fn get(fd: &VcpuFd, id: u64) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    fd.get_one_reg(id, &mut bytes).map_err(|error| Error::Register(id, error))?;
    Ok(u64::from_le_bytes(bytes))
}

fn set(fd: &VcpuFd, id: u64, value: u64) -> Result<(), Error> {
    fd.set_one_reg(id, &value.to_le_bytes()).map_err(|error| Error::Register(id, error))?;
    Ok(())
}

/// Returns the affinity of a vCPU, which identifies it in the device tree.
///
/// # Errors
///
/// [`Error::Register`].
pub fn affinity(fd: &VcpuFd) -> Result<u64, Error> {
    Ok(get(fd, MPIDR_EL1)? & MPIDR_AFFINITY)
}

/// Makes the vCPU start at the image with the device tree in x0, as the arm64 boot protocol demands.
///
/// # Errors
///
/// [`Error::Register`].
pub fn set_entry(fd: &VcpuFd) -> Result<(), Error> {
    set(fd, general_register(0), layout::FDT)?;
    set(fd, PC, layout::RAM)
}

/// Sets the CTR_EL0 that all vCPUs of a VM share.
///
/// It must be set before the first of them runs, because `kvm_finalize_sys_regs` decides by it if reads trap.
///
/// # Errors
///
/// [`Error::Ctr`] if KVM refuses the value.
pub fn set_ctr(vcpus: &[VcpuFd], wanted: GuestCtr) -> Result<Option<ShownCtr>, Error> {
    let Some(first) = vcpus.first() else { return Ok(None) };
    let machine = get(first, CTR_EL0)?;
    let set = wanted.apply_to(Ctr(machine)).0;
    for fd in vcpus {
        fd.set_one_reg(CTR_EL0, &set.to_le_bytes()).map_err(|error| Error::Ctr { set, machine, error })?;
    }
    Ok(Some(ShownCtr { machine, set }))
}

/// Returns whether stage 2 forces Write-Back (FEAT_S2FWB). KVM's copy of the ID register tells; guests read the field
/// as 0.
///
/// # Errors
///
/// [`Error::Register`].
pub fn has_fwb(fd: &VcpuFd) -> Result<bool, Error> {
    Ok((get(fd, ID_AA64MMFR2_EL1)? >> FWB_SHIFT) & 0xf != 0)
}

/// Returns the registers for a report, as `name=value`.
pub fn report(fd: &VcpuFd) -> Vec<String> {
    let general = (0..31).map(|n| (format!("x{n}"), general_register(n)));
    let reported = REPORTED.iter().map(|(name, id)| ((*name).to_owned(), *id));
    reported
        .chain(general)
        .filter_map(|(name, id)| get(fd, id).ok().map(|value| format!("{name}={value:#x}")))
        .collect()
}
