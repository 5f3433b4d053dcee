//! QEMU's command line for an emulated host.

use std::ffi::OsString;
use std::path::Path;

use crate::init::protocol::CONSOLE_FILE;
use crate::options::Options;
use crate::work_dir::INITRAMFS;

/// Kernel arguments of every boot.
///
/// - `panic=-1` together with `-no-reboot` ends QEMU at a panic.
/// - `loglevel=5` keeps warnings, lockups and traces on the console. It drops the boot messages, which cost time on the
///   serial port. /dev/kmsg has all of them, and a panic prints at every level.
/// - `cryptomgr.notests` skips self-tests that take 20 s of virtual time on 6.1, and 16 s on 6.12.
const KERNEL_ARGUMENTS: &str = "console=ttyAMA0 nokaslr panic=-1 loglevel=5 printk.time=1 audit=0 cryptomgr.notests \
                                raid=noautodetect";

/// Returns the arguments of QEMU. `argument` belongs to the kernel, and comes before those of the options.
///
/// All paths but the kernel's are relative to the staging directory, where QEMU runs. They are thus the same in every
/// run.
pub fn arguments(options: &Options, kernel: &Path, argument: Option<&str>) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(OsString::from));
    add(&["-machine", "virt,virtualization=on,gic-version=3,dtb-randomness=off"]);
    add(&["-cpu", &cpu(options.cpu()), "-smp", &options.smp.to_string(), "-m", &options.mem.to_string()]);
    for node in numa(options) {
        add(&["-object", &node.backend, "-numa", &node.topology]);
    }
    if let Some(shift) = options.time_scale {
        add(&["-icount", &format!("shift={shift},sleep=off")]);
    }
    add(&["-rtc", "clock=vm,base=2024-01-01", "-seed", "42"]);
    add(&["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
    add(&["-serial", &format!("file:{CONSOLE_FILE}")]);
    add(&["-semihosting-config", "enable=on,target=native,userspace=on"]);
    add(&["-initrd", &format!("../{INITRAMFS}"), "-append", &append(options, argument), "-kernel"]);
    line.push(kernel.into());
    line.extend(options.qemu_args.iter().map(OsString::from));
    line
}

/// The arguments of `-object` and `-numa` for one NUMA node.
struct NumaNode {
    backend: String,
    topology: String,
}

/// Splits memory and CPUs between the NUMA nodes. With one node, the result is empty.
///
/// The first nodes get the remainders. If there are fewer CPUs than nodes, the last nodes have only memory.
fn numa(options: &Options) -> Vec<NumaNode> {
    let nodes = options.nodes;
    let share = |whole: u32, node: u32| whole / nodes + u32::from(node < whole % nodes);
    let mut first_cpu = 0;
    let node = |node| {
        let cpus = share(options.smp, node);
        let range = format!(",cpus={first_cpu}-{}", first_cpu + cpus.saturating_sub(1));
        first_cpu += cpus;
        NumaNode {
            backend: format!("memory-backend-ram,id=node{node},size={}M", share(options.mem, node)),
            topology: format!("node,nodeid={node},memdev=node{node}{}", if cpus > 0 { &range } else { "" }),
        }
    };
    (0..nodes).filter(|_| nodes > 1).map(node).collect()
}

/// Returns the kernel's command line.
fn append(options: &Options, argument: Option<&str>) -> String {
    let parts = [KERNEL_ARGUMENTS, argument.unwrap_or_default(), options.append.trim()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Returns the argument of `-cpu` for a model.
///
/// `max` is used without SVE, because KVM would save its state. Its pointer authentication uses the cheap algorithm,
/// because the default one takes most of the time of a boot.
fn cpu(name: &str) -> String {
    if name == "max" { "max,sve=off,pauth-impdef=on".into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::emulator::Emulator;

    fn line(options: &Options) -> String {
        Emulator::named(&options.qemu).shell_line(&arguments(options, Path::new("/k/Image"), None))
    }

    #[test]
    fn scaled_time_is_counted_and_seeded() {
        let text = line(&Options { time_scale: Some(5), ..Options::for_kernel("debian:6.1") });
        for part in [
            "-machine virt,virtualization=on,gic-version=3,dtb-randomness=off",
            "-cpu neoverse-n1 -smp 2 -m 4096",
            "-icount shift=5,sleep=off",
            "-rtc clock=vm,base=2024-01-01 -seed 42",
            "-no-reboot",
            "nokaslr panic=-1",
            "-kernel /k/Image",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn without_a_scale_nothing_is_counted() {
        assert!(!line(&Options::for_kernel("debian:6.1")).contains("icount"));
    }

    #[test]
    fn nodes_share_memory_and_cpus() {
        assert!(!line(&Options::for_kernel("debian:6.1")).contains("numa"));
        let two = line(&Options { nodes: 2, ..Options::for_kernel("debian:6.1") });
        for part in [
            "-object memory-backend-ram,id=node0,size=2048M -numa node,nodeid=0,memdev=node0,cpus=0-0",
            "-object memory-backend-ram,id=node1,size=2048M -numa node,nodeid=1,memdev=node1,cpus=1-1",
        ] {
            assert!(two.contains(part), "{part} is not in {two}");
        }
        let odd = line(&Options { nodes: 3, smp: 2, mem: 1000, ..Options::for_kernel("debian:6.1") });
        for part in ["id=node0,size=334M", "id=node1,size=333M", "id=node2,size=333M -numa node,nodeid=2,memdev=node2 "]
        {
            assert!(odd.contains(part), "{part} is not in {odd}");
        }
        assert!(line(&Options { nodes: 2, smp: 3, ..Options::for_kernel("debian:6.1") }).contains("cpus=0-1 "));
    }

    #[test]
    fn additions_come_last_and_quoted() {
        let options = Options {
            append: "kvm-arm.mode=nvhe".into(),
            qemu_args: vec!["-plugin".into(), "/p/it's.so".into()],
            cpu: Some("max".into()),
            ..Options::for_kernel("debian:6.1")
        };
        let text = line(&options);
        assert!(text.contains("raid=noautodetect kvm-arm.mode=nvhe'"), "{text}");
        assert!(text.contains("-cpu max,sve=off,pauth-impdef=on"), "{text}");
        assert!(text.ends_with("-plugin '/p/it'\\''s.so'"), "{text}");
    }
}
