//! Differences between the machines, settings and tools of two sets of runs.

use std::collections::BTreeSet;

use record::result::RunResult;

use crate::compare::comparison::Difference;

/// Returns the differences, the kernel's first. Numbers that vary from boot to boot are left out.
pub fn differences(before: &[RunResult], after: &[RunResult]) -> Vec<Difference> {
    let mut found = Vec::new();
    for (what, read) in PROPERTIES {
        let values = |runs: &[RunResult]| runs.iter().map(read).collect::<BTreeSet<_>>();
        let (before, after) = (values(before), values(after));
        if before != after {
            let join = |values: BTreeSet<String>| values.into_iter().collect::<Vec<_>>().join(" / ");
            found.push(Difference { what, before: join(before), after: join(after) });
        }
    }
    found
}

/// Function that reads one property of a run.
type Read = fn(&RunResult) -> String;

/// Properties to compare, with their names.
const PROPERTIES: [(&str, Read); 25] = [
    ("kernel", |r| r.machine.kernel_release.clone()),
    ("kernel build", |r| r.machine.kernel_version.clone()),
    ("kernel in the lab", |r| known(r.lab_kernel().map(str::to_owned).as_ref())),
    ("label", |r| known(r.under_test.label.as_ref())),
    ("commit", |r| known(r.under_test.git_commit_hash.as_ref())),
    ("patchset", |r| known(r.under_test.patchset_hash.as_ref())),
    ("machine", |r| known(r.machine.model.as_ref())),
    ("CPUs", cpus),
    ("CPUs online", |r| r.machine.cpus_online.len().to_string()),
    ("page size", |r| r.machine.page_bytes.to_string()),
    ("KVM mode", |r| known(r.machine.kvm_mode.as_ref().map(|mode| mode.name().to_owned()).as_ref())),
    ("preemption", |r| known(r.machine.preemption.as_ref())),
    ("guest CTR_EL0", |r| known(r.vcpus.first().map(|vcpu| format!("{:#x}", vcpu.ctr_el0)).as_ref())),
    ("guest CTR_EL0 shown", |r| {
        let shown = r.vcpus.first().and_then(|vcpu| vcpu.shown.as_ref());
        known(shown.map(|shown| format!("{:#x}", shown.ctr_el0)).as_ref())
    }),
    ("guest IDC", |r| known(r.vcpus.first().map(|vcpu| u8::from(vcpu.idc).to_string()).as_ref())),
    ("memory", |r| known(r.machine.memory_bytes.map(|bytes| format!("{} MiB", bytes >> 20)).as_ref())),
    ("huge pages", |r| known(r.machine.transparent_hugepages.as_ref().map(|thp| &thp.enabled))),
    ("clock source", |r| known(r.machine.clocksource.as_ref())),
    ("governor", |r| known(r.machine.cpu_governor.as_ref())),
    ("isolated CPUs", |r| r.machine.cpus_isolated.len().to_string()),
    ("command line", |r| known(r.machine.command_line.as_ref())),
    ("emulation", |r| known(r.lab_setup().and_then(|lab| serde_json::to_string(&lab).ok()).as_ref())),
    ("lockup threshold", |r| known(r.detector.soft_threshold_s().map(|s| format!("{s} s")).as_ref())),
    ("faultline", |r| format!("{} ({})", r.tool.version, r.tool.commit)),
    ("arguments", |r| r.command.join(" ")),
];

fn known(value: Option<&String>) -> String {
    value.map_or_else(|| "unknown".into(), Clone::clone)
}

/// Returns the MIDR_EL1 of every kind of CPU: one machine may have several.
fn cpus(run: &RunResult) -> String {
    let kinds: BTreeSet<_> = run.machine.midr.values().map(|midr| format!("{midr:#x}")).collect();
    known((!kinds.is_empty()).then(|| kinds.into_iter().collect::<Vec<_>>().join(", ")).as_ref())
}
