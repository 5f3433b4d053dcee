//! What KVM and small guests say of a machine, for `faultline doctor`: plain data.

use guest::limits::Limits;
use record::result::VcpuFacts;

/// What KVM is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// Not an arm64 Linux: this program's runner part is not even built in.
    OtherArchitecture,
    /// Not there, and why.
    Absent(String),
    /// There, for others.
    NoPermission,
    /// There.
    Present(Limits),
}

/// The CPUs of one MIDR_EL1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuKind {
    /// MIDR_EL1, where the kernel tells.
    pub midr: Option<String>,
    /// Its CPUs.
    pub cpus: Vec<usize>,
    /// What a guest on one of them read, or why none ran.
    pub guest: Result<VcpuFacts, String>,
}
