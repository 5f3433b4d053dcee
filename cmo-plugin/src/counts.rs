// SPDX-License-Identifier: GPL-2.0-or-later
//! Counters, their division into phases, and the file to which they are written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counter of one operation at one pc.
///
/// It lives until QEMU exits, because translated code holds its address.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one execution. Any vCPU thread may call it.
    pub(crate) fn add(&self) {
        // Only the sum matters, so the counter needs no ordering.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counter, and the part of it that belongs to earlier phases.
#[derive(Debug)]
struct Slot {
    counter: &'static Counter,
    settled: u64,
}

/// Key of a counter: the pc, and the name of the operation, because the code at an address can change.
type Key = (u64, &'static str);

/// All counters.
#[derive(Debug)]
pub(crate) struct Counts {
    out: PathBuf,
    phase: u8,
    slots: BTreeMap<Key, Slot>,
    phases: BTreeMap<u8, BTreeMap<Key, u64>>,
}

impl Counts {
    /// Returns counters in phase 0, which [`Counts::write`] writes to `out`.
    pub(crate) fn new(out: PathBuf) -> Self {
        Self { out, phase: 0, slots: BTreeMap::new(), phases: BTreeMap::new() }
    }

    /// Returns the counter of `op` at `pc`. It is the same one when QEMU translates the code again.
    pub(crate) fn counter(&mut self, pc: u64, op: &'static str) -> &'static Counter {
        self.slots.entry((pc, op)).or_insert_with(|| Slot { counter: Box::leak(Box::default()), settled: 0 }).counter
    }

    /// Adds the counts since the last marker to the current phase, and enters `phase`.
    pub(crate) fn enter(&mut self, phase: u8) {
        self.settle();
        self.phase = phase;
    }

    /// Writes the counts so far, and whether QEMU has ended.
    ///
    /// # Errors
    ///
    /// An error if the file cannot be written beside `out` or renamed to it.
    pub(crate) fn write(&mut self, ended: Ended) -> io::Result<()> {
        self.settle();
        let text = serde_json::to_vec(&self.report(ended)).map_err(io::Error::other)?;
        write_beside(&self.out, &text)
    }

    /// Returns the path of the file.
    pub(crate) fn out(&self) -> &Path {
        &self.out
    }

    /// Adds the counts since the last call to the current phase.
    fn settle(&mut self) {
        let ops = self.phases.entry(self.phase).or_default();
        for (&key, slot) in &mut self.slots {
            let now = slot.counter.0.load(Ordering::Relaxed);
            if now > slot.settled {
                *ops.entry(key).or_default() += now - slot.settled;
                slot.settled = now;
            }
        }
    }

    fn report(&self, ended: Ended) -> Report {
        let phases = self.phases.iter().map(|(&phase, ops)| Phase {
            phase,
            ops: ops.iter().map(|(&(pc, op), &count)| Op { op, pc: format!("{pc:#x}"), count }).collect(),
        });
        Report { ended: ended == Ended::Yes, phases: phases.collect() }
    }
}

/// State of QEMU when the file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// QEMU exits, so the counts are complete.
    Yes,
    /// QEMU continues.
    No,
}

#[derive(Serialize)]
struct Report {
    ended: bool,
    phases: Vec<Phase>,
}

#[derive(Serialize)]
struct Phase {
    phase: u8,
    ops: Vec<Op>,
}

#[derive(Serialize)]
struct Op {
    op: &'static str,
    pc: String,
    count: u64,
}

/// Writes a file beside `out`, and renames it to `out`.
///
/// # Errors
///
/// An error if the file cannot be written or renamed.
pub(crate) fn write_beside(out: &Path, text: &[u8]) -> io::Result<()> {
    let beside = with_suffix(out, ".part");
    fs::write(&beside, text)?;
    fs::rename(&beside, out)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_gets_what_ran_after_its_marker_and_adds_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = folder.path().join("counts.json");
        let mut counts = Counts::new(out.clone());
        let ivau = counts.counter(0x1000, "ic_ivau");
        ivau.add();
        counts.enter(1);
        ivau.add();
        ivau.add();
        counts.enter(0);
        counts.counter(0x1000, "ic_ivau").add();
        counts.write(Ended::Yes).expect("written");
        assert_eq!(
            fs::read_to_string(&out).expect("readable"),
            concat!(
                r#"{"ended":true,"phases":[{"phase":0,"ops":[{"op":"ic_ivau","pc":"0x1000","count":2}]},"#,
                r#"{"phase":1,"ops":[{"op":"ic_ivau","pc":"0x1000","count":2}]}]}"#
            )
        );
        assert!(!with_suffix(&out, ".part").exists());
    }

    #[test]
    fn an_unwritable_place_is_an_error() {
        let mut counts = Counts::new("/nonexistent/counts.json".into());
        assert!(counts.write(Ended::No).is_err());
        assert!(!counts.out().exists());
    }
}
