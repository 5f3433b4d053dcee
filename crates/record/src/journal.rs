//! The journal of a run: what was about to happen, on disk before it happens.
//!
//! `faultline recover` makes a result of it when the machine did not live to write one.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::case::CaseResult;
use crate::detector::Detector;
use crate::result::{Tool, VcpuFacts};
use crate::status::Status;

/// Name of the journal in a run directory.
pub const FILE: &str = "journal.jsonl";

/// An entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// The run begins.
    Begin {
        /// Start, RFC 3339, UTC.
        started: String,
        /// The kernel's id of this boot; another one later means that the machine went down in between.
        boot_id: String,
        /// The arguments.
        command: Vec<String>,
        /// The kernel.
        release: String,
        /// The tool.
        tool: Tool,
    },
    /// The machine is set as the run wants it.
    Ready {
        /// The lockup detectors.
        detector: Detector,
    },
    /// What will be run, in this order.
    Cases {
        /// Names of the cases.
        names: Vec<String>,
    },
    /// A case begins; the machine may not survive it.
    Case {
        /// Name of the case.
        name: String,
        /// Everything that is known before the case runs.
        before: Box<CaseResult>,
    },
    /// A case is over.
    CaseDone {
        /// Name of the case.
        name: String,
        /// How it came out.
        status: Status,
        /// All of it.
        result: Box<CaseResult>,
        /// What the guest read of its CPUs so far.
        vcpus: Vec<VcpuFacts>,
    },
    /// The run ends without a result, for this reason of the tool's own.
    Failed {
        /// The message.
        reason: String,
    },
    /// The run is over and its result written.
    End,
}

/// What can be read of a journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    /// The entries, in order.
    pub entries: Vec<Entry>,
    /// Lines that are no entries: the last one, cut short, or those of another version.
    pub unreadable: usize,
}

impl Journal {
    /// Reads a journal's text. Never fails: what is no entry is counted.
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
    /// If there is none, or it cannot be read.
    pub fn read(run: &Path) -> io::Result<Self> {
        Ok(Self::parse(&String::from_utf8_lossy(&fs::read(run.join(FILE))?)))
    }

    /// Returns the cases that are over, in order.
    pub fn done(&self) -> impl Iterator<Item = &CaseResult> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::CaseDone { result, .. } => Some(&**result),
            _ => None,
        })
    }

    /// Returns the case that had begun and was not over at the end of the journal, with its name.
    pub fn under_way(&self) -> Option<(&str, &CaseResult)> {
        let last = self.entries.iter().rfind(|entry| matches!(entry, Entry::Case { .. } | Entry::CaseDone { .. }));
        match last {
            Some(Entry::Case { name, before }) => Some((name, before)),
            _ => None,
        }
    }

    /// Returns the names of the cases that the run had not come to.
    pub fn left(&self) -> Vec<String> {
        let planned = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Cases { names } => Some(names.as_slice()),
            _ => None,
        });
        let begun = self.done().count() + usize::from(self.under_way().is_some());
        planned.unwrap_or_default().iter().skip(begun).cloned().collect()
    }
}

/// The end of a run as somebody else saw it: the lab, which watched the emulator.
#[derive(Clone, Debug, Default)]
pub struct WitnessedEnd {
    /// How it ended.
    pub cause: Option<String>,
    /// When it began, RFC 3339.
    pub started: Option<String>,
    /// When it ended, RFC 3339.
    pub finished: Option<String>,
}

/// Returns the line that stands in the kernel log where a case begins.
pub fn mark(run: &str, block: &str) -> String {
    format!("faultline {run}: {}", begins(block))
}

/// Returns the part of that line that does not depend on the run's name.
pub fn begins(block: &str) -> String {
    format!("case {block} begins")
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
    fn where_a_run_was() {
        let names = vec!["page".to_owned(), "thp".to_owned()];
        let done =
            Entry::CaseDone { name: "page".into(), status: Status::Pass, result: case("page"), vcpus: Vec::new() };
        let begun = |name: &str| Entry::Case { name: name.into(), before: case(name) };
        let mut entries = vec![Entry::Cases { names: names.clone() }];
        assert_eq!(Journal::parse(&text(&entries)).left(), names);
        entries.extend([begun("page"), done]);
        let journal = Journal::parse(&text(&entries));
        assert_eq!((journal.done().count(), journal.under_way(), journal.left()), (1, None, vec!["thp".to_owned()]));
        entries.push(begun("thp"));
        let torn = text(&entries) + "{\"entry\":\"case_do";
        let journal = Journal::parse(&torn);
        assert_eq!((journal.under_way().map(|(name, _)| name), journal.left()), (Some("thp"), Vec::new()));
        assert_eq!(journal.unreadable, 1);
    }
}
