//! Memory that this host can give a guest, by kind.

use std::path::Path;

use crate::procfs;

/// Memory of the host, by kind.
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

/// Reads the kinds of memory that this host has.
pub fn host_blocks() -> HostBlocks {
    let root = Path::new("/");
    let thp = "/sys/kernel/mm/transparent_hugepage";
    let thp_on = procfs::read(root, &format!("{thp}/enabled")).is_some_and(|text| procfs::selected(&text) != "never");
    let mut hugetlb = Vec::new();
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kib =
            name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")).and_then(|n| n.parse::<u64>().ok());
        if let Some(kib) = kib {
            let free = format!("/sys/kernel/mm/hugepages/{name}/free_hugepages");
            hugetlb.push((kib << 10, procfs::read_number(root, &free).unwrap_or(0)));
        }
    }
    hugetlb.sort_unstable();
    let available_kib = procfs::read(root, "/proc/meminfo")
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("MemAvailable:").map(str::to_owned)))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    HostBlocks {
        page_bytes: rustix::param::page_size() as u64,
        thp_bytes: procfs::read_number(root, &format!("{thp}/hpage_pmd_size")).filter(|_| thp_on),
        hugetlb,
        available_bytes: available_kib.unwrap_or(u64::MAX >> 10) << 10,
    }
}
