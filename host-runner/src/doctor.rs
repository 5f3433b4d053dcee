//! Judges from plain facts if a machine can show the lockup, and names what it lacks.

use guest::limits::Limits;
use hostfacts::dangers::Dangers;
use hostfacts::trace::Survey;
use record::detector::{Detector, NotWatched, State as DetectorState};
use record::machine::{KvmMode, Machine, Platform};
use record::result::L1Ip;
use scenarios::inspection::{CpuKind, Kvm};
use serde::Serialize;
use units::size::Size;

/// Facts about a machine, on which the diagnosis rests.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The machine.
    pub machine: Machine,
    /// State of its lockup detectors.
    pub detector: Detector,
    /// State of KVM.
    pub kvm: Kvm,
    /// Kinds of its CPUs, each with what a guest reads there.
    pub cpu_kinds: Vec<CpuKind>,
    /// Functions that can be traced, or the reason why none can and a command that helps, if there is one.
    pub tracing: Result<Survey, (String, Option<String>)>,
    /// Reason why the kernel log cannot be read, if it cannot.
    pub no_kernel_log: Option<String>,
    /// Dangers of a run.
    pub dangers: Dangers,
    /// CPUs without a tick.
    pub nohz_full: Vec<usize>,
}

/// State of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Good for a run.
    Ok,
    /// A fact that is neither good nor bad.
    Note,
    /// A run may harm the machine, or its numbers may be poor.
    Warning,
    /// Must be fixed before a run.
    Fix,
    /// The lockup cannot occur or cannot be seen on this machine.
    CannotShow,
}

/// A check of the diagnosis: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name.
    pub name: &'static str,
    /// State.
    pub state: State,
    /// The finding.
    pub text: String,
    /// A command that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// The diagnosis of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Readiness of the machine.
    pub outcome: Readiness,
    /// Reason in one line.
    pub reason: String,
    /// All checks.
    pub checks: Vec<Check>,
}

/// Readiness of a machine for runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// A run can show the lockup or its absence.
    Ready,
    /// Something must be fixed first.
    NeedsFix,
    /// No run on this machine can show the lockup.
    CannotShow,
}

impl Readiness {
    /// Returns the exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::NeedsFix => 1,
            Self::CannotShow => 4,
        }
    }
}

fn check(name: &'static str, state: State, text: impl Into<String>) -> Check {
    Check { name, state, text: text.into(), command: None }
}

impl Check {
    fn with(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }
}

/// Judges a machine.
pub fn judge(facts: &Facts) -> Diagnosis {
    let mut checks = vec![platform(&facts.machine), kvm(facts)];
    if let Kvm::Present(limits) = &facts.kvm {
        checks.extend(facts.cpu_kinds.iter().map(cpu_kind));
        checks.extend(dic(&facts.cpu_kinds));
        checks.push(fwb(*limits));
    }
    checks.push(pages(&facts.machine));
    if facts.kvm != Kvm::OtherArchitecture {
        checks.push(blocks(&facts.machine));
        checks.push(detector(facts));
        checks.push(hard_detector(&facts.detector));
        checks.push(kernel_log(facts));
        checks.push(tracing(facts));
    }
    checks.extend(cpus(facts));
    checks.extend(dangers(&facts.dangers));
    let in_state = |state: State| checks.iter().filter(move |check| check.state == state);
    let (outcome, state) = if in_state(State::CannotShow).next().is_some() {
        (Readiness::CannotShow, State::CannotShow)
    } else if in_state(State::Fix).next().is_some() {
        (Readiness::NeedsFix, State::Fix)
    } else {
        (Readiness::Ready, State::Ok)
    };
    let reason = match outcome {
        Readiness::Ready => "a run on this machine can show the bug, or that it is not there".into(),
        _ => in_state(state).map(|check| format!("{}: {}", check.name, check.text)).collect::<Vec<_>>().join("; "),
    };
    Diagnosis { outcome, reason, checks }
}

fn platform(machine: &Machine) -> Check {
    let what = format!(
        "{} {}{}",
        machine.architecture,
        machine.kernel_release,
        machine.model.as_ref().map(|model| format!(", {model}")).unwrap_or_default()
    );
    match machine.platform {
        Platform::Emulated => check(
            "machine",
            State::Note,
            format!("{what}; EMULATED: times are a model, never to be compared with hardware"),
        ),
        Platform::VirtualMachine => check("machine", State::Note, format!("{what}; a virtual machine")),
        Platform::Hardware | Platform::Unknown => check("machine", State::Ok, what),
    }
}

fn kvm(facts: &Facts) -> Check {
    let unknown = "mode unknown (the boot message is no longer in the kernel log, or may not be read)";
    let mode = facts.machine.kvm_mode.as_ref().map_or(unknown, KvmMode::name);
    match &facts.kvm {
        Kvm::OtherArchitecture => check(
            "kvm",
            State::CannotShow,
            format!("the bug is in KVM on arm64, this host is {}: try the emulated lab", facts.machine.architecture),
        )
        .with("faultline reproduce"),
        Kvm::Absent(why) => check("kvm", State::CannotShow, why.clone()),
        Kvm::NoPermission => {
            check("kvm", State::Fix, "/dev/kvm may not be opened by this user").with("sudo faultline doctor")
        }
        Kvm::Present(limits) => {
            if let Some(other) = facts.machine.mode_not_taken() {
                return check("kvm", State::Note, other);
            }
            check("kvm", State::Ok, format!("{mode}; up to {} vCPUs, {}-bit IPA", limits.max_vcpus, limits.ipa_bits))
        }
    }
}

fn cpu_kind(kind: &CpuKind) -> Check {
    let cpus = format!("MIDR_EL1 {}, CPUs {}", kind.midr.as_deref().unwrap_or("unknown"), list(&kind.cpus));
    match &kind.guest {
        Err(why) => check("cpu", State::Warning, format!("{cpus}: no guest ran there: {why}")),
        Ok(vcpu) => check(
            "cpu",
            State::Note,
            format!(
                "{cpus}: a guest reads CTR_EL0 {:#x}: I line {} B {}, IDC {}, DIC {}",
                vcpu.ctr_el0,
                vcpu.imin_line_bytes,
                vcpu.l1ip.name(),
                u8::from(vcpu.idc),
                u8::from(vcpu.dic)
            ),
        ),
    }
}

/// Judges if stage 2 has I-cache maintenance to do. KVM decides for the whole system: one CPU without DIC is enough.
fn dic(kinds: &[CpuKind]) -> Option<Check> {
    let known: Vec<_> = kinds.iter().filter_map(|kind| kind.guest.as_ref().ok()).collect();
    if known.is_empty() {
        let why = kinds.iter().find_map(|kind| kind.guest.as_ref().err());
        let why = why.map_or_else(|| "no CPU is known".to_owned(), Clone::clone);
        return Some(check("i-cache", State::Fix, format!("no guest ran, so DIC is unknown: {why}")));
    }
    if known.iter().all(|vcpu| vcpu.dic) {
        return Some(check(
            "i-cache",
            State::CannotShow,
            "DIC is 1: KVM grants execution at once and never invalidates the I-cache, so the bug cannot be here",
        ));
    }
    if known.iter().any(|vcpu| vcpu.l1ip != L1Ip::Pipt) {
        return Some(check(
            "i-cache",
            State::CannotShow,
            "an I-cache that is not PIPT: KVM always invalidates all of it, so the line-by-line path is never taken",
        ));
    }
    Some(check(
        "i-cache",
        State::Ok,
        "DIC is 0 and PIPT: stage 2 invalidates the I-cache, by line where there is no cap",
    ))
}

fn fwb(limits: Limits) -> Check {
    match limits.fwb {
        Some(true) => check("d-cache", State::Ok, "FWB: stage 2 cleans no D-cache, the I side stands alone"),
        Some(false) => check(
            "d-cache",
            State::Note,
            "no FWB: a block's first touch cleans the D-cache by line, which may lock up on its own; reports tell it apart",
        ),
        None => check("d-cache", State::Note, "FWB is unknown: KVM does not tell"),
    }
}

fn pages(machine: &Machine) -> Check {
    let pools: Vec<_> = machine
        .hugepages
        .iter()
        .map(|pool| format!("{} {} of {} free", Size(pool.page_bytes), pool.free, pool.total))
        .collect();
    let thp = machine.transparent_hugepages.as_ref().map_or_else(
        || "not built in".into(),
        |thp| format!("{}{}", thp.pmd_bytes.map(|b| format!("{} ", Size(b))).unwrap_or_default(), thp.enabled),
    );
    let pools = if pools.is_empty() { "none".into() } else { pools.join(", ") };
    check("memory", State::Note, format!("page {}; THP {thp}; hugetlb: {pools}", Size(machine.page_bytes)))
}

/// Returns the size in bytes of the largest block that stage 2 maps with this granule.
fn largest_block(page_bytes: u64) -> u64 {
    match page_bytes {
        0x4000 => 32 << 20,
        0x1_0000 => 512 << 20,
        _ => 1 << 30,
    }
}

fn blocks(machine: &Machine) -> Check {
    let bytes = largest_block(machine.page_bytes);
    let size = Size(bytes);
    let pool = machine.hugepages.iter().find(|pool| pool.page_bytes == bytes);
    let thp = machine.transparent_hugepages.as_ref();
    let by_thp = thp.is_some_and(|thp| thp.pmd_bytes == Some(bytes) && thp.enabled != "never");
    match pool {
        Some(pool) if pool.free > 0 => {
            check("blocks", State::Ok, format!("{} free hugetlb pages of {size}, the largest block here", pool.free))
        }
        _ if by_thp => check("blocks", State::Ok, format!("THP gives {size}, the largest block here")),
        Some(pool) if machine.memory_bytes.is_none_or(|all| all > bytes + bytes / 4) => check(
            "blocks",
            State::Fix,
            format!(
                "no free hugetlb page of {size}, the largest block here; `run --hugepages` fills the pool for the run"
            ),
        )
        .with(format!(
            "echo {} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
            pool.total + 1,
            bytes >> 10
        )),
        Some(_) => {
            check("blocks", State::Warning, format!("too little memory for a block of {size}: smaller ones only"))
        }
        None => {
            check("blocks", State::Warning, format!("this kernel has no hugetlb pages of {size}: smaller blocks only"))
        }
    }
}

fn detector(facts: &Facts) -> Check {
    let threshold = facts.detector.soft_threshold_s().unwrap_or(0);
    match facts.detector.watches(&facts.machine.cpus_allowed) {
        Ok(()) => check(
            "detector",
            State::Ok,
            format!("soft lockups are reported after {threshold} s (`run --watchdog-thresh 1`: after 2 s)"),
        ),
        Err(why @ NotWatched::NotAvailable) => check("detector", State::CannotShow, why.to_string()),
        Err(why @ NotWatched::Off) => {
            check("detector", State::Fix, why.to_string()).with("sysctl kernel.watchdog=1 kernel.soft_watchdog=1")
        }
        Err(why @ NotWatched::NoThreshold) => {
            check("detector", State::Fix, why.to_string()).with("sysctl kernel.watchdog_thresh=10")
        }
        Err(why @ NotWatched::Cpu(_)) => check("detector", State::Fix, why.to_string())
            .with(format!("sysctl kernel.watchdog_cpumask={}", list(&facts.machine.cpus_online))),
    }
}

fn hard_detector(detector: &Detector) -> Check {
    let text = match detector.hard {
        DetectorState::On => "hard lockups are watched for",
        DetectorState::Off => "the hard lockup detector is off; a run does not need it",
        DetectorState::NotAvailable => "not available on this kernel or machine: no report of one means nothing",
        DetectorState::Unknown => "unknown",
    };
    check("hard lockups", State::Note, text)
}

fn kernel_log(facts: &Facts) -> Check {
    match &facts.no_kernel_log {
        None => check("kernel log", State::Ok, "/dev/kmsg can be read"),
        Some(why) => {
            check("kernel log", State::Fix, format!("{why}: lockups would go unseen")).with("sudo faultline run …")
        }
    }
}

fn tracing(facts: &Facts) -> Check {
    let survey = match &facts.tracing {
        Ok(survey) => survey,
        Err((why, Some(command))) => {
            return check("tracing", State::Fix, format!("{why}: nothing can pass without")).with(command.clone());
        }
        Err((why, None)) => {
            return check("tracing", State::Warning, format!("{why}: lockups are found, but nothing can pass"));
        }
    };
    let absent: Vec<_> = [("I", survey.icache), ("D", survey.dcache)]
        .iter()
        .filter(|(_, symbol)| symbol.is_none())
        .map(|(side, _)| format!("{side}-side"))
        .collect();
    if absent.is_empty() {
        return check("tracing", State::Ok, "guest faults, and both maintenance functions are there to be probed");
    }
    check("tracing", State::Note, format!("guest faults; no {} function to probe (inlined?)", absent.join(" and ")))
}

/// Checks isolation, affinity and frequency, which make times vary.
fn cpus(facts: &Facts) -> Vec<Check> {
    let machine = &facts.machine;
    let mut parts = vec![format!("{} online", list(&machine.cpus_online))];
    if machine.cpus_allowed != machine.cpus_online {
        parts.push(format!("{} allowed to this process", list(&machine.cpus_allowed)));
    }
    for (name, cpus) in [("isolated", &machine.cpus_isolated), ("nohz_full", &facts.nohz_full)] {
        if !cpus.is_empty() {
            parts.push(format!("{} {name}", list(cpus)));
        }
    }
    let mut checks = vec![check("cpus", State::Note, parts.join("; "))];
    if let Some(governor) = machine.cpu_governor.as_ref().filter(|governor| *governor != "performance") {
        let text = format!("the frequency governor is {governor}: times will vary");
        checks.push(check("frequency", State::Warning, text).with("cpupower frequency-set -g performance"));
    }
    checks
}

fn dangers(dangers: &Dangers) -> Vec<Check> {
    let after = match dangers.reboot_after_panic_s {
        0 => "the machine then stays down".to_owned(),
        seconds if seconds < 0 => "the machine then reboots at once".into(),
        seconds => format!("the machine then reboots after {seconds} s"),
    };
    let mut checks: Vec<_> = dangers
        .panics
        .iter()
        .map(|name| {
            check("danger", State::Warning, format!("kernel.{name} is set: what this tool provokes may panic; {after}"))
                .with(format!("sysctl kernel.{name}=0"))
        })
        .collect();
    if !dangers.lock_takers.is_empty() {
        let threads = dangers.lock_takers.join(", ");
        let text = format!("{threads} takes KVM's mmu_lock by itself: times vary, and pages may be aged or unmapped");
        checks.push(check("company", State::Note, text));
    }
    checks.extend(dangers.watchdogs.iter().map(|watchdog| {
        check("danger", State::Warning, format!("hardware watchdog {watchdog}: a long stall may reset the machine"))
    }));
    checks
}

/// Returns a list of CPUs in the kernel's format: `0-3,8`.
fn list(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let text =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    if parts.is_empty() { "none".into() } else { parts.iter().map(text).collect::<Vec<_>>().join(",") }
}

#[cfg(test)]
mod tests;
