//! The configuration of policy kernels.

use crate::policy::spec::PageSize;

/// The configuration that all policy kernels have in common. Options that it does not name are off.
const FRAGMENT: &str = include_str!("../../../../lab/kernel.frag");

/// The options that the lab cannot work without: KVM, hugepages, the watchdog, the trace events, a console and an
/// initramfs.
const REQUIRED: [&str; 18] = [
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_CONTIG_ALLOC",
    "CONFIG_DEVTMPFS",
    "CONFIG_EVENT_TRACING",
    "CONFIG_FILE_LOCKING",
    "CONFIG_HUGETLBFS",
    "CONFIG_JUMP_LABEL",
    "CONFIG_KALLSYMS",
    "CONFIG_KPROBE_EVENTS",
    "CONFIG_KRETPROBES",
    "CONFIG_KVM",
    "CONFIG_PRINTK",
    "CONFIG_PROC_FS",
    "CONFIG_SERIAL_AMBA_PL011_CONSOLE",
    "CONFIG_SOFTLOCKUP_DETECTOR",
    "CONFIG_SYSFS",
    "CONFIG_TMPFS",
    "CONFIG_TRANSPARENT_HUGEPAGE",
];

/// Returns the configuration of kernels with pages of this size, without comments. A changed comment thus needs no
/// build.
pub fn fragment(page: PageSize) -> String {
    let default = PageSize::Size4K.option();
    assert!(FRAGMENT.contains(default), "lab/kernel.frag names the page size");
    let settings = FRAGMENT.lines().filter(|line| line.starts_with("CONFIG_") || line.ends_with(" is not set"));
    settings.flat_map(|line| [line, "\n"]).collect::<String>().replace(default, page.option())
}

/// Returns the required options that `config` does not switch on.
pub fn missing(config: &str, page: PageSize) -> Vec<String> {
    let is_on = |option: &str| config.lines().any(|line| line.strip_suffix("=y") == Some(option));
    REQUIRED.into_iter().chain([page.option()]).filter(|option| !is_on(option)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fragment_names_the_required_options() {
        // CONTIG_ALLOC, EVENT_TRACING and KRETPROBES cannot be set by name; the fragment has the options that set them.
        let derived = ["CONFIG_CONTIG_ALLOC", "CONFIG_EVENT_TRACING", "CONFIG_KRETPROBES"];
        for page in [PageSize::Size4K, PageSize::Size16K, PageSize::Size64K] {
            assert_eq!(missing(&fragment(page), page), derived);
            assert_eq!(fragment(page).matches("K_PAGES=y").count(), 1);
        }
    }
}
