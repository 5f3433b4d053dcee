//! The machine: its kernel, its CPUs, its memory, the mode of KVM, and whether it is emulated.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use klog::routines::STAGE2_AT_EL2;
use record::machine::{KvmMode, LAB_VARIABLE, Machine, Platform, TransparentHugepages};

use crate::{kmsg, memory, procfs};

/// Reads the facts of this machine.
pub fn read() -> Machine {
    read_below(Path::new("/"), kmsg::boot_log().as_deref(), std::env::var(LAB_VARIABLE).ok().as_deref())
}

/// Returns the release of the running kernel, as `uname -r` prints it.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Reads the kernel's id of this boot.
pub fn boot_id() -> Option<String> {
    boot_id_below(Path::new("/"))
}

pub(crate) fn boot_id_below(root: &Path) -> Option<String> {
    procfs::read(root, "/proc/sys/kernel/random/boot_id")
}

/// Reads the CPUs that run without a tick (`nohz_full=`).
pub fn nohz_full_cpus() -> Vec<usize> {
    procfs::read_list(Path::new("/"), "/sys/devices/system/cpu/nohz_full")
}

/// Reads the facts below `root`. `kernel_log` is the part of the boot messages that the kernel still has, and `lab` is
/// the lab's description of the machine.
fn read_below(root: &Path, kernel_log: Option<&str>, lab: Option<&str>) -> Machine {
    let uname = rustix::system::uname();
    Machine {
        kernel_release: kernel_release(),
        kernel_version: uname.version().to_string_lossy().into_owned(),
        architecture: uname.machine().to_string_lossy().into_owned(),
        page_bytes: rustix::param::page_size() as u64,
        midr: midr(root),
        cpus_online: procfs::read_list(root, "/sys/devices/system/cpu/online"),
        cpus_allowed: cpus_allowed(root),
        cpus_isolated: procfs::read_list(root, "/sys/devices/system/cpu/isolated"),
        kvm_mode: kernel_log.and_then(kvm_mode),
        preemption: Some(preemption(root, &uname.version().to_string_lossy())),
        memory_bytes: memory::meminfo_bytes(root, "MemTotal"),
        numa_nodes: memory::numa_nodes_below(root),
        swap_bytes: memory::meminfo_bytes(root, "SwapTotal"),
        hugepages: memory::hugepage_pools(root),
        transparent_hugepages: transparent_hugepages(root),
        mitigations: mitigations(root),
        clocksource: procfs::read(root, "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        cpu_governor: procfs::read(root, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        command_line: procfs::read(root, "/proc/cmdline"),
        model: procfs::read(root, "/proc/device-tree/model")
            .or_else(|| procfs::read(root, "/sys/class/dmi/id/product_name")),
        platform: platform(root, lab),
        // A lab whose description is not valid JSON is still a lab.
        lab: lab.map(|text| serde_json::from_str(text).unwrap_or_default()),
    }
}

/// Reads the preemption model. `version` is that of `uname -v`. A kernel with PREEMPT_DYNAMIC tells its model in debugfs, or
/// in its version since 6.19.
fn preemption(root: &Path, version: &str) -> String {
    let words: Vec<&str> = version.split([' ', '(', ')', ',']).collect();
    let has = |word: &str| words.contains(&word);
    let chosen = procfs::read(root, "/sys/kernel/debug/sched/preempt");
    let chosen = chosen.as_deref().and_then(|models| models.split_once('(')?.1.split_once(')'));
    match chosen {
        Some((model, _)) => model.to_owned(),
        None if has("PREEMPT_RT") => "rt".into(),
        None if has("PREEMPT_LAZY") || (has("PREEMPT_DYNAMIC") && has("lazy")) => "lazy".into(),
        None if has("PREEMPT_DYNAMIC") => "dynamic".into(),
        None if has("PREEMPT") => "full or lazy".into(),
        None => "none or voluntary".into(),
    }
}

fn midr(root: &Path) -> BTreeMap<usize, u64> {
    let cpus =
        procfs::file_names(root, "/sys/devices/system/cpu").filter_map(|name| name.strip_prefix("cpu")?.parse().ok());
    cpus.filter_map(|cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/regs/identification/midr_el1");
        let text = procfs::read(root, &path)?;
        Some((cpu, u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()?))
    })
    .collect()
}

/// Reads `Cpus_allowed_list`, which is the intersection of affinity and cpuset.
fn cpus_allowed(root: &Path) -> Vec<usize> {
    let list = procfs::read_field(root, "/proc/self/status", "Cpus_allowed_list");
    list.and_then(|list| procfs::parse_list(&list)).unwrap_or_default()
}

fn transparent_hugepages(root: &Path) -> Option<TransparentHugepages> {
    Some(TransparentHugepages { enabled: memory::thp_mode(root)?, pmd_bytes: memory::thp_bytes(root) })
}

fn mitigations(root: &Path) -> BTreeMap<String, String> {
    const DIR: &str = "/sys/devices/system/cpu/vulnerabilities";
    procfs::file_names(root, DIR)
        .filter_map(|name| Some((name.clone(), procfs::read(root, &format!("{DIR}/{name}"))?)))
        .collect()
}

/// Finds the mode in KVM's boot message: `kvm [1]: VHE mode initialized successfully`, `Hyp mode …`, or `Protected nVHE
/// mode …`.
fn kvm_mode(kernel_log: &str) -> Option<KvmMode> {
    kernel_log.lines().rev().find_map(|line| {
        let (_, text) = line.split_once("kvm [")?.1.split_once("]: ")?;
        let (words, _) = text.split_once(" mode initialized successfully")?;
        Some(KvmMode::from_words(words))
    })
}

/// Returns the reason why functions of the host's kernel do not show the maintenance for guests, if they do not: under
/// protected KVM, since 6.16, the hypervisor at EL2 changes stage 2.
pub(crate) fn stage2_at_el2() -> Option<&'static str> {
    static REASON: OnceLock<Option<&str>> = OnceLock::new();
    *REASON.get_or_init(|| {
        let command_line = || procfs::read(Path::new("/"), "/proc/cmdline").unwrap_or_default();
        let is_protected = match kmsg::boot_log().as_deref().and_then(kvm_mode) {
            Some(mode) => mode == KvmMode::Protected,
            None => command_line().contains("kvm-arm.mode=protected"),
        };
        if !is_protected {
            return None;
        }
        let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let has = |name: &str| symbols.lines().any(|line| line.split(' ').nth(2) == Some(name));
        if symbols.is_empty() {
            return Some("protected KVM may do it at EL2, and /proc/kallsyms, which would tell, cannot be read");
        }
        has(STAGE2_AT_EL2)
            .then_some("protected KVM does it at EL2, not visible from the host (in the lab, `policy --count` and --sanitize see it)")
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
    // EC2's bare-metal instances have Amazon's vendor name, too. Their product name contains "metal".
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
    use crate::procfs::fake_root;

    #[test]
    fn an_emulated_board() {
        let root = fake_root(&[
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
    fn a_machine_without_any_facts() {
        let machine = read_below(fake_root(&[]).path(), None, None);
        assert_eq!(machine.platform, Platform::Hardware);
        assert_eq!((machine.kvm_mode, machine.memory_bytes), (None, None));
    }

    #[test]
    fn preemption_models() {
        let none = fake_root(&[]);
        let of = |version: &str| preemption(none.path(), version);
        assert_eq!(of("#1 SMP PREEMPT_RT Debian 7.3.4-1 (2026-10-01)"), "rt");
        assert_eq!(of("#1 SMP PREEMPT Debian 7.3.4-1"), "full or lazy");
        assert_eq!(of("#1 SMP PREEMPT_LAZY 2024"), "lazy");
        assert_eq!(of("#1 SMP Debian 6.12.118-1 (2026-11-01)"), "none or voluntary");
        assert_eq!(of("#1 SMP PREEMPT_DYNAMIC Debian"), "dynamic");
        let dynamic = fake_root(&[("/sys/kernel/debug/sched/preempt", "none voluntary (full) lazy\n")]);
        assert_eq!(preemption(dynamic.path(), "#1 SMP PREEMPT_DYNAMIC"), "full");
    }

    #[test]
    fn kvm_modes() {
        let mode = |text: &str| kvm_mode(&format!("[    0.2][    T1] kvm [1]: {text}\n"));
        assert_eq!(mode("Hyp mode initialized successfully"), Some(KvmMode::Nvhe));
        assert_eq!(mode("Hyp nVHE mode initialized successfully"), Some(KvmMode::Nvhe));
        assert_eq!(mode("Protected nVHE mode initialized successfully"), Some(KvmMode::Protected));
        assert_eq!(mode("VHE+NV2 mode initialized successfully"), Some(KvmMode::VheNested));
        assert_eq!(mode("HYP mode not available"), None);
    }
}
