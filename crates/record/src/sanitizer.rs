//! Checks of the lab's sanitizer in a case, and the maintenance that it found missing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::text::{counted, thousands};

/// Checks and reports of the sanitizer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sanitizer {
    /// Reports of maintenance that the host's kernel owed.
    pub owed: u64,
    /// Reports of maintenance that nobody owed: coherence was the guest's own duty, or the rewriter's.
    pub weak: u64,
    /// Leaves of stage-2 tables that became readable or executable, each judged.
    pub published: u64,
    /// Lines of 64 bytes under those leaves that the host had stored to.
    pub checked_lines: u64,
    /// Fetches of words that had been stored to and were not coherent for all CPUs.
    pub fetches: u64,
    /// Entries into the guest.
    pub entries: u64,
    /// Stores that the emulator does not show. With any, nothing can be said.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub unseen_stores: u64,
    /// True if the emulator was killed, so that only what came before the last marker is known.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub cut: bool,
    /// Reports in more groups than there is room for.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub more: u64,
    /// The reports, grouped.
    pub reports: Vec<Report>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The event at which a report is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ReportKind {
    /// A leaf became executable before the I side was ready.
    #[serde(rename = "P-I")]
    PublishedI,
    /// A leaf became readable before the D side was ready.
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
    /// A change of a valid entry of a table.
    #[serde(rename = "B")]
    Break,
    /// A register of the guest's context.
    #[serde(rename = "G")]
    Register,
}

impl ReportKind {
    /// Returns the name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::PublishedI => "P-I",
            Self::PublishedD => "P-D",
            Self::Fetch => "F",
            Self::Load => "L",
            Self::Uncached => "N",
            Self::Break => "B",
            Self::Register => "G",
        }
    }
}

/// Missing thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// A clean of the D-cache.
    DClean,
    /// The barrier that completes a clean.
    DCleanNotCompleted,
    /// An invalidation of the I-cache.
    IInvalidation,
    /// The order: the I-cache was invalidated before the D-cache was clean.
    IBeforeDClean,
    /// The barrier that completes an invalidation.
    INotCompleted,
    /// The other CPUs: the I-cache of one was invalidated.
    IOnOnePe,
    /// An invalid entry between two valid ones.
    BreakBeforeMake,
    /// A TLB invalidation between an invalid entry and the next valid one.
    TlbInvalidation,
    /// HCR_EL2.FB.
    HcrFb,
    /// HCR_EL2.BSU of at least Inner Shareable.
    HcrBsu,
    /// VTCR_EL2.SH0 of Inner Shareable.
    VtcrShareability,
    /// VTCR_EL2.IRGN0 and ORGN0 of Write-Back.
    VtcrCacheability,
    /// A VTCR_EL2.PS that the machine has.
    VtcrSize,
    /// A VTCR_EL2.TG0 that the machine has.
    VtcrGranule,
}

impl Missing {
    /// Returns the words for it.
    pub fn words(self) -> &'static str {
        match self {
            Self::DClean => "D-cache clean",
            Self::DCleanNotCompleted => "completion of the D-cache clean",
            Self::IInvalidation => "I-cache invalidation",
            Self::IBeforeDClean => "I-cache invalidation after the D-cache clean",
            Self::INotCompleted => "completion of the I-cache invalidation",
            Self::IOnOnePe => "I-cache invalidation on the other CPUs",
            Self::BreakBeforeMake => "break-before-make",
            Self::TlbInvalidation => "TLB invalidation in break-before-make",
            Self::HcrFb => "HCR_EL2.FB",
            Self::HcrBsu => "HCR_EL2.BSU of Inner Shareable",
            Self::VtcrShareability => "VTCR_EL2.SH0 of Inner Shareable",
            Self::VtcrCacheability => "VTCR_EL2.IRGN0 and ORGN0 of Write-Back",
            Self::VtcrSize => "VTCR_EL2.PS that the machine has",
            Self::VtcrGranule => "VTCR_EL2.TG0 that the machine has",
        }
    }
}

/// The party that owes the maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Owed {
    /// The host's kernel.
    Host,
    /// Nobody: the host stored to memory that the guest could reach already.
    InPlace,
    /// The guest, which stored itself.
    Guest,
    /// The host patched its own text as tracing does on each boot.
    TextPatching,
}

/// Reports with the same cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The event.
    pub kind: ReportKind,
    /// Missing thing.
    pub missing: Missing,
    /// True if it came after the event, too late.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub late: bool,
    /// The party that owes it.
    pub owed: Owed,
    /// Number of events.
    pub count: u64,
    /// Number of lines in all of them.
    pub all_lines: u64,
    /// Lines with the fault in the first event.
    pub lines: u64,
    /// Lines that were judged in the first event.
    pub of: u64,
    /// Offset in bytes of the first of those lines in its leaf.
    pub offset: u64,
    /// Size of the leaf in bytes; 0 if there is none.
    pub size: u64,
    /// The function that published, fetched or loaded; its address, if that has no name.
    pub function: String,
    /// The function that stored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub writer: Option<String>,
    /// Physical address of the first line, or of the entry.
    pub pa: String,
    /// Its intermediate physical address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ipa: Option<String>,
    /// VMID; 0 outside of a guest.
    pub vmid: u16,
    /// CPU of the event.
    pub cpu: u64,
    /// CPU of the last store.
    pub writer_cpu: u32,
    /// Exception level of the event.
    pub el: u8,
    /// The word that was fetched, and the one that was fetched there before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub words: Option<Words>,
}

/// The words at a place that was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Words {
    /// Before; absent if the place was not fetched before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub old: Option<String>,
    /// Now.
    pub new: String,
}

impl Report {
    /// Describes the reports in one line.
    pub fn describe(&self) -> String {
        let times = if self.count == 1 { String::new() } else { format!(", {} times", thousands(self.count)) };
        let late = if self.late { ", which came too late" } else { "" };
        let lines = match (self.of, self.offset) {
            (0 | 1, _) => String::new(),
            (of, 0) => format!(" on {} of {} lines", thousands(self.lines), thousands(of)),
            (of, offset) => format!(" on {} of {} lines, from +{offset:#x}", thousands(self.lines), thousands(of)),
        };
        let what = match self.kind {
            ReportKind::PublishedI => "made executable",
            ReportKind::PublishedD => "made readable",
            ReportKind::Fetch => "fetched",
            ReportKind::Load => "loaded without caches",
            ReportKind::Uncached => "taken from the guest",
            ReportKind::Break => "table entry changed",
            ReportKind::Register => "guest entered",
        };
        let writer = self.writer.as_deref().map(|writer| format!(", stored by {writer}")).unwrap_or_default();
        let owed = match self.owed {
            Owed::Host => "",
            Owed::InPlace => " [weak: rewritten in place]",
            Owed::Guest => " [weak: the guest's own store]",
            Owed::TextPatching => " [weak: text patching]",
        };
        let missing = self.missing.words();
        format!("{}: no {missing}{late}{lines}: {what} by {}{writer}{times}{owed}", self.kind.name(), self.function)
    }
}

impl Sanitizer {
    /// Returns the first report that the host's kernel owes.
    pub fn first_owed(&self) -> Option<&Report> {
        self.reports.iter().find(|report| report.owed == Owed::Host)
    }

    /// Describes the amount of what was checked.
    pub fn describe_checked(&self) -> String {
        format!(
            "{} with {} judged, suspect fetches: {}",
            counted(self.published, "mapping"),
            counted(self.checked_lines, "written line"),
            thousands(self.fetches),
        )
    }

    /// Describes the amount of what was checked, and each group of reports, in one line each.
    pub fn lines(&self) -> Vec<String> {
        let amount = format!("sanitizer: {}", self.describe_checked());
        std::iter::once(amount).chain(self.reports.iter().map(Report::describe)).collect()
    }

    /// Returns the counts that formats for programs have, by name.
    pub fn counts(&self) -> [(&'static str, u64); 4] {
        [
            ("sanitizer_owed", self.owed),
            ("sanitizer_weak", self.weak),
            ("sanitizer_mappings", self.published),
            ("sanitizer_lines", self.checked_lines),
        ]
    }

    /// Adds the checks and reports of another part of the run.
    pub fn add(&mut self, other: Self) {
        self.owed += other.owed;
        self.weak += other.weak;
        self.published += other.published;
        self.checked_lines += other.checked_lines;
        self.fetches += other.fetches;
        self.entries += other.entries;
        self.unseen_stores += other.unseen_stores;
        self.more += other.more;
        self.cut |= other.cut;
        self.reports.extend(other.reports);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line() {
        let report = Report {
            kind: ReportKind::PublishedI,
            missing: Missing::IInvalidation,
            late: true,
            owed: Owed::Host,
            count: 3,
            all_lines: 96,
            lines: 32,
            of: 64,
            offset: 0x800,
            size: 4096,
            function: "stage2_attr_walker".into(),
            writer: Some("clear_page".into()),
            pa: "0x40000800".into(),
            ipa: None,
            vmid: 1,
            cpu: 0,
            writer_cpu: 1,
            el: 2,
            words: None,
        };
        assert_eq!(
            report.describe(),
            "P-I: no I-cache invalidation, which came too late on 32 of 64 lines, from +0x800: made executable by \
             stage2_attr_walker, stored by clear_page, 3 times"
        );
    }
}
