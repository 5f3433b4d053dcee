//! The configuration of policy kernels.

use crate::policy::spec::{Build, PageSize, Preemption, SourceVersion};

/// The configuration that all policy kernels have in common. Options that it does not name are off.
const FRAGMENT: &str = include_str!("../../../../lab/kernel.frag");

const THP: &str = "CONFIG_TRANSPARENT_HUGEPAGE";

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
    THP,
];

/// The option that selected /proc/sys up to 7.2, and its later name.
const SYSCTL: (&str, &str) = ("CONFIG_PROC_SYSCTL", "CONFIG_SYSCTL");
/// First source without PREEMPT_NONE on arm64, and with the later name of /proc/sys.
const NEWER: SourceVersion = SourceVersion(7, 3);

/// Returns the model of a build on a source.
fn preemption(build: Build, source: SourceVersion) -> Preemption {
    match build.preemption {
        Preemption::Default if source >= NEWER => Preemption::Lazy,
        Preemption::Default => Preemption::None,
        model => model,
    }
}

/// Returns the configuration of a build from a source, without comments. A changed comment thus needs no build.
pub fn fragment(build: Build, source: SourceVersion) -> String {
    let (page, model) = (PageSize::Size4K.option(), Preemption::None.option());
    assert!(FRAGMENT.contains(page) && FRAGMENT.contains(model), "lab/kernel.frag names page size and model");
    let settings = FRAGMENT.lines().filter(|line| line.starts_with("CONFIG_") || line.ends_with(" is not set"));
    let text = settings.flat_map(|line| [line, "\n"]).collect::<String>();
    let text = text.replace(page, build.page.option()).replace(model, preemption(build, source).option());
    if source >= NEWER { text.replace(SYSCTL.0, SYSCTL.1) } else { text }
}

/// Returns the required options that `config` does not switch on.
pub fn missing(config: &str, build: Build, source: SourceVersion) -> Vec<String> {
    let is_on = |option: &str| config.lines().any(|line| line.strip_suffix("=y") == Some(option));
    let model = preemption(build, source);
    // PREEMPT_RT excludes transparent huge pages.
    let required = REQUIRED.into_iter().filter(|option| model != Preemption::Rt || *option != THP);
    let chosen = [build.page.option(), model.option(), SYSCTL.1];
    required.chain(chosen).filter(|option| !is_on(option)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fragment_names_the_required_options() {
        // The fragment has the options that set these.
        let derived = ["CONFIG_CONTIG_ALLOC", "CONFIG_EVENT_TRACING", "CONFIG_KRETPROBES", "CONFIG_SYSCTL"];
        for name in ["x", "x+16k", "x+64k", "x+preempt-full", "x+preempt-rt"] {
            let (_, build) = Build::split(name).expect("a name");
            let text = fragment(build, SourceVersion::DEFAULT);
            assert_eq!(missing(&text, build, SourceVersion::DEFAULT), derived, "{name}");
            assert_eq!(text.matches("K_PAGES=y").count(), 1);
        }
        let newer = fragment(Build::DEFAULT, NEWER);
        assert!(newer.contains("CONFIG_PREEMPT_LAZY=y\n") && newer.contains("\nCONFIG_SYSCTL=y\n"), "{newer}");
        assert_eq!(missing(&newer, Build::DEFAULT, NEWER), derived[..3]);
    }
}
