//! Memory that this host can give to a guest, and the whereabouts of pages.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use record::machine::HugepagePool;

use crate::procfs;

const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";
const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// Memory that this host can give to a guest, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryKinds {
    /// Size of a base page in bytes.
    pub page_bytes: u64,
    /// True if the kernel has transparent huge pages, whether they are on or off.
    pub has_thp: bool,
    /// Size of a transparent huge page in bytes; `None` if the kernel has none or they are disabled.
    pub thp_bytes: Option<u64>,
    /// Pools of hugetlb pages, smallest pages first.
    pub hugetlb: Vec<HugepagePool>,
    /// Available memory in bytes.
    pub available_bytes: u64,
}

/// Reads the kinds of memory of this host.
pub fn memory_kinds() -> MemoryKinds {
    let root = Path::new("/");
    let thp_mode = thp_mode(root);
    let thp_on = thp_mode.as_ref().is_some_and(|mode| mode != "never");
    MemoryKinds {
        page_bytes: rustix::param::page_size() as u64,
        has_thp: thp_mode.is_some(),
        thp_bytes: thp_bytes(root).filter(|_| thp_on),
        hugetlb: hugepage_pools(root),
        // Without the line, nothing is known to be too large.
        available_bytes: meminfo_bytes(root, "MemAvailable").unwrap_or(u64::MAX),
    }
}

/// Reads the pools of hugetlb pages, smallest pages first.
pub(crate) fn hugepage_pools(root: &Path) -> Vec<HugepagePool> {
    let mut pools: Vec<_> = procfs::file_names(root, HUGEPAGES)
        .filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = |file: &str| procfs::read_number(root, &format!("{HUGEPAGES}/{name}/{file}")).unwrap_or(0);
            Some(HugepagePool { page_bytes: kib * 1024, total: count("nr_hugepages"), free: count("free_hugepages") })
        })
        .collect();
    pools.sort_by_key(|pool| pool.page_bytes);
    pools
}

/// Returns the file with the size of the pool of hugetlb pages of this size.
pub(crate) fn hugepage_pool_path(page_bytes: u64) -> String {
    format!("{HUGEPAGES}/hugepages-{}kB/nr_hugepages", page_bytes / 1024)
}

/// Reads the mode of transparent huge pages: `always`, `madvise` or `never`.
pub(crate) fn thp_mode(root: &Path) -> Option<String> {
    let modes = procfs::read(root, &format!("{THP}/enabled"))?;
    Some(procfs::selected(&modes).to_owned())
}

/// Reads the size of a transparent huge page in bytes.
pub(crate) fn thp_bytes(root: &Path) -> Option<u64> {
    procfs::read_number(root, &format!("{THP}/hpage_pmd_size"))
}

/// Reads a size in `/proc/meminfo`, in bytes.
pub(crate) fn meminfo_bytes(root: &Path, name: &str) -> Option<u64> {
    procfs::read_kib(root, "/proc/meminfo", name)?.checked_mul(1024)
}

/// Reads the NUMA nodes that have memory.
pub fn numa_nodes() -> Vec<usize> {
    numa_nodes_below(Path::new("/"))
}

pub(crate) fn numa_nodes_below(root: &Path) -> Vec<usize> {
    procfs::read_list(root, "/sys/devices/system/node/has_memory")
}

/// Returns whether the kernel has a place to swap pages out to.
pub fn has_swap() -> bool {
    // The first line is a heading.
    procfs::read(Path::new("/"), "/proc/swaps").is_some_and(|text| text.lines().count() > 1)
}

/// Counts how many of these VAs of this process have a page in its page tables.
///
/// # Errors
///
/// The error of opening or reading `/proc/self/pagemap`.
pub fn count_present(vas: &[u64]) -> io::Result<usize> {
    /// Bit "page present" of an entry. Kernel: Documentation/admin-guide/mm/pagemap.rst.
    const PRESENT: u64 = 1 << 63;
    let pagemap = File::open("/proc/self/pagemap")?;
    let page_bytes = rustix::param::page_size() as u64;
    let mut count = 0;
    for va in vas {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, va / page_bytes * 8)?;
        count += usize::from(u64::from_le_bytes(entry) & PRESENT != 0);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_in_use_is_present() {
        let value = 7u64;
        assert_eq!(count_present(&[std::ptr::from_ref(&value) as u64]).expect("this process's own file"), 1);
    }

    #[test]
    fn pools() {
        let root = procfs::fake_root(&[
            ("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "1\n"),
            ("/sys/kernel/mm/hugepages/hugepages-64kB/nr_hugepages", "3\n"),
            ("/sys/kernel/mm/hugepages/hugepages-64kB/free_hugepages", "2\n"),
        ]);
        let small = HugepagePool { page_bytes: 64 << 10, total: 3, free: 2 };
        assert_eq!(hugepage_pools(root.path()), [small, HugepagePool { page_bytes: 1 << 30, total: 1, free: 0 }]);
    }
}
