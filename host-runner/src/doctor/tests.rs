use record::detector::Counters;
use record::machine::{HugepagePool, TransparentHugepages};
use record::result::VcpuFacts;

use crate::doctor::*;

/// Function that breaks one fact of a good machine.
type Break = fn(&mut Facts);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dic {
    Clear,
    Set,
}

fn vcpu(dic: Dic, l1ip: L1Ip) -> VcpuFacts {
    VcpuFacts {
        midr_el1: 0,
        ctr_el0: 0x8444_c004,
        clidr_el1: 0,
        imin_line_bytes: 64,
        dmin_line_bytes: 64,
        idc: false,
        dic: dic == Dic::Set,
        l1ip,
        cntfrq_hz: 1,
        resolution_ticks: 1,
        shown: None,
    }
}

fn kind(guest: Result<VcpuFacts, String>) -> CpuKind {
    CpuKind { midr: None, cpus: vec![0, 1], guest }
}

/// Returns the facts of a machine on which nothing is wrong.
fn good() -> Facts {
    let mut machine = Machine::unknown("6.1.0");
    machine.page_bytes = 4096;
    machine.cpus_online = vec![0, 1];
    machine.cpus_allowed = vec![0, 1];
    machine.memory_bytes = Some(4 << 30);
    machine.hugepages = vec![HugepagePool { page_bytes: 1 << 30, total: 1, free: 1 }];
    Facts {
        machine,
        detector: Detector {
            soft: DetectorState::On,
            hard: DetectorState::NotAvailable,
            thresh_s: Some(10),
            cpus: vec![0, 1],
            counters: Counters::default(),
            ..Detector::unknown()
        },
        kvm: Kvm::Present(Limits { ipa_bits: 44, max_vcpus: 64, fwb: Some(true) }),
        cpu_kinds: vec![kind(Ok(vcpu(Dic::Clear, L1Ip::Pipt)))],
        tracing: Ok(Survey { icache: Some("a"), dcache: Some("b") }),
        no_kernel_log: None,
        dangers: Dangers::default(),
        nohz_full: Vec::new(),
    }
}

/// Returns the exit code of the diagnosis, and its reason with the commands that help.
fn diagnosis(change: impl FnOnce(&mut Facts)) -> (u8, String) {
    let mut facts = good();
    change(&mut facts);
    let diagnosis = judge(&facts);
    let commands: Vec<_> = diagnosis.checks.iter().filter_map(|check| check.command.clone()).collect();
    (diagnosis.outcome.exit_code(), format!("{} $ {}", diagnosis.reason, commands.join(" $ ")))
}

#[test]
fn ready() {
    assert_eq!(diagnosis(|_| ()).0, 0);
}

#[test]
fn cannot_show() {
    let cases: [(Break, &str); 5] = [
        (|f| f.kvm = Kvm::OtherArchitecture, "arm64"),
        (|f| f.kvm = Kvm::Absent("no /dev/kvm".into()), "no /dev/kvm"),
        (|f| f.cpu_kinds = vec![kind(Ok(vcpu(Dic::Set, L1Ip::Pipt)))], "DIC is 1"),
        (|f| f.cpu_kinds = vec![kind(Ok(vcpu(Dic::Clear, L1Ip::Vipt)))], "not PIPT"),
        (|f| f.detector.soft = DetectorState::NotAvailable, "no soft lockup detector"),
    ];
    for (change, why) in cases {
        let (code, text) = diagnosis(change);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains(why), "{why} is not in {text}");
    }
}

#[test]
fn one_kind_without_dic_is_enough() {
    let mixed = |f: &mut Facts| {
        f.cpu_kinds = vec![kind(Ok(vcpu(Dic::Set, L1Ip::Pipt))), kind(Ok(vcpu(Dic::Clear, L1Ip::Pipt)))]
    };
    assert_eq!(diagnosis(mixed).0, 0);
}

#[test]
fn fixes_come_with_their_command() {
    let cases: [(Break, &str); 8] = [
        (|f| f.kvm = Kvm::NoPermission, "sudo"),
        (|f| f.machine.hugepages[0].free = 0, "echo 2 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"),
        (|f| f.detector.soft = DetectorState::Off, "sysctl kernel.watchdog=1"),
        (|f| f.detector.thresh_s = Some(0), "sysctl kernel.watchdog_thresh=10"),
        (|f| f.detector.cpus = vec![0], "sysctl kernel.watchdog_cpumask=0-1"),
        (|f| f.no_kernel_log = Some("not root".into()), "sudo"),
        (|f| f.tracing = Err(("no tracefs".into(), Some("mount it".into()))), "mount it"),
        (|f| f.cpu_kinds = vec![kind(Err("it hung".into()))], "it hung"),
    ];
    for (change, command) in cases {
        let (code, text) = diagnosis(change);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(command), "{command} is not in {text}");
    }
}

#[test]
fn the_largest_block_depends_on_the_granule() {
    let thp = |f: &mut Facts| {
        f.machine.page_bytes = 16 << 10;
        f.machine.transparent_hugepages =
            Some(TransparentHugepages { enabled: "madvise".into(), pmd_bytes: Some(32 << 20) });
    };
    assert_eq!(diagnosis(thp).0, 0);
    let large = |f: &mut Facts| {
        f.machine.page_bytes = 64 << 10;
        f.machine.hugepages = vec![HugepagePool { page_bytes: 512 << 20, total: 0, free: 0 }];
    };
    assert!(diagnosis(large).1.contains("hugepages-524288kB"));
}

#[test]
fn dangers_and_noise_warn_and_do_not_stop() {
    let (code, text) = diagnosis(|f| {
        f.dangers.panics = vec!["softlockup_panic".into()];
        f.dangers.watchdogs = vec!["/dev/watchdog0".into()];
        f.machine.cpu_governor = Some("schedutil".into());
    });
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("sysctl kernel.softlockup_panic=0") && text.contains("cpupower"), "{text}");
}

#[test]
fn lists_of_cpus_have_the_kernels_format() {
    assert_eq!([&[0, 1, 2, 5][..], &[7], &[]].map(list), ["0-2,5", "7", "none"]);
}
