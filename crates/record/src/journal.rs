//! The journal of a run. The runner writes each entry to disk before it does the action that the entry announces.
//!
//! If the machine dies before it writes the result, `faultline recover` makes the result from the journal.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::case::CaseResult;
use crate::detector::Detector;
use crate::result::{Head, VcpuFacts};
use crate::status::Status;

/// Name of the journal in a run directory.
pub const FILE: &str = "journal.jsonl";

/// An entry of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// The run begins.
    Begin {
        /// The part of the result that is known.
        #[serde(flatten)]
        head: Box<Head>,
        /// The kernel's id of this boot. If the machine has another one later, it went down in between.
        boot_id: String,
        /// The release of the kernel.
        release: String,
    },
    /// The settings of the machine are those that the run needs.
    Ready {
        /// The lockup detectors.
        detector: Detector,
    },
    /// The cases that the run will execute, in this order.
    Cases {
        /// Names of the cases.
        names: Vec<String>,
    },
    /// A case begins. The machine may not survive it.
    Case {
        /// Name of the case.
        name: String,
        /// The result so far: everything that is known before the case is executed.
        before: Box<CaseResult>,
    },
    /// A case is over.
    CaseDone {
        /// Name of the case.
        name: String,
        /// The status of the case.
        status: Status,
        /// The result of the case.
        result: Box<CaseResult>,
        /// The registers that the guest has read so far.
        vcpus: Vec<VcpuFacts>,
    },
    /// The run ends without a result, because the tool or its surroundings failed.
    Failed {
        /// The reason.
        reason: String,
    },
    /// The run is over, and its result is written.
    End,
}

/// The readable entries of a journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    /// The entries, in order.
    pub entries: Vec<Entry>,
    /// Number of lines that are no entries: a last line that was cut off, or lines of another version.
    pub unreadable: usize,
}

impl Journal {
    /// Parses the text of a journal. It never fails, but counts the lines that are no entries.
    pub fn parse(text: &str) -> Self {
        let mut journal = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(entry) => journal.entries.push(entry),
                Err(_) => journal.unreadable += 1,
            }
        }
        journal
    }

    /// Reads the journal of a run directory.
    ///
    /// # Errors
    ///
    /// Fails if there is no journal, or if it cannot be read.
    pub fn read(run: &Path) -> io::Result<Self> {
        Ok(Self::parse(&String::from_utf8_lossy(&fs::read(run.join(FILE))?)))
    }

    /// Returns the results of the cases that are over, in order.
    pub fn done(&self) -> impl Iterator<Item = &CaseResult> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::CaseDone { result, .. } => Some(&**result),
            _ => None,
        })
    }

    /// Returns the name and the result so far of the case that had begun, but was not over, at the end of the journal.
    pub fn under_way(&self) -> Option<(&str, &CaseResult)> {
        let last = self.entries.iter().rfind(|entry| matches!(entry, Entry::Case { .. } | Entry::CaseDone { .. }));
        match last {
            Some(Entry::Case { name, before }) => Some((name, before)),
            _ => None,
        }
    }

    /// Returns the names of the cases that had not begun at the end of the journal.
    pub fn not_begun(&self) -> Vec<String> {
        let planned = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Cases { names } => Some(names.as_slice()),
            _ => None,
        });
        let begun = self.done().count() + usize::from(self.under_way().is_some());
        planned.unwrap_or_default().iter().skip(begun).cloned().collect()
    }
}

/// The end of a run, as seen by the lab, which watches the emulator.
#[derive(Clone, Debug, Default)]
pub struct WitnessedEnd {
    /// The cause of the end.
    pub cause: Option<String>,
    /// The time of the start, RFC 3339.
    pub started: Option<String>,
    /// The time of the end, RFC 3339.
    pub finished: Option<String>,
}

/// Returns the line that the runner writes to the kernel log at the beginning of a case.
pub fn case_mark(run: &str, case: &str) -> String {
    format!("faultline {run}: {}", case_mark_end(case))
}

/// Returns the end of that line, which does not depend on the name of the run.
pub fn case_mark_end(case: &str) -> String {
    format!("case {case} begins")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> Box<CaseResult> {
        Box::new(CaseResult::not_run(name, 1))
    }

    fn text(entries: &[Entry]) -> String {
        entries.iter().map(|entry| serde_json::to_string(entry).expect("plain data") + "\n").collect()
    }

    #[test]
    fn the_place_where_a_run_died() {
        let names = vec!["page".to_owned(), "thp".to_owned()];
        let done =
            Entry::CaseDone { name: "page".into(), status: Status::Pass, result: case("page"), vcpus: Vec::new() };
        let begun = |name: &str| Entry::Case { name: name.into(), before: case(name) };
        let mut entries = vec![Entry::Cases { names: names.clone() }];
        assert_eq!(Journal::parse(&text(&entries)).not_begun(), names);
        entries.extend([begun("page"), done]);
        let journal = Journal::parse(&text(&entries));
        assert_eq!(
            (journal.done().count(), journal.under_way(), journal.not_begun()),
            (1, None, vec!["thp".to_owned()])
        );
        entries.push(begun("thp"));
        let torn = text(&entries) + "{\"entry\":\"case_do";
        let journal = Journal::parse(&torn);
        assert_eq!((journal.under_way().map(|(name, _)| name), journal.not_begun()), (Some("thp"), Vec::new()));
        assert_eq!(journal.unreadable, 1);
    }
}
