//! Closes runs that died: makes a result of the journal, the kernel log, the console and pstore.
//!
//! What such a result says is what was found. What nobody wrote down is said to be unknown, never guessed.

mod evidence;
mod pstore;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::evidence::detector::Detector;
use crate::evidence::machine::{LAB_VARIABLE, Machine};
use crate::evidence::message::Kind;
use crate::evidence::procfs;
use crate::journal::{Journal, Step};
use crate::plan::blocks::Block;
use crate::plan::relax::Sharing;
use crate::report::runs;
use crate::result::{
    CaseResult, Complaint, EvidenceState, RunId, RunResult, Status, Tool, VERSION, VcpuFacts, Verdict,
};
use crate::{store, suite, verdict};
use evidence::KernelLog;

/// Why a run could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is no run.
    #[error("{0} is no run directory: it has neither a result nor a journal")]
    NoRun(PathBuf),
    /// It lives.
    #[error("the run in {0} is still going on: wait for it or end it")]
    Alive(PathBuf),
    /// A file could not be read or written.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// The run cannot be gone on with.
    #[error("{0} ended by itself: there is nothing to resume, run it again")]
    Complete(PathBuf),
    /// The result could not be read.
    #[error("{0}")]
    Store(#[from] store::Error),
}

/// What somebody else knows of a run's end: the lab, which watched the emulator.
#[derive(Clone, Debug, Default)]
pub struct Witness {
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
fn begins(block: &str) -> String {
    format!("case {block} begins")
}

/// Finds the runs without a result: `path` itself, or those in it, the runs of plans included.
///
/// # Errors
///
/// If `path` cannot be read.
pub fn dead_runs(path: &Path) -> io::Result<Vec<PathBuf>> {
    let is_dead = |run: &PathBuf| run.join(crate::journal::FILE).exists() && !run.join(store::RESULT).exists();
    let is_run = path.join(crate::journal::FILE).exists() || path.join(store::RESULT).exists();
    if is_run && !suite::is_plan(path) {
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
pub fn close(run: &Path, witness: &Witness) -> Result<RunResult, Error> {
    let journal = run.join(crate::journal::FILE);
    if !journal.exists() {
        return Err(Error::NoRun(run.into()));
    }
    let Some(_held) = store::hold(run) else { return Err(Error::Alive(run.into())) };
    // It may have come to its end by itself since somebody saw that it had no result.
    if run.join(store::RESULT).exists() {
        return Ok(store::read(run)?);
    }
    let journal = Journal::read(run).map_err(|_| Error::NoRun(run.into()))?;
    let result = reconstruct(run, &journal, witness);
    store::give_up_reserve(run);
    let path = run.join(store::RESULT);
    let text = serde_json::to_string_pretty(&result).map_err(|error| Error::Io(path.clone(), error.into()))?;
    store::replace(&path, format!("{text}\n").as_bytes()).map_err(|error| Error::Io(path, error))?;
    Ok(result)
}

/// Returns a dead run's result, closing the run first where nobody has, and the blocks that it had not come to.
///
/// # Errors
///
/// If it is no run, alive, or ended by itself.
pub fn dead_run(run: &Path) -> Result<(RunResult, Vec<Block>), Error> {
    let journal = Journal::read(run).map_err(|_| Error::NoRun(run.into()))?;
    let result = if run.join(store::RESULT).exists() { store::read(run)? } else { close(run, &Witness::default())? };
    if result.recovered { Ok((result, journal.left())) } else { Err(Error::Complete(run.into())) }
}

/// How a run came to its end.
struct End {
    /// In words.
    reason: String,
    /// Whether that is all that is known to have gone wrong.
    status: Status,
}

fn reconstruct(run: &Path, journal: &Journal, witness: &Witness) -> RunResult {
    let begin = Begin::of(journal);
    let id = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut evidence = EvidenceState::default();
    let machine = fs::read(run.join(store::ENVIRONMENT)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let machine: Machine = machine.unwrap_or_else(|| {
        evidence.absent.push(format!("{}: nothing is known of the machine but its kernel", store::ENVIRONMENT));
        Machine::unknown(&begin.release)
    });
    let detector = journal.steps.iter().find_map(|step| match step {
        Step::Ready { detector } => Some(detector.clone()),
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
    let left = journal.left();
    let (vcpus, sharing) = cases.last().map_or((0, Sharing::Distinct), |case| (case.vcpus, case.sharing));
    cases.extend(left.into_iter().map(|block| CaseResult {
        verdict: Verdict::new(Status::Skip, "not run: an earlier case ended the run (go on with `run … --resume`)"),
        ..CaseResult::not_run(block, vcpus, sharing)
    }));
    let vcpus = vcpu_facts(journal);
    let overall = if under_way.is_some() {
        verdict::run(&cases)
    } else {
        let worst = verdict::run(&cases);
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
        policy: None,
        headroom: None,
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
        for step in &journal.steps {
            if let Step::Begin { started, boot_id, command, release, tool } = step.clone() {
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
    let facts = journal.steps.iter().rev().find_map(|step| match step {
        Step::CaseDone { vcpus, .. } => Some(vcpus.clone()),
        _ => None,
    });
    facts.unwrap_or_default()
}

fn how_it_ended(
    journal: &Journal,
    witness: &Witness,
    machine: &Machine,
    begin: &Begin,
    complaints: &[Complaint],
) -> End {
    let during =
        journal.under_way().map_or_else(|| "outside of any case".into(), |(name, _)| format!("during case {name}"));
    let error = |reason: String| End { reason, status: Status::Error };
    if let Some(Step::Failed { reason }) = journal.steps.last() {
        return error(format!("the runner gave up {during}: {reason}"));
    }
    let panic = complaints.iter().rev().find(|complaint| complaint.event.kind == Kind::Panic);
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

/// Says whether a run may be this machine's: one of the lab's was another's, whose boots and dumps are not here.
fn runs_here(machine: &Machine) -> bool {
    machine.lab.is_some() == std::env::var_os(LAB_VARIABLE).is_some()
}

/// Returns what the kernel said when it gave up, without the words that lab scanners look for.
fn panic_text(panic: &Complaint) -> String {
    let line = &panic.event.first_line;
    let why = line.split_once("not syncing:").map_or("", |(_, why)| why.trim());
    format!("event={} {}", panic.event.kind, if why.is_empty() { "(no reason given)" } else { why })
}

/// Judges the case that was under way: a lockup that was seen is one, whatever came after it.
fn died(
    plan: &CaseResult,
    end: &End,
    complaints: Vec<Complaint>,
    run: &Path,
    evidence: &mut EvidenceState,
) -> CaseResult {
    let mut case = CaseResult { complaints, ..plan.clone() };
    let timed = fs::read_to_string(run.join("samples.csv"))
        .map(|text| text.lines().filter(|line| line.starts_with(&format!("{},", case.block))).count())
        .unwrap_or(0);
    if timed > 0 {
        evidence.notes.push(format!("samples.csv holds {timed} times of the unfinished case {}", case.block));
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
