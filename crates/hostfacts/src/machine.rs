//! Reads what the machine is: kernel, CPUs, memory, KVM's mode, and whether any of it is emulated.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use record::machine::{HugepagePool, KvmMode, LAB_VARIABLE, Machine, Platform, TransparentHugepages};

use crate::procfs;

/// Reads the facts of this machine. `kernel_log` is what is left of the kernel's boot messages, if readable.
pub fn read(kernel_log: Option<&str>) -> Machine {
    read_below(Path::new("/"), kernel_log, std::env::var(LAB_VARIABLE).ok().as_deref())
}

fn read_below(root: &Path, kernel_log: Option<&str>, lab: Option<&str>) -> Machine {
    let uname = rustix::system::uname();
    let list = |path: &str| procfs::read(root, path).and_then(|text| procfs::cpu_list(&text)).unwrap_or_default();
    Machine {
        kernel_release: uname.release().to_string_lossy().into_owned(),
        kernel_version: uname.version().to_string_lossy().into_owned(),
        architecture: uname.machine().to_string_lossy().into_owned(),
        page_bytes: rustix::param::page_size() as u64,
        midr: midr(root),
        cpus_online: list("/sys/devices/system/cpu/online"),
        cpus_allowed: cpus_allowed(root),
        cpus_isolated: list("/sys/devices/system/cpu/isolated"),
        kvm_mode: kernel_log.and_then(kvm_mode),
        memory_bytes: meminfo_bytes(root, "MemTotal:"),
        numa_nodes: list("/sys/devices/system/node/has_memory"),
        swap_bytes: meminfo_bytes(root, "SwapTotal:"),
        hugepages: hugepages(root),
        transparent_hugepages: transparent_hugepages(root),
        mitigations: mitigations(root),
        clocksource: procfs::read(root, "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        cpu_governor: procfs::read(root, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        command_line: procfs::read(root, "/proc/cmdline"),
        model: procfs::read(root, "/proc/device-tree/model")
            .or_else(|| procfs::read(root, "/sys/class/dmi/id/product_name")),
        platform: platform(root, lab),
        // A lab that describes itself in broken JSON is still a lab.
        lab: lab.map(|text| serde_json::from_str(text).unwrap_or_default()),
    }
}

fn midr(root: &Path) -> BTreeMap<usize, u64> {
    let cpus = names(root, "/sys/devices/system/cpu").filter_map(|name| name.strip_prefix("cpu")?.parse().ok());
    cpus.filter_map(|cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/regs/identification/midr_el1");
        let text = procfs::read(root, &path)?;
        Some((cpu, u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()?))
    })
    .collect()
}

fn names(root: &Path, path: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(procfs::under(root, path)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Reads `Cpus_allowed_list`, in which the kernel has joined affinity and cpuset.
fn cpus_allowed(root: &Path) -> Vec<usize> {
    let status = procfs::read(root, "/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(procfs::cpu_list).unwrap_or_default()
}

fn meminfo_bytes(root: &Path, field: &str) -> Option<u64> {
    let text = procfs::read(root, "/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

fn hugepages(root: &Path) -> Vec<HugepagePool> {
    const DIR: &str = "/sys/kernel/mm/hugepages";
    let mut pools: Vec<_> = names(root, DIR)
        .filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = |file: &str| procfs::read_number(root, &format!("{DIR}/{name}/{file}")).unwrap_or(0);
            Some(HugepagePool { page_bytes: kib * 1024, total: count("nr_hugepages"), free: count("free_hugepages") })
        })
        .collect();
    pools.sort_by_key(|pool| pool.page_bytes);
    pools
}

fn transparent_hugepages(root: &Path) -> Option<TransparentHugepages> {
    const DIR: &str = "/sys/kernel/mm/transparent_hugepage";
    let enabled = procfs::read(root, &format!("{DIR}/enabled"))?;
    Some(TransparentHugepages {
        enabled: procfs::selected(&enabled).to_owned(),
        pmd_bytes: procfs::read_number(root, &format!("{DIR}/hpage_pmd_size")),
    })
}

fn mitigations(root: &Path) -> BTreeMap<String, String> {
    const DIR: &str = "/sys/devices/system/cpu/vulnerabilities";
    names(root, DIR).filter_map(|name| Some((name.clone(), procfs::read(root, &format!("{DIR}/{name}"))?))).collect()
}

/// Finds KVM's boot message: `kvm [1]: VHE mode initialized successfully`, `Hyp mode …`, `Protected nVHE mode …`;
/// 6.12 says `VHE mode initialized successfully` and `Hyp nVHE mode …` as well.
pub fn kvm_mode(kernel_log: &str) -> Option<KvmMode> {
    kernel_log.lines().rev().find_map(|line| {
        let (_, text) = line.split_once("kvm [")?.1.split_once("]: ")?;
        let (mode, _) = text.split_once(" mode initialized successfully")?;
        Some(match mode {
            "VHE" => KvmMode::Vhe,
            mode if mode.starts_with("Protected") => KvmMode::Protected,
            _ => KvmMode::Nvhe,
        })
    })
}

fn platform(root: &Path, lab: Option<&str>) -> Platform {
    if lab.is_some() {
        return Platform::Emulated;
    }
    let compatible = procfs::read(root, "/proc/device-tree/compatible").unwrap_or_default();
    let vendor = procfs::read(root, "/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    let cpuinfo = procfs::read(root, "/proc/cpuinfo").unwrap_or_default();
    const VENDORS: [&str; 6] = ["QEMU", "Amazon EC2", "Google", "VMware", "Xen", "innotek"];
    let x86_guest = cpuinfo.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let virtual_tree =
        compatible.contains("linux,dummy-virt") || procfs::under(root, "/proc/device-tree/hypervisor").exists();
    // EC2's bare-metal instances carry Amazon's name too, and say so in the product's.
    let metal = procfs::read(root, "/sys/class/dmi/id/product_name").is_some_and(|name| name.contains("metal"));
    if virtual_tree || x86_guest || (!metal && VENDORS.iter().any(|name| vendor.contains(name))) {
        Platform::VirtualMachine
    } else {
        Platform::Hardware
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = procfs::under(root.path(), path);
            fs::create_dir_all(path.parent().expect("files are in directories")).expect("directory");
            fs::write(path, text).expect("file");
        }
        root
    }

    #[test]
    fn an_emulated_board() {
        let root = root(&[
            ("/proc/device-tree/compatible", "linux,dummy-virt\0"),
            ("/proc/device-tree/model", "linux,dummy-virt\0"),
            ("/sys/devices/system/cpu/online", "0-1\n"),
            ("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1", "0x00000000414fd0c1\n"),
            ("/sys/devices/system/cpu/cpufreq/x", ""),
            ("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t1\n"),
            ("/proc/meminfo", "MemTotal:        2034072 kB\nSwapTotal:        262140 kB\n"),
            ("/sys/devices/system/node/has_memory", "0-1\n"),
            ("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "1\n"),
            ("/sys/kernel/mm/hugepages/hugepages-64kB/nr_hugepages", "0\n"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n"),
            ("/sys/devices/system/cpu/vulnerabilities/spectre_v2", "Not affected\n"),
        ]);
        let log = "[    0.1] kvm [1]: IPA Size Limit: 48 bits\n[    0.2] kvm [1]: VHE mode initialized successfully\n";
        let machine = read_below(root.path(), Some(log), None);
        assert_eq!(machine.platform, Platform::VirtualMachine);
        assert_eq!(machine.midr, BTreeMap::from([(0, 0x414f_d0c1)]));
        assert_eq!((machine.cpus_online.as_slice(), machine.cpus_allowed.as_slice()), (&[0, 1][..], &[1][..]));
        assert_eq!(machine.kvm_mode, Some(KvmMode::Vhe));
        assert_eq!(machine.hugepages.iter().map(|pool| pool.page_bytes).collect::<Vec<_>>(), [65536, 1 << 30]);
        assert_eq!(machine.transparent_hugepages.as_ref().map(|thp| thp.enabled.as_str()), Some("madvise"));
        assert_eq!(machine.model.as_deref(), Some("linux,dummy-virt"));
        assert_eq!(machine.memory_bytes, Some(2_034_072 * 1024));
        assert_eq!((machine.numa_nodes.as_slice(), machine.swap_bytes), (&[0, 1][..], Some(262_140 * 1024)));
        let json = serde_json::to_string(&machine).expect("plain data");
        assert_eq!(serde_json::from_str::<Machine>(&json).expect("the same data"), machine);
        let lab = read_below(root.path(), None, Some("{\"cpu\":\"neoverse-n1\"}"));
        assert_eq!(lab.platform, Platform::Emulated);
        assert_eq!(lab.lab.expect("set").cpu, "neoverse-n1");
    }

    #[test]
    fn a_machine_that_says_nothing() {
        let machine = read_below(root(&[]).path(), None, None);
        assert_eq!(machine.platform, Platform::Hardware);
        assert_eq!((machine.kvm_mode, machine.memory_bytes), (None, None));
    }

    #[test]
    fn kvm_modes() {
        let mode = |text: &str| kvm_mode(&format!("[    0.2][    T1] kvm [1]: {text}\n"));
        assert_eq!(mode("Hyp mode initialized successfully"), Some(KvmMode::Nvhe));
        assert_eq!(mode("Hyp nVHE mode initialized successfully"), Some(KvmMode::Nvhe));
        assert_eq!(mode("Protected nVHE mode initialized successfully"), Some(KvmMode::Protected));
        assert_eq!(mode("HYP mode not available"), None);
    }
}
