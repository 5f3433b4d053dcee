//! What the machine is: kernel, CPUs, memory, KVM's mode, and whether any of it is emulated.
//!
//! Everything here ends in `environment.json` and `result.json`. Absent means that the machine does not say.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::size::Size;

/// How KVM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvmMode {
    /// The host kernel runs at EL2.
    Vhe,
    /// The host kernel runs at EL1 with a small part of KVM at EL2.
    Nvhe,
    /// Like nVHE, and the host cannot read guests' memory.
    Protected,
}

/// What the machine runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// Our own lab: instructions are emulated, times are a model.
    Emulated,
    /// A virtual machine; the hypervisor may be real or emulate.
    VirtualMachine,
    /// Nothing says that it is virtual.
    Hardware,
    /// Nobody looked: the run died before it could.
    Unknown,
}

/// One pool of huge pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HugepagePool {
    /// Size of one page.
    pub page_bytes: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages nobody uses.
    pub free: u64,
}

/// Transparent huge pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransparentHugepages {
    /// `always`, `madvise` or `never`.
    pub enabled: String,
    /// Size of one.
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
    /// The kernel's page size.
    pub page_bytes: u64,
    /// `MIDR_EL1` of each CPU; big.LITTLE machines have several values.
    pub midr: BTreeMap<usize, u64>,
    /// CPUs online.
    pub cpus_online: Vec<usize>,
    /// CPUs this process may run on: affinity and cgroup.
    pub cpus_allowed: Vec<usize>,
    /// CPUs isolated from the scheduler.
    pub cpus_isolated: Vec<usize>,
    /// How KVM runs, from its boot message, which a long-lived kernel log may have dropped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kvm_mode: Option<KvmMode>,
    /// Memory of the machine.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_bytes: Option<u64>,
    /// NUMA nodes with memory, where the kernel knows of nodes.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub numa_nodes: Vec<usize>,
    /// Swap in use; 0 if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub swap_bytes: Option<u64>,
    /// Pools of huge pages, the smallest page first.
    pub hugepages: Vec<HugepagePool>,
    /// Transparent huge pages, if the kernel has them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transparent_hugepages: Option<TransparentHugepages>,
    /// The kernel's word on each CPU vulnerability.
    pub mitigations: BTreeMap<String, String>,
    /// The clock source in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clocksource: Option<String>,
    /// The frequency governor of CPU 0; absent where frequencies are fixed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_governor: Option<String>,
    /// The boot command line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command_line: Option<String>,
    /// The board, from the device tree or DMI.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// Real, virtual or emulated.
    pub platform: Platform,
    /// The lab's description of itself ([`LAB_VARIABLE`]), for an emulated host.
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
    /// Size of the swap in bytes, where there is any.
    pub swap: Option<Size>,
    /// Reason for which the swap that was asked for could not be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_swap: Option<String>,
    /// Base-2 logarithm of the nanoseconds that one instruction takes; none where time is the host's.
    pub time_scale: Option<u8>,
    /// Whether the plugin counts cache maintenance.
    pub counting: bool,
    /// The kernel, as the user named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

/// Environment variable by which the lab describes itself, as JSON.
pub const LAB_VARIABLE: &str = "FAULTLINE_LAB";

impl Machine {
    /// Returns a machine of which only the kernel is known.
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
    /// Returns the word for it in results and formats.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::VirtualMachine => "virtual_machine",
            Self::Hardware => "hardware",
            Self::Unknown => "unknown",
        }
    }
}
