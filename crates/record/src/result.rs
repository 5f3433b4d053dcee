//! `result.json`: what a run found, version 1. Everything that reports reads this and nothing else.
//!
//! `results/schema/result-v1.json` is generated from these types; a test keeps the two equal.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::case::CaseResult;
use crate::detector::Detector;
use crate::findings::Findings;
use crate::machine::{LabFacts, Machine};
use crate::status::Verdict;

/// Version of the format; grows when a reader has to change.
pub const VERSION: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunResult {
    /// [`VERSION`].
    pub version: u32,
    /// Which run this is and when it was.
    pub run: RunId,
    /// The tool that ran.
    pub tool: Tool,
    /// Its arguments.
    pub command: Vec<String>,
    /// What the operator said about the kernel.
    #[serde(skip_serializing_if = "UnderTest::is_empty", default)]
    pub under_test: UnderTest,
    /// Name of the scenario.
    pub scenario: String,
    /// What a plan calls this run, where that is not the scenario's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step: Option<String>,
    /// Verdict over all cases.
    pub verdict: Verdict,
    /// The machine.
    pub machine: Machine,
    /// The kernel's lockup detectors while the run lasted.
    pub detector: Detector,
    /// What the guest read of its CPUs.
    pub vcpus: Vec<VcpuFacts>,
    /// Which evidence there was.
    pub evidence: EvidenceState,
    /// One entry for each kind of block asked for.
    pub cases: Vec<CaseResult>,
    /// The run did not live to write this: `faultline recover` made it of what the run had left.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub recovered: bool,
    /// The dead run that this one went on with; its cases come first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resumed_from: Option<String>,
    /// Facts about the kernel that the run established, by name, for comparisons: `policy` is `capped`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub facts: BTreeMap<String, String>,
    /// What the scenario concludes from all cases together.
    #[serde(skip_serializing_if = "Findings::is_none", default)]
    pub conclusion: Findings,
}

impl RunResult {
    /// Returns how the user of the lab named the kernel.
    pub fn lab_kernel(&self) -> Option<&str> {
        self.machine.lab.as_ref()?.kernel.as_deref()
    }

    /// Returns the set-up of the lab without the kernel's name.
    pub fn lab_setup(&self) -> Option<LabFacts> {
        Some(LabFacts { kernel: None, ..self.machine.lab.clone()? })
    }

    /// Returns what reports call the run: the name that a plan gave it, or its scenario.
    pub fn title(&self) -> &str {
        self.step.as_deref().unwrap_or(&self.scenario)
    }
}

/// Which run, and when. The only part of a result that two equal runs do not share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunId {
    /// Name of the run directory.
    pub id: String,
    /// Start, RFC 3339, UTC.
    pub started: String,
    /// End, RFC 3339, UTC.
    pub finished: String,
}

/// What a running kernel cannot tell about itself; for the reports of labs.
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
    /// Returns whether nothing was said.
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

/// The tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Version of faultline.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// The most memory it had resident, guest included, in KiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_resident_kib: Option<u64>,
}

/// Identification registers of one vCPU, as its guest read them; CTR_EL0 as KVM gives it to guests that are shown no
/// other, since that is what the host's own maintenance goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VcpuFacts {
    /// MIDR_EL1.
    pub midr_el1: u64,
    /// CTR_EL0.
    pub ctr_el0: u64,
    /// CLIDR_EL1.
    pub clidr_el1: u64,
    /// Smallest I-cache line in bytes.
    pub imin_line_bytes: u64,
    /// Smallest D-cache line in bytes.
    pub dmin_line_bytes: u64,
    /// CTR_EL0.IDC, or what CLIDR_EL1 implies.
    pub idc: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
    /// Indexing and tagging of the level 1 I-cache.
    pub l1ip: L1Ip,
    /// Frequency of the counter in Hz.
    pub cntfrq_hz: u64,
    /// Smallest step of the counter seen, in ticks.
    pub resolution_ticks: u64,
    /// What the guest read in CTR_EL0, where `--guest-ctr` had KVM show it another one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shown: Option<ReadCtr>,
}

/// Indexing and tagging of the level 1 I-cache, CTR_EL0.L1Ip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum L1Ip {
    /// VMID-aware PIPT; removed from the architecture.
    Vpipt,
    /// Reserved (AIVIVT in Armv7).
    Reserved,
    /// Virtually indexed, physically tagged: aliasing, so KVM always invalidates all of it.
    Vipt,
    /// Physically indexed, physically tagged.
    Pipt,
}

impl L1Ip {
    /// Returns the manual's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vpipt => "VPIPT",
            Self::Reserved => "reserved",
            Self::Vipt => "VIPT",
            Self::Pipt => "PIPT",
        }
    }
}

/// A CTR_EL0 that is not the machine's own, as the guest read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadCtr {
    /// CTR_EL0.
    pub ctr_el0: u64,
    /// Smallest I-cache line in bytes.
    pub imin_line_bytes: u64,
    /// Smallest D-cache line in bytes.
    pub dmin_line_bytes: u64,
    /// CTR_EL0.IDC.
    pub idc: bool,
    /// CTR_EL0.DIC.
    pub dic: bool,
}

/// Which evidence there was, and what is missing from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceState {
    /// Parts that were not there, each with the reason.
    pub absent: Vec<String>,
    /// Kernel log records lost while the run lasted.
    pub kmsg_lost: u64,
    /// Trace records lost while the run lasted.
    pub trace_lost: u64,
    /// Anything else that a reader should know.
    pub notes: Vec<String>,
}
