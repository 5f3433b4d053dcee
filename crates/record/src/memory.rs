//! The kinds of memory under test, and the stage 2 level at which KVM maps each.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use units::size::{NotASize, Size};

/// A kind of memory, as it is given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemoryKind {
    /// Anonymous base pages.
    Page,
    /// Anonymous transparent huge pages.
    Thp,
    /// Base pages of a shared memfd.
    Memfd,
    /// Base pages of a shared file in the directory for temporary files.
    File,
    /// hugetlb pages of the given size.
    Hugetlb(Size),
}

impl FromStr for MemoryKind {
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

impl fmt::Display for MemoryKind {
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

/// Returns the level at which KVM maps a host page of `block_bytes` at stage 2, for a granule of `page_bytes`. A
/// contiguous size falls back to pages or to the block of level 2, as in KVM's `user_mem_abort`.
///
/// Each level resolves log2(granule) − 3 bits (Arm ARM, "Translation tables and the translation process").
pub fn stage2_level(block_bytes: u64, page_bytes: u64) -> u8 {
    let page_shift = page_bytes.trailing_zeros();
    let level_bytes = |level: u32| 1u64 << (page_shift + (3 - level) * (page_shift - 3));
    // Blocks of level 1 exist only with 4 KiB pages.
    if page_bytes == 4096 && block_bytes >= level_bytes(1) {
        1
    } else if block_bytes >= level_bytes(2) {
        2
    } else {
        3
    }
}

/// Returns the size in bytes of the block or page that KVM maps at stage 2 for a host page of `block_bytes`.
pub fn mapped_bytes(block_bytes: u64, page_bytes: u64) -> u64 {
    let page_shift = page_bytes.trailing_zeros();
    let level = u32::from(stage2_level(block_bytes, page_bytes));
    1 << (page_shift + (3 - level) * (page_shift - 3))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn names() {
        assert_eq!("page".parse(), Ok(MemoryKind::Page));
        assert!("pages".parse::<MemoryKind>().is_err());
    }
}
