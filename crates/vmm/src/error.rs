//! Errors in setting up and running a guest.

use std::io;

use guest::spec::{Backing, RegionSpec};
use units::size::Size;

use crate::layout;

/// Reason why a guest could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` does not exist.
    #[error("no /dev/kvm: boot an arm64 kernel with KVM at EL2 (or try it emulated: faultline lab)")]
    NoKvm,
    /// The user may not open `/dev/kvm`.
    #[error("no permission to open /dev/kvm: run as root, or join the group that owns it (usually kvm)")]
    NoPermission,
    /// A KVM call failed.
    #[error("{0} failed: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    /// A register could not be read or written.
    #[error("KVM register {0:#x}: {1}")]
    Register(u64, kvm_ioctls::Error),
    /// KVM does not show guests this CTR_EL0.
    #[error(
        "KVM refuses to show guests CTR_EL0 {set:#x} in place of {machine:#x}: {error}; since Linux 6.11 it lets lines be \
         smaller and DIC and IDC be cleared, before that nothing"
    )]
    Ctr {
        /// The value for the guest.
        set: u64,
        /// The machine's value.
        machine: u64,
        /// Error of KVM_SET_ONE_REG.
        error: kvm_ioctls::Error,
    },
    /// KVM does not split blocks ahead of faults.
    #[error("KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE: {0}; it is there since Linux 6.5")]
    EagerSplit(kvm_ioctls::Error),
    /// The specification has more vCPUs than KVM allows.
    #[error("{wanted} vCPUs asked for, KVM on this machine gives at most {max}: use --vcpus {max}")]
    TooManyVcpus {
        /// Number of vCPUs in the specification.
        wanted: usize,
        /// Maximum number of vCPUs.
        max: usize,
    },
    /// The regions do not fit into the IPA space.
    #[error(
        "the regions end at {end:#x}, above this machine's {max_bits}-bit limit for guests: use a smaller --region"
    )]
    TooHigh {
        /// End of the last region.
        end: u64,
        /// Maximum size of the IPA space in bits.
        max_bits: u32,
    },
    /// The host has too little memory for a region.
    #[error("{what}: {1}", what = missing_memory(.0))]
    Memory(RegionSpec, io::Error),
    /// There is no region with this index.
    #[error("the guest has no region {0}")]
    NoRegion(usize),
    /// Programs and records do not fit into the channel.
    #[error("programs and records do not fit the channel: use fewer rounds or a smaller --region")]
    Channel,
    /// The image does not fit into its place.
    #[error("the payload image has {0} bytes, its place {max}: build it again", max = layout::IMAGE_BYTES)]
    Image(usize),
    /// The initial bytes at this IPA do not fit into a region.
    #[error("contents at {0:#x}: {1}")]
    Contents(u64, io::Error),
    /// Guest memory could not be accessed.
    #[error("guest memory: {0}")]
    Access(#[from] vm_memory::VolatileMemoryError),
    /// The device tree could not be built.
    #[error("device tree: {0}")]
    Fdt(#[from] vm_fdt::Error),
    /// The thread of a vCPU could not be started.
    #[error("thread for vcpu-{0}: {1}")]
    Thread(usize, io::Error),
}

impl Error {
    /// Returns whether the machine only lacks something that the specification asks for. Such a case is skipped.
    pub fn is_lack(&self) -> bool {
        matches!(self, Self::Memory(..) | Self::Ctr { .. } | Self::EagerSplit(_))
    }
}

fn missing_memory(region: &RegionSpec) -> String {
    let size = Size(region.bytes);
    match region.backing {
        Backing::Hugetlb(bytes) => format!(
            "no {size} for a region of hugetlb pages: echo {} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
            region.bytes / bytes,
            bytes >> 10
        ),
        _ => format!("no {size} of memory for a region"),
    }
}
