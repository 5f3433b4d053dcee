//! Closes runs that died: makes a result from the journal, the kernel log, the console and pstore.
//!
//! Nothing in such a result is guessed. Values that nobody wrote down are unknown.

mod evidence;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hostfacts::machine::boot_id;
use klog::complaint::Kind;
use record::case::{AttributedComplaint, CaseResult};
use record::detector::Detector;
use record::journal::{Entry, Journal, WitnessedEnd};
use record::machine::Machine;
use record::provenance::Provenance;
use record::result::{EvidenceState, Head, RunId, RunResult, Tool, UnderTest, VcpuFacts};
use record::runs;
use record::status::{Status, Verdict};
use record::summary::is_plan;
use record::{store, verdict};
use report::samples;

use crate::recover::evidence::{Dumps, KernelLog, ran_here};

/// Error of closing a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is not a run.
    #[error("{0} is no run directory: it has neither a result nor a journal")]
    NoRun(PathBuf),
    /// The run is still alive.
    #[error("the run in {0} is still going on: wait for it or end it")]
    Alive(PathBuf),
    /// The result could not be read or written.
    #[error("{0}")]
    Store(#[from] store::Error),
}

/// Finds the runs without a result: `path` itself, or the runs in it, those of plans included.
///
/// # Errors
///
/// If `path` cannot be read.
pub fn dead_runs(path: &Path) -> io::Result<Vec<PathBuf>> {
    let is_dead = |run: &PathBuf| run.join(record::journal::FILE).exists() && !run.join(store::RESULT).exists();
    let is_run = path.join(record::journal::FILE).exists() || path.join(store::RESULT).exists();
    if is_run && !is_plan(path) {
        return Ok(Some(path.to_owned()).into_iter().filter(is_dead).collect());
    }
    fs::read_dir(path)?;
    Ok(runs::directories(path).into_iter().filter(is_dead).collect())
}

/// Writes the result of a run that died, and returns it.
///
/// # Errors
///
/// If `run` is not a run, is still alive, or cannot be written.
pub fn close(run: &Path, witness: &WitnessedEnd) -> Result<RunResult, Error> {
    let journal = run.join(record::journal::FILE);
    if !journal.exists() {
        return Err(Error::NoRun(run.into()));
    }
    let Some(_held) = store::lock_dead(run) else { return Err(Error::Alive(run.into())) };
    // The run may have ended by itself since the caller looked for a result.
    if run.join(store::RESULT).exists() {
        return Ok(store::read(run)?);
    }
    let journal = Journal::read(run).map_err(|_| Error::NoRun(run.into()))?;
    let result = reconstruct(run, &journal, witness);
    store::give_up_reserve(run);
    let path = run.join(store::RESULT);
    store::write_json(&path, &result)?;
    Ok(result)
}

fn reconstruct(run: &Path, journal: &Journal, witness: &WitnessedEnd) -> RunResult {
    let begin = Begin::from(journal);
    let id = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut evidence = EvidenceState::default();
    let machine = fs::read(run.join(store::ENVIRONMENT)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let machine: Machine = machine.unwrap_or_else(|| {
        evidence.absent.push(format!("{}: nothing is known of the machine but its kernel", store::ENVIRONMENT));
        Machine::unknown(&begin.release)
    });
    let detector = journal.entries.iter().find_map(|entry| match entry {
        Entry::Ready { detector } => Some(detector.clone()),
        _ => None,
    });
    if detector.is_none() {
        evidence.absent.push("state of the lockup detectors: the run died before it was noted".into());
    }
    if journal.unreadable > 0 {
        evidence.notes.push(format!("{} lines of the journal could not be read", journal.unreadable));
    }
    let mut cases: Vec<CaseResult> = journal.done().cloned().collect();
    let under_way = journal.under_way();
    let mut log = KernelLog::gather(run, dumps_of(&machine, &begin), under_way.map(|(name, _)| name), &cases);
    evidence.absent.append(&mut log.absent);
    evidence.notes.append(&mut log.notes);
    evidence.kmsg_lost = log.lost;
    let end = find_end(journal, witness, &machine, &begin, &log.complaints);
    if let Some((name, before)) = under_way {
        evidence.notes.extend(unfinished_samples(run, name));
        cases.push(judge_unfinished(before, &end, log.complaints));
    }
    let left = journal.not_begun();
    let vcpus = cases.last().map_or(0, |case| case.vcpus);
    cases.extend(left.into_iter().map(|name| CaseResult {
        verdict: Verdict::new(Status::Skip, "not run: an earlier case ended the run (go on with `run … --resume`)"),
        ..CaseResult::not_run(name, vcpus)
    }));
    let vcpus = vcpu_facts(journal);
    let overall = if under_way.is_some() { verdict::of_cases(&cases) } else { Verdict::new(Status::Error, end) };
    let finished = witness.finished.clone().unwrap_or_else(|| last_change(run));
    let begun = RunResult::begun(begin.head, id, machine, detector.unwrap_or_else(Detector::unknown));
    let started = witness.started.clone().unwrap_or_else(|| begun.run.started.clone());
    RunResult {
        run: RunId { started, finished, ..begun.run },
        verdict: overall,
        vcpus,
        evidence,
        cases,
        recovered: true,
        ..begun
    }
}

/// The first entry of a journal, or its replacement if the run died before writing it.
struct Begin {
    head: Head,
    boot_id: String,
    /// Release of the kernel.
    release: String,
}

impl From<&Journal> for Begin {
    fn from(journal: &Journal) -> Self {
        for entry in &journal.entries {
            if let Entry::Begin { head, boot_id, release } = entry.clone() {
                return Self { head: *head, boot_id, release };
            }
        }
        let unknown = || "unknown".to_owned();
        let head = Head {
            started: unknown(),
            tool: Tool { version: unknown(), commit: unknown(), peak_resident_kib: None },
            command: Vec::new(),
            provenance: Provenance::default(),
            under_test: UnderTest::default(),
            scenario: None,
            step: None,
        };
        Self { head, boot_id: String::new(), release: unknown() }
    }
}

impl Begin {
    /// Returns true if this machine has not been booted since.
    fn is_of_this_boot(&self) -> bool {
        !self.boot_id.is_empty() && boot_id().is_some_and(|here| here == self.boot_id)
    }
}

/// Decides if pstore can have dumps of a run. Its dumps are of boots of this machine that ended.
fn dumps_of(machine: &Machine, begin: &Begin) -> Dumps {
    if ran_here(machine) && !begin.is_of_this_boot() { Dumps::Possible } else { Dumps::Impossible }
}

fn vcpu_facts(journal: &Journal) -> Vec<VcpuFacts> {
    let facts = journal.entries.iter().rev().find_map(|entry| match entry {
        Entry::CaseDone { vcpus, .. } => Some(vcpus.clone()),
        _ => None,
    });
    facts.unwrap_or_default()
}

/// Describes the most certain cause of the run's end.
fn find_end(
    journal: &Journal,
    witness: &WitnessedEnd,
    machine: &Machine,
    begin: &Begin,
    complaints: &[AttributedComplaint],
) -> String {
    let during =
        journal.under_way().map_or_else(|| "outside of any case".into(), |(name, _)| format!("during case {name}"));
    if let Some(Entry::Failed { reason }) = journal.entries.last() {
        return format!("the runner gave up {during}: {reason}");
    }
    let panic = complaints.iter().rev().find(|complaint| complaint.complaint.kind == Kind::Panic);
    if let Some(panic) = panic {
        return format!("the machine died {during}: {}", panic_text(panic));
    }
    if let Some(cause) = &witness.cause {
        return format!("the run ended {during}: {cause}");
    }
    if !ran_here(machine) || begin.boot_id.is_empty() {
        return format!("the run ended {during}; what ended it is unknown");
    }
    if begin.is_of_this_boot() {
        return format!("the runner was killed {during}; the machine has been up all the time");
    }
    format!(
        "the machine went down {during}, and neither kernel log nor pstore says why (or the run is another machine's)"
    )
}

/// Returns the message of a panic, without the words on which log scanners fail.
fn panic_text(panic: &AttributedComplaint) -> String {
    let line = &panic.complaint.first_line;
    let why = line.split_once("not syncing:").map_or("", |(_, why)| why.trim());
    format!("event={} {}", panic.complaint.kind, if why.is_empty() { "(no reason given)" } else { why })
}

/// Judges the case that was under way. A lockup that was seen decides, whatever happened after it.
fn judge_unfinished(before: &CaseResult, end: &str, complaints: Vec<AttributedComplaint>) -> CaseResult {
    let mut case = CaseResult { complaints, ..before.clone() };
    case.verdict = match verdict::relax_lockup(&case) {
        Some((lockup, _)) => {
            Verdict::new(Status::Fail, format!("{} while relaxing a permission; {}", verdict::describe(lockup), end))
        }
        None => Verdict::new(Status::Error, end),
    };
    case
}

/// Returns a note about the samples of an unfinished case, if it left any.
fn unfinished_samples(run: &Path, case: &str) -> Option<String> {
    let text = fs::read_to_string(run.join("samples.csv")).ok()?;
    let timed = samples::parse(&text).iter().filter(|sample| sample.block == case).count();
    (timed > 0).then(|| format!("samples.csv holds {timed} times of the unfinished case {case}"))
}

/// Returns the time at which anything in the directory last changed, in RFC 3339. No other file tells when a run died.
fn last_change(run: &Path) -> String {
    let times =
        fs::read_dir(run).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok()?.modified().ok());
    let last = times.max().unwrap_or(SystemTime::UNIX_EPOCH);
    jiff::Timestamp::try_from(last)
        .map_or_else(|_| "unknown".into(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests;
