//! Kinds of memory on a given host: block sizes, backing, and the reason if the host has no such memory.

use guest::spec::Backing;
use hostfacts::memory::MemoryKinds;
use record::memory::MemoryKind;
use units::size::Size;
use units::text::counted;

/// Reason for the lack of a kind of memory on a host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Missing {
    /// Transparent huge pages are off.
    #[error("transparent huge pages are off: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")]
    ThpOff,
    /// The kernel has no transparent huge pages.
    #[error("this kernel has no transparent huge pages (CONFIG_TRANSPARENT_HUGEPAGE)")]
    NoThp,
    /// The kernel has no hugetlb pages of this size.
    #[error("this kernel has no hugetlb pages of {0}")]
    NoPool(Size),
    /// The hugetlb pool is too small.
    #[error("{} of {size} needed, {free} there: echo {needed} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", counted(*needed, "free hugetlb page"), .size.0 >> 10)]
    Pool {
        /// Page size.
        size: Size,
        /// Pages needed.
        needed: u64,
        /// Pages free.
        free: u64,
    },
    /// The hugetlb pool is too small, and the kernel found no free memory to enlarge it.
    #[error(
        "{} of {size} needed, and the kernel could free only {free}: boot with hugepagesz={size} hugepages={needed}",
        counted(*needed, "free hugetlb page")
    )]
    NotFilled {
        /// Page size.
        size: Size,
        /// Pages needed.
        needed: u64,
        /// Pages free.
        free: u64,
    },
    /// The host has too little free memory.
    #[error("{needed} of memory needed, {available} available: use a smaller --region")]
    Memory {
        /// Bytes needed.
        needed: Size,
        /// Bytes available.
        available: Size,
    },
    /// The region is not a whole number of blocks.
    #[error("a region of {region} is not a multiple of its {block} blocks")]
    PartialBlock {
        /// Size of the region.
        region: Size,
        /// Size of a block.
        block: Size,
    },
}

/// Returns the size in bytes of one block of this kind of memory: a base page, a transparent huge page or a hugetlb
/// page.
///
/// # Errors
///
/// Returns the reason if the host has no such blocks.
pub fn block_bytes(kind: MemoryKind, host: &MemoryKinds) -> Result<u64, Missing> {
    match kind {
        MemoryKind::Page | MemoryKind::Memfd | MemoryKind::File => Ok(host.page_bytes),
        MemoryKind::Hugetlb(size) if size.0 == host.page_bytes => Ok(size.0),
        MemoryKind::Thp => host.thp_bytes.ok_or(if host.has_thp { Missing::ThpOff } else { Missing::NoThp }),
        MemoryKind::Hugetlb(size) if host.hugetlb.iter().any(|pool| pool.page_bytes == size.0) => Ok(size.0),
        MemoryKind::Hugetlb(size) => Err(Missing::NoPool(size)),
    }
}

/// Returns the backing of a region of this kind of memory. A hugetlb size equal to the base page size means base pages.
///
/// # Errors
///
/// Returns the reason if the host has no such blocks.
pub fn backing(kind: MemoryKind, host: &MemoryKinds) -> Result<Backing, Missing> {
    let bytes = block_bytes(kind, host)?;
    Ok(match kind {
        MemoryKind::Memfd => Backing::Memfd,
        MemoryKind::File => Backing::File,
        _ if bytes == host.page_bytes => Backing::Pages,
        MemoryKind::Page => Backing::Pages,
        MemoryKind::Thp => Backing::Thp(bytes),
        MemoryKind::Hugetlb(_) => Backing::Hugetlb(bytes),
    })
}

/// Checks that the host has enough memory of this kind for a region of `region_bytes`.
///
/// # Errors
///
/// Returns the reason if it has not; the message says how to change that.
pub fn check(kind: MemoryKind, region_bytes: u64, host: &MemoryKinds) -> Result<(), Missing> {
    let block = block_bytes(kind, host)?;
    if region_bytes == 0 || !region_bytes.is_multiple_of(block) {
        return Err(Missing::PartialBlock { region: Size(region_bytes), block: Size(block) });
    }
    match backing(kind, host)? {
        Backing::Hugetlb(bytes) => {
            let needed = region_bytes / bytes;
            let free = host.hugetlb.iter().find(|pool| pool.page_bytes == bytes).map_or(0, |pool| pool.free);
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

/// Returns every kind of memory that the kernel of the host could have: `page`, `thp` and the hugetlb sizes. It leaves
/// out `memfd` and `file`, which have the same blocks as `page`.
pub fn all(host: &MemoryKinds) -> Vec<MemoryKind> {
    let hugetlb = host.hugetlb.iter().map(|pool| MemoryKind::Hugetlb(Size(pool.page_bytes)));
    [MemoryKind::Page, MemoryKind::Thp].into_iter().chain(hugetlb).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::machine::HugepagePool;

    const HOST: MemoryKinds =
        MemoryKinds { page_bytes: 4096, has_thp: true, thp_bytes: None, hugetlb: Vec::new(), available_bytes: 1 << 30 };

    #[test]
    fn errors_name_the_reason_and_the_remedy() {
        let host = MemoryKinds { hugetlb: vec![HugepagePool { page_bytes: 2 << 20, total: 1, free: 1 }], ..HOST };
        let two_m = MemoryKind::Hugetlb(Size(2 << 20));
        assert_eq!(check(two_m, 2 << 20, &host), Ok(()));
        let error = check(two_m, 8 << 20, &host).expect_err("one page is not four").to_string();
        assert!(error.ends_with("echo 4 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "{error}");
        assert_eq!(check(MemoryKind::Thp, 2 << 20, &host), Err(Missing::ThpOff));
        let one_g = MemoryKind::Hugetlb(Size(1 << 30));
        assert!(matches!(check(one_g, 1 << 30, &host), Err(Missing::NoPool(_))));
        assert!(matches!(check(MemoryKind::Page, 5000, &host), Err(Missing::PartialBlock { .. })));
        assert!(matches!(check(MemoryKind::Page, 2 << 30, &host), Err(Missing::Memory { .. })));
    }

    #[test]
    fn hugetlb_of_the_base_page_size_is_base_pages() {
        assert_eq!("4K".parse::<MemoryKind>().map(|kind| backing(kind, &HOST)), Ok(Ok(Backing::Pages)));
    }
}
