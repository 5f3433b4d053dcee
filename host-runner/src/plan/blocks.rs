//! The kinds of memory that a scenario runs on, as asked for on the command line.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::guest::Backing;
use crate::size::{NotASize, Size};

/// One kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Anonymous base pages.
    Page,
    /// Anonymous transparent huge pages.
    Thp,
    /// Base pages of a shared memfd.
    Memfd,
    /// Base pages of a shared file in the directory for temporary files.
    File,
    /// hugetlb pages of this size.
    Hugetlb(Size),
}

impl FromStr for Block {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        match text.to_ascii_lowercase().as_str() {
            "page" => Ok(Self::Page),
            "thp" => Ok(Self::Thp),
            "memfd" => Ok(Self::Memfd),
            "file" => Ok(Self::File),
            size => size.parse().map(Self::Hugetlb),
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page => f.pad("page"),
            Self::Thp => f.pad("thp"),
            Self::Memfd => f.pad("memfd"),
            Self::File => f.pad("file"),
            Self::Hugetlb(size) => size.fmt(f),
        }
    }
}

/// What the host has, as far as blocks are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBlocks {
    /// Base page in bytes.
    pub page_bytes: u64,
    /// Transparent huge page in bytes, where they are built in and not switched off.
    pub thp_bytes: Option<u64>,
    /// hugetlb pools: page size and free pages.
    pub hugetlb: Vec<(u64, u64)>,
    /// Memory available, in bytes.
    pub available_bytes: u64,
}

/// Why a kind of memory cannot be had here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Missing {
    /// No transparent huge pages.
    #[error("transparent huge pages are not built in or switched off (/sys/kernel/mm/transparent_hugepage/enabled)")]
    Thp,
    /// No hugetlb pages of that size exist.
    #[error("this kernel has no hugetlb pages of {0}")]
    NoPool(Size),
    /// The pool is too small.
    #[error("{needed} free hugetlb pages of {size} needed, {free} there: echo {needed} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", .size.0 >> 10)]
    Pool {
        /// Page size.
        size: Size,
        /// Pages needed.
        needed: u64,
        /// Pages free.
        free: u64,
    },
    /// Too little memory.
    #[error("{needed} of memory needed, {available} available: use a smaller --region")]
    Memory {
        /// Bytes needed.
        needed: Size,
        /// Bytes available.
        available: Size,
    },
    /// The region is not made of whole blocks.
    #[error("a region of {region} is not a multiple of its {block} blocks")]
    Odd {
        /// Region asked for.
        region: Size,
        /// Block asked for.
        block: Size,
    },
}

impl Block {
    /// Returns the size in bytes of one block on this host.
    ///
    /// # Errors
    ///
    /// If the host has no such blocks at all.
    pub fn bytes(self, host: &HostBlocks) -> Result<u64, Missing> {
        match self {
            Self::Page | Self::Memfd | Self::File => Ok(host.page_bytes),
            Self::Hugetlb(size) if size.0 == host.page_bytes => Ok(size.0),
            Self::Thp => host.thp_bytes.ok_or(Missing::Thp),
            Self::Hugetlb(size) if host.hugetlb.iter().any(|(bytes, _)| *bytes == size.0) => Ok(size.0),
            Self::Hugetlb(size) => Err(Missing::NoPool(size)),
        }
    }

    /// Returns what stands behind a region of such blocks. A hugetlb size that is the base page means base pages.
    ///
    /// # Errors
    ///
    /// As [`Block::bytes`].
    pub fn backing(self, host: &HostBlocks) -> Result<Backing, Missing> {
        let bytes = self.bytes(host)?;
        Ok(match self {
            Self::Memfd => Backing::Memfd,
            Self::File => Backing::File,
            _ if bytes == host.page_bytes => Backing::Pages,
            Self::Page => Backing::Pages,
            Self::Thp => Backing::Thp(bytes),
            Self::Hugetlb(_) => Backing::Hugetlb(bytes),
        })
    }

    /// Checks that a region of `region_bytes` can be had.
    ///
    /// # Errors
    ///
    /// Says what is missing and how to get it.
    pub fn check(self, region_bytes: u64, host: &HostBlocks) -> Result<(), Missing> {
        let block_bytes = self.bytes(host)?;
        if region_bytes == 0 || !region_bytes.is_multiple_of(block_bytes) {
            return Err(Missing::Odd { region: Size(region_bytes), block: Size(block_bytes) });
        }
        match self.backing(host)? {
            Backing::Hugetlb(bytes) => {
                let needed = region_bytes / bytes;
                let free = host.hugetlb.iter().find(|(size, _)| *size == bytes).map_or(0, |(_, free)| *free);
                if free < needed {
                    return Err(Missing::Pool { size: Size(bytes), needed, free });
                }
            }
            _ if region_bytes > host.available_bytes => {
                return Err(Missing::Memory { needed: Size(region_bytes), available: Size(host.available_bytes) });
            }
            _ => (),
        }
        Ok(())
    }
}

/// Returns the stage-2 level at which KVM maps `block_bytes`, for a granule of `page_bytes`. Contiguous sizes fall back
/// to pages or to the level 2 block, as in KVM's `user_mem_abort`.
///
/// Arm ARM "Translation tables and the translation process": each level resolves log2(granule) − 3 bits.
pub fn stage2_level(block_bytes: u64, page_bytes: u64) -> u8 {
    let page_shift = page_bytes.trailing_zeros();
    let level_bytes = |level: u32| 1u64 << (page_shift + (3 - level) * (page_shift - 3));
    // Level 1 blocks exist with 4 KiB pages alone.
    if page_bytes == 4096 && block_bytes >= level_bytes(1) {
        1
    } else if block_bytes >= level_bytes(2) {
        2
    } else {
        3
    }
}

/// Returns the size in bytes of what KVM maps at once for a host page of `block_bytes`.
pub fn mapped_bytes(block_bytes: u64, page_bytes: u64) -> u64 {
    let page_shift = page_bytes.trailing_zeros();
    let level = u32::from(stage2_level(block_bytes, page_bytes));
    1 << (page_shift + (3 - level) * (page_shift - 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostBlocks =
        HostBlocks { page_bytes: 4096, thp_bytes: None, hugetlb: Vec::new(), available_bytes: 1 << 30 };

    #[test]
    fn levels() {
        let cases = [
            (4096, 4096, 3, 4096),
            (64 << 10, 4096, 3, 4096),
            (2 << 20, 4096, 2, 2 << 20),
            (32 << 20, 4096, 2, 2 << 20),
            (1 << 30, 4096, 1, 1 << 30),
            (32 << 20, 16 << 10, 2, 32 << 20),
            (1 << 30, 16 << 10, 2, 32 << 20),
            (512 << 20, 64 << 10, 2, 512 << 20),
            (2 << 20, 64 << 10, 3, 64 << 10),
        ];
        for (block, page, level, mapped) in cases {
            assert_eq!((stage2_level(block, page), mapped_bytes(block, page)), (level, mapped), "{block} {page}");
        }
    }

    #[test]
    fn missing_is_said_with_what_to_do() {
        let host = HostBlocks { hugetlb: vec![(2 << 20, 1)], ..HOST };
        let two_m = Block::Hugetlb(Size(2 << 20));
        assert_eq!(two_m.check(2 << 20, &host), Ok(()));
        let error = two_m.check(8 << 20, &host).expect_err("one page is not four").to_string();
        assert!(error.ends_with("echo 4 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "{error}");
        assert_eq!(Block::Thp.check(2 << 20, &host), Err(Missing::Thp));
        assert!(matches!(Block::Hugetlb(Size(1 << 30)).check(1 << 30, &host), Err(Missing::NoPool(_))));
        assert!(matches!(Block::Page.check(5000, &host), Err(Missing::Odd { .. })));
        assert!(matches!(Block::Page.check(2 << 30, &host), Err(Missing::Memory { .. })));
    }

    #[test]
    fn the_base_page_by_its_size() {
        assert_eq!("4K".parse::<Block>().map(|b| b.backing(&HOST)), Ok(Ok(Backing::Pages)));
        assert_eq!("page".parse(), Ok(Block::Page));
        assert!("pages".parse::<Block>().is_err());
    }
}
