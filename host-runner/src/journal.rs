//! The journal of a run: what was about to happen, on disk before it happens.
//!
//! `faultline recover` makes a result of it when the machine did not live to write one.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::evidence::detector::Detector;
use crate::plan::blocks::Block;
use crate::result::{CaseResult, Status, Tool, VcpuFacts};

/// Name of the journal in a run directory.
pub const FILE: &str = "journal.jsonl";

/// An entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
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
    Plan {
        /// The kinds of block.
        blocks: Vec<Block>,
    },
    /// A case begins; the machine may not survive it.
    Case {
        /// The kind of block, as people write it.
        block: String,
        /// What is known before the case runs.
        plan: Box<CaseResult>,
    },
    /// A case is over.
    CaseDone {
        /// The kind of block, as people write it.
        block: String,
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
    pub steps: Vec<Step>,
    /// Lines that are no entries: the last one, cut short, or those of another version.
    pub unreadable: usize,
}

impl Journal {
    /// Reads a journal's text. Never fails: what is no entry is counted.
    pub fn parse(text: &str) -> Self {
        let mut journal = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(step) => journal.steps.push(step),
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
        self.steps.iter().filter_map(|step| match step {
            Step::CaseDone { result, .. } => Some(&**result),
            _ => None,
        })
    }

    /// Returns the case that had begun and was not over at the end of the journal, with its name.
    pub fn under_way(&self) -> Option<(&str, &CaseResult)> {
        let last = self.steps.iter().rfind(|step| matches!(step, Step::Case { .. } | Step::CaseDone { .. }));
        match last {
            Some(Step::Case { block, plan }) => Some((block, plan)),
            _ => None,
        }
    }

    /// Returns the blocks that the run had not come to.
    pub fn left(&self) -> Vec<Block> {
        let planned = self.steps.iter().rev().find_map(|step| match step {
            Step::Plan { blocks } => Some(blocks.as_slice()),
            _ => None,
        });
        let begun = self.done().count() + usize::from(self.under_way().is_some());
        planned.unwrap_or_default().iter().skip(begun).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::relax::Sharing;

    fn case(block: Block) -> Box<CaseResult> {
        Box::new(CaseResult::not_run(block, 1, Sharing::Distinct))
    }

    fn text(steps: &[Step]) -> String {
        steps.iter().map(|step| serde_json::to_string(step).expect("plain data") + "\n").collect()
    }

    #[test]
    fn where_a_run_was() {
        let blocks = vec![Block::Page, Block::Thp];
        let done =
            Step::CaseDone { block: "page".into(), status: Status::Pass, result: case(Block::Page), vcpus: Vec::new() };
        let begun = |block: Block| Step::Case { block: block.to_string(), plan: case(block) };
        let mut steps = vec![Step::Plan { blocks: blocks.clone() }];
        assert_eq!(Journal::parse(&text(&steps)).left(), blocks);
        steps.extend([begun(Block::Page), done]);
        let journal = Journal::parse(&text(&steps));
        assert_eq!((journal.done().count(), journal.under_way(), journal.left()), (1, None, vec![Block::Thp]));
        steps.push(begun(Block::Thp));
        let torn = text(&steps) + "{\"step\":\"case_do";
        let journal = Journal::parse(&torn);
        assert_eq!((journal.under_way().map(|(_, case)| case.block), journal.left()), (Some(Block::Thp), Vec::new()));
        assert_eq!(journal.unreadable, 1);
    }
}
