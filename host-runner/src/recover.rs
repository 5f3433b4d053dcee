//! Closes runs that died: makes a result of the journal, the kernel log, the console and pstore.
//!
//! Such a result says what was found. Whatever nobody wrote down is said to be unknown, never guessed.

mod evidence;
mod pstore;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hostfacts::procfs;
use klog::complaint::Kind;
use record::case::{AttributedComplaint, CaseResult};
use record::detector::Detector;
use record::findings::StoredFindings;
use record::journal::{Entry, Journal, WitnessedEnd};
use record::machine::Machine;
use record::result::{EvidenceState, RunId, RunResult, Tool, VERSION, VcpuFacts};
use record::runs;
use record::status::{Status, Verdict};
use record::summary::is_plan;
use record::{store, verdict};

use crate::recover::evidence::{KernelLog, runs_here};

/// Why a run could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is no run.
    #[error("{0} is no run directory: it has neither a result nor a journal")]
    NoRun(PathBuf),
    /// It lives.
    #[error("the run in {0} is still going on: wait for it or end it")]
    Alive(PathBuf),
    /// The result could not be read.
    #[error("{0}")]
    Store(#[from] store::Error),
}

/// Finds the runs without a result: `path` itself, or those in it, the runs of plans included.
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

/// Writes the result of a run that left none, and returns it.
///
/// # Errors
///
/// If it is no run, still alive, or cannot be written.
pub fn close(run: &Path, witness: &WitnessedEnd) -> Result<RunResult, Error> {
    let journal = run.join(record::journal::FILE);
    if !journal.exists() {
        return Err(Error::NoRun(run.into()));
    }
    let Some(_held) = store::lock_dead(run) else { return Err(Error::Alive(run.into())) };
    // It may have come to its end by itself since somebody saw that it had no result.
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

/// How a run came to its end.
struct End {
    /// In words.
    reason: String,
    /// Whether that is all that is known to have gone wrong.
    status: Status,
}

fn reconstruct(run: &Path, journal: &Journal, witness: &WitnessedEnd) -> RunResult {
    let begin = Begin::of(journal);
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
    let same_boot = !begin.boot_id.is_empty() && procfs::boot_id().is_some_and(|here| here == begin.boot_id);
    let mut log = KernelLog::gather(run, &machine, same_boot, under_way.map(|(name, _)| name), &cases);
    evidence.absent.append(&mut log.absent);
    evidence.notes.append(&mut log.notes);
    evidence.kmsg_lost = log.lost;
    let end = how_it_ended(journal, witness, &machine, &begin, &log.complaints);
    cases.extend(under_way.map(|(_, plan)| died(plan, &end, log.complaints, run, &mut evidence)));
    let left = journal.not_begun();
    let vcpus = cases.last().map_or(0, |case| case.vcpus);
    cases.extend(left.into_iter().map(|name| CaseResult {
        verdict: Verdict::new(Status::Skip, "not run: an earlier case ended the run (go on with `run … --resume`)"),
        ..CaseResult::not_run(name, vcpus)
    }));
    let vcpus = vcpu_facts(journal);
    let overall = if under_way.is_some() {
        verdict::of_cases(&cases)
    } else {
        let worst = verdict::of_cases(&cases);
        let status = worst.status.max(end.status);
        Verdict::new(status, if worst.status > end.status { worst.reason } else { end.reason })
    };
    RunResult {
        version: VERSION,
        run: RunId {
            id,
            started: witness.started.clone().unwrap_or(begin.started),
            finished: witness.finished.clone().unwrap_or_else(|| last_change(run)),
        },
        tool: begin.tool,
        scenario: begin.command.get(1).cloned().unwrap_or_else(|| "unknown".into()),
        step: None,
        command: begin.command,
        under_test: Default::default(),
        facts: BTreeMap::new(),
        conclusion: StoredFindings::default(),
        verdict: overall,
        machine,
        detector: detector.unwrap_or_else(Detector::unknown),
        vcpus,
        evidence,
        cases,
        recovered: true,
        resumed_from: None,
    }
}

/// The first entry, or what stands for it when the run died before writing it.
struct Begin {
    started: String,
    boot_id: String,
    command: Vec<String>,
    release: String,
    tool: Tool,
}

impl Begin {
    fn of(journal: &Journal) -> Self {
        let unknown = || "unknown".to_owned();
        for entry in &journal.entries {
            if let Entry::Begin { started, boot_id, command, release, tool } = entry.clone() {
                return Self { started, boot_id, command, release, tool };
            }
        }
        Self {
            started: unknown(),
            boot_id: String::new(),
            command: Vec::new(),
            release: unknown(),
            tool: Tool { version: unknown(), commit: unknown(), peak_resident_kib: None },
        }
    }
}

fn vcpu_facts(journal: &Journal) -> Vec<VcpuFacts> {
    let facts = journal.entries.iter().rev().find_map(|entry| match entry {
        Entry::CaseDone { vcpus, .. } => Some(vcpus.clone()),
        _ => None,
    });
    facts.unwrap_or_default()
}

fn how_it_ended(
    journal: &Journal,
    witness: &WitnessedEnd,
    machine: &Machine,
    begin: &Begin,
    complaints: &[AttributedComplaint],
) -> End {
    let during =
        journal.under_way().map_or_else(|| "outside of any case".into(), |(name, _)| format!("during case {name}"));
    let error = |reason: String| End { reason, status: Status::Error };
    if let Some(Entry::Failed { reason }) = journal.entries.last() {
        return error(format!("the runner gave up {during}: {reason}"));
    }
    let panic = complaints.iter().rev().find(|complaint| complaint.complaint.kind == Kind::Panic);
    if let Some(panic) = panic {
        return error(format!("the machine died {during}: {}", panic_text(panic)));
    }
    if let Some(cause) = &witness.cause {
        return error(format!("the run ended {during}: {cause}"));
    }
    let unknown = || error(format!("the run ended {during}; what ended it is unknown"));
    if !runs_here(machine) || begin.boot_id.is_empty() {
        return unknown();
    }
    if procfs::boot_id().is_some_and(|here| here == begin.boot_id) {
        return error(format!("the runner was killed {during}; the machine has been up all the time"));
    }
    error(format!(
        "the machine went down {during}, and neither kernel log nor pstore says why (or the run is another machine's)"
    ))
}

/// Returns what the kernel said when it gave up, without the words that lab scanners look for.
fn panic_text(panic: &AttributedComplaint) -> String {
    let line = &panic.complaint.first_line;
    let why = line.split_once("not syncing:").map_or("", |(_, why)| why.trim());
    format!("event={} {}", panic.complaint.kind, if why.is_empty() { "(no reason given)" } else { why })
}

/// Judges the case that was under way: a lockup that was seen is one, whatever came after it.
fn died(
    plan: &CaseResult,
    end: &End,
    complaints: Vec<AttributedComplaint>,
    run: &Path,
    evidence: &mut EvidenceState,
) -> CaseResult {
    let mut case = CaseResult { complaints, ..plan.clone() };
    let timed = fs::read_to_string(run.join("samples.csv"))
        .map(|text| text.lines().filter(|line| line.starts_with(&format!("{},", case.name))).count())
        .unwrap_or(0);
    if timed > 0 {
        evidence.notes.push(format!("samples.csv holds {timed} times of the unfinished case {}", case.name));
    }
    case.verdict = match verdict::relax_lockup(&case) {
        Some((lockup, _)) => Verdict::new(
            Status::Fail,
            format!("{} while relaxing a permission; {}", verdict::describe(lockup), end.reason),
        ),
        None => Verdict::new(end.status, end.reason.clone()),
    };
    case
}

/// Returns when anything in the directory last changed, RFC 3339: nothing else tells when a run died.
fn last_change(run: &Path) -> String {
    let times =
        fs::read_dir(run).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok()?.modified().ok());
    let last = times.max().unwrap_or(SystemTime::UNIX_EPOCH);
    jiff::Timestamp::try_from(last)
        .map_or_else(|_| "unknown".into(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests;
