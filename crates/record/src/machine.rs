//! The machine on which a run took place: its kernel, CPUs and memory, the mode of KVM, and the lab if it is emulated.
//!
//! All of it is stored in `environment.json` and `result.json`. A field is absent if the machine does not tell it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::size::Size;

/// The mode of KVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvmMode {
    /// The host kernel runs at EL2.
    Vhe,
    /// As VHE, with guests that may run hypervisors (FEAT_NV2).
    #[serde(rename = "vhe+nv2")]
    VheNested,
    /// The host kernel runs at EL1, and a small part of KVM runs at EL2.
    Nvhe,
    /// As nVHE, and the host kernel cannot access the memory of VMs.
    Protected,
    /// Any other mode, in the kernel's words.
    #[serde(untagged)]
    Other(String),
}

impl KvmMode {
    /// Reads the kernel's words for a mode, which `Hyp` precedes if the host kernel runs at EL1. Linux 6.12 and later say
    /// `nVHE` there; older ones say nothing.
    pub fn from_words(words: &str) -> Self {
        match words {
            "VHE" => Self::Vhe,
            "VHE+NV2" => Self::VheNested,
            "Hyp" | "Hyp nVHE" => Self::Nvhe,
            "Protected nVHE" | "Protected hVHE" => Self::Protected,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Returns the name for people.
    pub fn name(&self) -> &str {
        match self {
            Self::Vhe => "VHE",
            Self::VheNested => "VHE+NV2",
            Self::Nvhe => "nVHE",
            Self::Protected => "protected",
            Self::Other(words) => words,
        }
    }

    /// Returns whether the kernel's argument `kvm-arm.mode=REQUESTED` asks for this mode.
    fn is_asked_for_by(&self, requested: &str) -> bool {
        match self {
            Self::VheNested => requested == "nested",
            Self::Nvhe => requested == "nvhe",
            Self::Protected => requested == "protected",
            Self::Vhe => requested == "vhe",
            Self::Other(words) => words.eq_ignore_ascii_case(requested),
        }
    }
}

/// The platform of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// The lab of faultline: an emulated host.
    Emulated,
    /// A virtual machine. Its hypervisor may be KVM or an emulator.
    VirtualMachine,
    /// Hardware: nothing shows that the machine is virtual.
    Hardware,
    /// The platform is not known, because the run died before it was read.
    Unknown,
}

/// One pool of huge pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HugepagePool {
    /// Size of one page in bytes.
    pub page_bytes: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that are free.
    pub free: u64,
}

/// Transparent huge pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransparentHugepages {
    /// `always`, `madvise` or `never`.
    pub enabled: String,
    /// Size of one huge page in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pmd_bytes: Option<u64>,
}

/// Facts about the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -v`.
    pub kernel_version: String,
    /// `uname -m`.
    pub architecture: String,
    /// The kernel's page size in bytes.
    pub page_bytes: u64,
    /// `MIDR_EL1` of each CPU. The values differ on big.LITTLE machines.
    pub midr: BTreeMap<usize, u64>,
    /// CPUs that are online.
    pub cpus_online: Vec<usize>,
    /// CPUs on which this process may run, by its affinity and its cgroup.
    pub cpus_allowed: Vec<usize>,
    /// CPUs that are isolated from the scheduler.
    pub cpus_isolated: Vec<usize>,
    /// The mode of KVM. It is from KVM's boot message, and absent if the kernel log no longer has this message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kvm_mode: Option<KvmMode>,
    /// Preemption model: `none`, `voluntary`, `lazy`, `full` or `rt`, or two of them that the kernel's version does not
    /// tell apart.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub preemption: Option<String>,
    /// Memory of the machine in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_bytes: Option<u64>,
    /// NUMA nodes with memory. Empty if the kernel has no NUMA support.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub numa_nodes: Vec<usize>,
    /// Size of the active swap in bytes. 0 if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub swap_bytes: Option<u64>,
    /// Pools of huge pages, ordered by page size.
    pub hugepages: Vec<HugepagePool>,
    /// Transparent huge pages, if the kernel has them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transparent_hugepages: Option<TransparentHugepages>,
    /// The kernel's statement about each CPU vulnerability.
    pub mitigations: BTreeMap<String, String>,
    /// The clock source in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clocksource: Option<String>,
    /// The frequency governor of CPU 0. Absent if frequencies are fixed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_governor: Option<String>,
    /// The boot command line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command_line: Option<String>,
    /// The board, from the device tree or DMI.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// The platform: hardware, virtual or emulated.
    pub platform: Platform,
    /// The lab's description of an emulated host ([`LAB_VARIABLE`]).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lab: Option<LabFacts>,
}

/// The lab's description of an emulated host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LabFacts {
    /// Emulator and its version.
    pub emulator: String,
    /// QEMU's name of the CPU model.
    pub cpu: String,
    /// Number of CPUs.
    pub smp: u32,
    /// Number of NUMA nodes.
    pub nodes: u32,
    /// Size of the swap, if there is any.
    pub swap: Option<Size>,
    /// Reason for which the host has no swap although it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_swap: Option<String>,
    /// Base-2 logarithm of the time of one instruction in nanoseconds. Absent if virtual time follows real time.
    pub time_scale: Option<u8>,
    /// True if the TCG plugin counts cache maintenance.
    pub counting: bool,
    /// True if the TCG plugin judges cache maintenance.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sanitizing: bool,
    /// The kernel, as the user of the lab named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

impl LabFacts {
    /// Returns the emulator and its version as people name it, as in `QEMU 7.2.22`.
    pub fn emulator_in_words(&self) -> String {
        self.emulator.replace("qemu-system-aarch64", "QEMU")
    }
}

/// Environment variable with the lab's description of the emulated host, in JSON.
pub const LAB_VARIABLE: &str = "FAULTLINE_LAB";

impl Machine {
    /// Returns a sentence if the command line asked KVM for a mode and the kernel took another.
    pub fn mode_not_taken(&self) -> Option<String> {
        const ARGUMENT: &str = "kvm-arm.mode=";
        let line = self.command_line.as_deref()?;
        let requested = line.split_whitespace().rev().find_map(|word| word.strip_prefix(ARGUMENT))?;
        let mode = self.kvm_mode.as_ref().filter(|mode| !mode.is_asked_for_by(requested))?;
        Some(format!("KVM runs in mode {}, although the kernel was booted with {ARGUMENT}{requested}", mode.name()))
    }

    /// Returns a machine of which only the release of the kernel is known.
    pub fn unknown(kernel_release: &str) -> Self {
        Self {
            kernel_release: kernel_release.into(),
            kernel_version: "unknown".into(),
            architecture: "unknown".into(),
            page_bytes: 0,
            midr: BTreeMap::new(),
            cpus_online: Vec::new(),
            cpus_allowed: Vec::new(),
            cpus_isolated: Vec::new(),
            kvm_mode: None,
            preemption: None,
            memory_bytes: None,
            numa_nodes: Vec::new(),
            swap_bytes: None,
            hugepages: Vec::new(),
            transparent_hugepages: None,
            mitigations: BTreeMap::new(),
            clocksource: None,
            cpu_governor: None,
            command_line: None,
            model: None,
            platform: Platform::Unknown,
            lab: None,
        }
    }
}

impl Platform {
    /// Returns the name used in results and formats.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::VirtualMachine => "virtual_machine",
            Self::Hardware => "hardware",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_keep_the_kernels_words() {
        for (words, name, json) in [
            ("VHE", "VHE", "\"vhe\""),
            ("VHE+NV2", "VHE+NV2", "\"vhe+nv2\""),
            ("Hyp", "nVHE", "\"nvhe\""),
            ("Hyp nVHE", "nVHE", "\"nvhe\""),
            ("Protected nVHE", "protected", "\"protected\""),
            ("Hyp hVHE", "Hyp hVHE", "\"Hyp hVHE\""),
        ] {
            let mode = KvmMode::from_words(words);
            assert_eq!((mode.name(), serde_json::to_string(&mode).expect("plain").as_str()), (name, json));
            assert_eq!(serde_json::from_str::<KvmMode>(json).expect("the same"), mode);
        }
    }

    #[test]
    fn a_mode_that_was_not_taken_is_said() {
        let machine = |mode: &str, line: &str| Machine {
            kvm_mode: Some(KvmMode::from_words(mode)),
            command_line: Some(line.into()),
            ..Machine::unknown("x")
        };
        let said = machine("VHE", "quiet kvm-arm.mode=bogus").mode_not_taken().expect("another mode");
        assert!(said.contains("in mode VHE") && said.contains("kvm-arm.mode=bogus"), "{said}");
        for (mode, line) in [
            ("VHE", "quiet"),
            ("Hyp nVHE", "kvm-arm.mode=nvhe"),
            ("Protected nVHE", "kvm-arm.mode=x kvm-arm.mode=protected"),
            ("VHE+NV2", "kvm-arm.mode=nested"),
        ] {
            assert_eq!(machine(mode, line).mode_not_taken(), None);
        }
    }
}
