//! Facts about a machine that KVM and small guests report, for `faultline doctor`. Plain data.

use guest::limits::Limits;
use record::result::VcpuFacts;

/// State of KVM on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// The machine is no arm64 Linux, so this build has no code that uses KVM.
    OtherArchitecture,
    /// KVM is missing, for this reason.
    Absent(String),
    /// KVM is there, but this user may not open it.
    NoPermission,
    /// KVM can be used.
    Present(Limits),
}

/// CPUs with the same MIDR_EL1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuKind {
    /// MIDR_EL1, if the kernel reports it.
    pub midr: Option<String>,
    /// Numbers of the CPUs.
    pub cpus: Vec<usize>,
    /// Registers that a guest read on one of them, or the reason why no guest ran.
    pub guest: Result<VcpuFacts, String>,
}
