//! The specification of a guest: its memory, its programs and the CTR_EL0 that it reads.

use abi::Op;

use crate::ctr::GuestCtr;

/// Memory under test: one memslot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// First IPA. The host VA of the region equals it modulo the alignment of the backing.
    pub ipa: u64,
    /// Length in bytes: a multiple of the block size and of 64 KiB.
    pub bytes: u64,
    /// Host memory behind the region.
    pub backing: Backing,
}

/// Host memory behind a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous memory in base pages.
    Pages,
    /// Anonymous memory in transparent huge pages of this many bytes.
    Thp(u64),
    /// hugetlb pages of this many bytes.
    Hugetlb(u64),
    /// A shared memfd in base pages.
    Memfd,
    /// A shared, unnamed file in the directory for temporary files.
    File,
    /// Address space that is not populated. The guest maps it at stage 1 but does not touch it.
    Reserved,
}

impl Backing {
    /// Returns the alignment in bytes that the host VA and the IPA must share.
    pub fn alignment(self) -> u64 {
        match self {
            Self::Pages | Self::Memfd | Self::File | Self::Reserved => 64 << 10,
            Self::Thp(bytes) | Self::Hugetlb(bytes) => bytes.max(64 << 10),
        }
    }
}

/// Bytes that a region holds when the guest starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialBytes {
    /// IPA of the first byte.
    pub ipa: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The specification of one guest.
#[derive(Clone, Debug, Default)]
pub struct GuestSpec {
    /// Memory under test.
    pub regions: Vec<RegionSpec>,
    /// The first program of each vCPU.
    pub programs: Vec<Vec<Op>>,
    /// Number of ops for which each vCPU has room, if later programs may be longer than the first.
    pub ops: u64,
    /// Number of records for which each vCPU has room.
    pub records: u64,
    /// Size in bytes of the chunks in which KVM splits blocks when dirty logging starts. With `None`, KVM splits a
    /// block at the next write fault.
    pub eager_split: Option<u64>,
    /// Bytes in the regions that are not zero at the start.
    pub contents: Vec<InitialBytes>,
    /// The CTR_EL0 that the guest reads; `None` for the machine's value.
    pub ctr: Option<GuestCtr>,
}
