// SPDX-License-Identifier: GPL-2.0-or-later
//! Reports: lines that were reachable without the maintenance that they need, grouped by cause.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Most groups of reports of one case. More are counted.
const MOST_GROUPS: usize = 200;

/// Event at which a report is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Kind {
    /// A leaf made memory executable whose I side was not ready.
    #[serde(rename = "P-I")]
    PublishedI,
    /// A leaf made memory readable whose D side was not ready.
    #[serde(rename = "P-D")]
    PublishedD,
    /// A fetch.
    #[serde(rename = "F")]
    Fetch,
    /// A load without caches.
    #[serde(rename = "L")]
    Load,
    /// The host took memory from a guest that had stored to it without caches.
    #[serde(rename = "N")]
    Uncached,
    /// A change of a valid entry without break-before-make.
    #[serde(rename = "B")]
    Break,
    /// A register of the guest's context.
    #[serde(rename = "G")]
    Register,
}

/// Missing thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Missing {
    /// No clean of the D side.
    DClean,
    /// A clean without a barrier that completes it.
    DCleanNotCompleted,
    /// No invalidation of the I side.
    IInvalidation,
    /// The I side was invalidated before the D side was clean.
    IBeforeDClean,
    /// An invalidation without a barrier that completes it.
    INotCompleted,
    /// The I side was invalidated on one PE only.
    IOnOnePe,
    /// No invalid entry between two valid ones.
    BreakBeforeMake,
    /// No TLB invalidation between an invalid entry and the next valid one.
    TlbInvalidation,
    /// HCR_EL2.FB is clear.
    HcrFb,
    /// HCR_EL2.BSU is below Inner Shareable.
    HcrBsu,
    /// VTCR_EL2.SH0 is not Inner Shareable.
    VtcrShareability,
    /// VTCR_EL2.IRGN0 or ORGN0 is not Write-Back.
    VtcrCacheability,
    /// VTCR_EL2.PS is larger than the machine's physical addresses.
    VtcrSize,
    /// VTCR_EL2.TG0 selects a granule that the machine does not have.
    VtcrGranule,
}

impl Missing {
    /// Returns whether the operation was there, and only its barrier was missing.
    pub(crate) fn is_barrier(self) -> bool {
        matches!(self, Self::DCleanNotCompleted | Self::INotCompleted)
    }

    /// Returns whether it concerns the D side.
    pub(crate) fn is_d_side(self) -> bool {
        matches!(self, Self::DClean | Self::DCleanNotCompleted)
    }
}

/// Party that owes the maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Owed {
    /// The host's kernel.
    Host,
    /// Nobody: the host stored to memory that the guest could reach already.
    InPlace,
    /// The guest, which stored itself.
    Guest,
    /// The host patches its own text in a way that the architecture leaves open, and that tracing does on each boot.
    TextPatching,
}

/// Address of an instruction. The host and a guest may have code at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Code {
    pub(crate) pc: u64,
    pub(crate) guest: bool,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:#x}", if self.guest { "guest " } else { "" }, self.pc)
    }
}

/// Everything that reports of one group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) missing: Missing,
    pub(crate) owed: Owed,
    /// Address of the instruction that published, fetched or loaded.
    pub(crate) pc: Code,
    /// Address of the instruction that stored, if one did.
    pub(crate) writer_pc: Option<Code>,
}

/// First report of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Example {
    /// Lines with the fault.
    pub(crate) lines: u64,
    /// Lines that were judged with them.
    pub(crate) of: u64,
    /// Offset of the first of them in the leaf, in bytes.
    pub(crate) offset: u64,
    /// Size of the leaf in bytes; 0 if there is none.
    pub(crate) size: u64,
    /// Physical address of the first line.
    pub(crate) pa: u64,
    /// Its intermediate physical address, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ipa: Option<u64>,
    /// VMID; 0 outside of a guest.
    pub(crate) vmid: u16,
    /// PE.
    pub(crate) pe: u64,
    /// Exception level.
    pub(crate) el: u8,
    /// PE of the last writer.
    pub(crate) writer_pe: u32,
    /// Word that was fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) word: Option<u32>,
    /// Word that was fetched there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) old_word: Option<u32>,
}

/// A group of reports.
#[derive(Clone, Debug)]
struct Group {
    count: u64,
    lines: u64,
    late: bool,
    first: Example,
}

/// Amount of what was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    /// Leaves of guests' tables that became readable or executable.
    pub(crate) published: u64,
    /// Lines under those leaves that the host had stored to.
    pub(crate) lines: u64,
    /// Fetches of words that had been stored to and that were not coherent for all PEs.
    pub(crate) fetches: u64,
    /// Entries into guests.
    pub(crate) entries: u64,
    /// Stores that QEMU does not show to plugins.
    pub(crate) unseen_stores: u64,
}

/// Reports and checks between two markers.
#[derive(Default)]
pub(crate) struct Section {
    groups: BTreeMap<Key, Group>,
    /// Reports in more groups than there is room for.
    more: u64,
    /// The part of `more` that the host owes.
    more_owed: u64,
    pub(crate) checked: Checked,
}

/// Reports by case. Case 0 is everything outside of cases.
#[derive(Default)]
pub(crate) struct Reports {
    case: u64,
    sections: BTreeMap<u64, Section>,
}

impl Reports {
    /// Begins a case. A case that begins again continues.
    pub(crate) fn begin(&mut self, case: u64) {
        self.case = case;
    }

    /// Returns the section of the present case.
    pub(crate) fn section(&mut self) -> &mut Section {
        self.sections.entry(self.case).or_default()
    }

    /// Adds a report.
    pub(crate) fn add(&mut self, key: Key, example: Example) {
        let section = self.section();
        if let Some(group) = section.groups.get_mut(&key) {
            group.count += 1;
            group.lines += example.lines;
        } else if section.groups.len() < MOST_GROUPS {
            section.groups.insert(key, Group { count: 1, lines: example.lines, late: false, first: example });
        } else {
            section.more += 1;
            section.more_owed += u64::from(key.owed == Owed::Host);
        }
    }

    /// Records that the missing maintenance of a group came, but too late.
    pub(crate) fn mark_late(&mut self, key: &Key) {
        if let Some(group) = self.section().groups.get_mut(key) {
            group.late = true;
        }
    }

    /// Returns everything as the plugin writes it.
    pub(crate) fn written(&self) -> Vec<WrittenSection> {
        self.sections.iter().map(|(case, section)| section.written(*case)).collect()
    }
}

impl Section {
    fn written(&self, case: u64) -> WrittenSection {
        let report = |(key, group): (&Key, &Group)| WrittenReport {
            kind: key.kind,
            missing: key.missing,
            late: group.late,
            owed: key.owed,
            count: group.count,
            lines: group.lines,
            pc: key.pc.to_string(),
            writer_pc: key.writer_pc.map(|pc| pc.to_string()),
            first: group.first.clone(),
        };
        let reports = self.groups.iter().map(report).collect();
        let Self { checked, more, more_owed, .. } = *self;
        WrittenSection { case, checked, more, more_owed, reports }
    }
}

/// A section in the plugin's file.
#[derive(Serialize)]
pub(crate) struct WrittenSection {
    pub(crate) case: u64,
    pub(crate) checked: Checked,
    pub(crate) more: u64,
    pub(crate) more_owed: u64,
    pub(crate) reports: Vec<WrittenReport>,
}

/// A group in the plugin's file.
#[derive(Debug, Serialize)]
pub(crate) struct WrittenReport {
    pub(crate) kind: Kind,
    pub(crate) missing: Missing,
    pub(crate) late: bool,
    pub(crate) owed: Owed,
    pub(crate) count: u64,
    pub(crate) lines: u64,
    pub(crate) pc: String,
    pub(crate) writer_pc: Option<String>,
    pub(crate) first: Example,
}

/// Features of the machine and size of the shadow, as they are written.
#[derive(Serialize)]
pub(crate) struct WrittenMachine {
    pub(super) idc: bool,
    pub(super) dic: bool,
    pub(super) fwb: bool,
    pub(super) imin_line: u64,
    pub(super) dmin_line: u64,
    /// Pages with a shadow.
    pub(super) pages: u64,
    /// Bytes of the shadows, without the fetched words.
    pub(super) shadow_bytes: u64,
    /// Bytes of fetched words.
    pub(super) fetched_bytes: u64,
}
