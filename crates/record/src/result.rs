//! The result of a run: `result.json`, version 1. Reports read this file and nothing else of a run.
//!
//! `results/schema/result-v1.json` is generated from these types, and a test keeps the two equal.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::answer::{self, Answer};
use crate::case::CaseResult;
use crate::detector::Detector;
use crate::findings::StoredFindings;
use crate::machine::{LabFacts, Machine};
use crate::provenance::Provenance;
use crate::sanitizer::Sanitizer;
use crate::status::{Status, Verdict};
use units::text::shell_word;

/// Version of the format. It grows when readers have to change.
pub const VERSION: u32 = 1;

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunResult {
    /// Version of the format: [`VERSION`].
    pub version: u32,
    /// Name of the run, and the times of its start and end.
    pub run: RunId,
    /// The program that executed the run.
    pub tool: Tool,
    /// The arguments of the command.
    pub command: Vec<String>,
    /// The files and commands of the run.
    #[serde(skip_serializing_if = "Provenance::is_empty", default)]
    pub provenance: Provenance,
    /// The user's description of the kernel.
    #[serde(skip_serializing_if = "UnderTest::is_empty", default)]
    pub under_test: UnderTest,
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the step of a plan, if it is not the name of the scenario.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step: Option<String>,
    /// Verdict over all cases.
    pub verdict: Verdict,
    /// The machine.
    pub machine: Machine,
    /// The kernel's lockup detectors during the run.
    pub detector: Detector,
    /// The registers that the guest read on each of its vCPUs.
    pub vcpus: Vec<VcpuFacts>,
    /// State of the evidence.
    pub evidence: EvidenceState,
    /// The cases, in order.
    pub cases: Vec<CaseResult>,
    /// Checks and reports of the sanitizer outside of all cases, in the lab with `--sanitize`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sanitizer: Option<Sanitizer>,
    /// True if the run died, and `faultline recover` wrote this file from the files that the run had left.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub recovered: bool,
    /// Name of the dead run that this one resumed. The cases of the dead run come first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resumed_from: Option<String>,
    /// Facts about the kernel that the run showed, by name. Comparisons use them. For example, `policy` is `capped`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub facts: BTreeMap<String, String>,
    /// Conclusion of the scenario from all cases together.
    #[serde(skip_serializing_if = "StoredFindings::is_empty", default)]
    pub conclusion: StoredFindings,
}

/// Part of a result that is known when the run begins. The journal keeps it, so that the result of a run that died has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Start of the run, RFC 3339, UTC.
    pub started: String,
    /// The program that executes the run.
    pub tool: Tool,
    /// As in [`RunResult::command`].
    pub command: Vec<String>,
    /// As in [`RunResult::provenance`].
    #[serde(default)]
    pub provenance: Provenance,
    /// As in [`RunResult::under_test`].
    #[serde(default)]
    pub under_test: UnderTest,
    /// As in [`RunResult::scenario`]; absent from old journals.
    pub scenario: Option<String>,
    /// As in [`RunResult::step`].
    #[serde(default)]
    pub step: Option<String>,
}

impl RunResult {
    /// Returns the result of a run that has only begun. Every result is made from it.
    pub fn begun(head: Head, id: String, machine: Machine, detector: Detector) -> Self {
        let Head { started, tool, command, provenance, under_test, scenario, step } = head;
        let scenario = scenario.or_else(|| command.get(1).cloned()).unwrap_or_else(|| "unknown".into());
        Self {
            version: VERSION,
            run: RunId { id, finished: started.clone(), started },
            tool,
            command,
            provenance,
            under_test,
            scenario,
            step,
            verdict: Verdict::new(Status::Error, "the run has not ended"),
            machine,
            detector,
            vcpus: Vec::new(),
            evidence: EvidenceState::default(),
            cases: Vec::new(),
            sanitizer: None,
            recovered: false,
            resumed_from: None,
            facts: BTreeMap::new(),
            conclusion: StoredFindings::default(),
        }
    }

    /// Returns the name that the user of the lab gave to the kernel.
    pub fn lab_kernel(&self) -> Option<&str> {
        self.machine.lab.as_ref()?.kernel.as_deref()
    }

    /// Returns the name of the kernel: the one that the user of the lab gave to it, or else its release.
    pub fn kernel_name(&self) -> &str {
        self.lab_kernel().unwrap_or(&self.machine.kernel_release)
    }

    /// Returns the answer of `faultline check`, if the run gave one.
    pub fn answer(&self) -> Option<Answer> {
        Answer::by_name(self.facts.get(answer::FACT)?)
    }

    /// Returns the command line that repeats the run, as a shell reads it.
    pub fn repeat_line(&self) -> String {
        let words = self.provenance.lab.as_ref().map_or(&self.command, |lab| &lab.repeat);
        std::iter::once("faultline".to_owned())
            .chain(words.iter().map(|word| shell_word(word)))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Returns the description of the lab without the name of the kernel.
    pub fn lab_setup(&self) -> Option<LabFacts> {
        Some(LabFacts { kernel: None, ..self.machine.lab.clone()? })
    }

    /// Returns the name of a case in tables. If several cases have it, their numbers of vCPUs tell them apart, or else
    /// their ids.
    pub fn label(&self, case: &CaseResult) -> String {
        let alike = || self.cases.iter().filter(|other| other.name == case.name);
        match alike().count() {
            1 => case.name.clone(),
            _ if alike().filter(|other| other.vcpus == case.vcpus).count() == 1 => {
                format!("{} x{}", case.name, case.vcpus)
            }
            _ => case.id.clone(),
        }
    }

    /// Returns the name of the run in reports: that of the step of a plan, or that of the scenario.
    pub fn title(&self) -> &str {
        self.step.as_deref().unwrap_or(&self.scenario)
    }
}

/// Identification of a run. Two equal runs differ in this part of their results alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunId {
    /// Name of the run directory.
    pub id: String,
    /// Start of the run, RFC 3339, UTC.
    pub started: String,
    /// End of the run, RFC 3339, UTC.
    pub finished: String,
}

/// The user's description of the kernel, which the kernel cannot tell itself. Reports for test labs contain it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::Args)]
pub struct UnderTest {
    /// Name this run in reports: a branch, a night, before or after
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// Commit the kernel was built from
    #[arg(long, value_name = "HASH", value_parser = commit_hash)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub git_commit_hash: Option<String>,
    /// Hash of the patches on top, as KCIDB has it: sha256sum *.patch | cut -c-64 | sha256sum; empty without patches
    #[arg(long, value_name = "HASH", value_parser = patchset_hash)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub patchset_hash: Option<String>,
}

impl UnderTest {
    /// Returns whether the description is empty.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn hash_of(digits: usize, text: &str) -> Result<String, String> {
    let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if hex && text.len() == digits {
        Ok(text.into())
    } else {
        Err(format!("give {digits} hexadecimal digits, in lower case"))
    }
}

fn commit_hash(text: &str) -> Result<String, String> {
    hash_of(40, text)
}

fn patchset_hash(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { hash_of(64, text) }
}

/// The program that executed a run or a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Version of faultline.
    pub version: String,
    /// Commit that faultline was built from.
    pub commit: String,
    /// Largest resident memory of the process, including that of the guest, in KiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_resident_kib: Option<u64>,
}

/// Identification registers of one vCPU, as the guest read them. CTR_EL0 is the one that KVM shows by default, because
/// the maintenance of the host follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VcpuFacts {
    /// MIDR_EL1.
    pub midr_el1: u64,
    /// CTR_EL0.
    pub ctr_el0: u64,
    /// CLIDR_EL1.
    pub clidr_el1: u64,
    /// Size of the smallest I-cache line, in bytes.
    pub imin_line_bytes: u64,
    /// Size of the smallest D-cache line, in bytes.
    pub dmin_line_bytes: u64,
    /// CTR_EL0.IDC, or true if CLIDR_EL1 implies it.
    pub idc: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
    /// Indexing and tagging of the level 1 I-cache.
    pub l1ip: L1Ip,
    /// Frequency of the counter in Hz.
    pub cntfrq_hz: u64,
    /// Smallest step of the counter that the guest saw, in ticks.
    pub resolution_ticks: u64,
    /// CTR_EL0 that the guest read, if `--guest-ctr` made KVM show another one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shown: Option<ReadCtr>,
}

/// Indexing and tagging of the level 1 I-cache, CTR_EL0.L1Ip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum L1Ip {
    /// VMID-aware PIPT, which was removed from the architecture.
    Vpipt,
    /// Reserved (AIVIVT in Armv7).
    Reserved,
    /// Virtually indexed, physically tagged. Such a cache is aliasing, so KVM always invalidates all of it.
    Vipt,
    /// Physically indexed, physically tagged.
    Pipt,
}

impl L1Ip {
    /// Returns the name used in the Arm ARM.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vpipt => "VPIPT",
            Self::Reserved => "reserved",
            Self::Vipt => "VIPT",
            Self::Pipt => "PIPT",
        }
    }
}

/// A CTR_EL0 that is not that of the machine, as the guest read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadCtr {
    /// CTR_EL0.
    pub ctr_el0: u64,
    /// Size of the smallest I-cache line, in bytes.
    pub imin_line_bytes: u64,
    /// Size of the smallest D-cache line, in bytes.
    pub dmin_line_bytes: u64,
    /// CTR_EL0.IDC.
    pub idc: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
}

/// The state of the evidence: its missing parts and lost records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceState {
    /// Parts that are missing, each with the reason.
    pub absent: Vec<String>,
    /// Number of kernel log records that were lost during the run.
    pub kmsg_lost: u64,
    /// Number of trace records that were lost during the run.
    pub trace_lost: u64,
    /// Other notes for the reader.
    pub notes: Vec<String>,
}
