//! From QEMU's staging directory to a run directory.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::GuestExit;
use crate::guest::courier::PARTIAL_FILE;
use crate::guest::{CONSOLE_FILE, EXIT_FILE, Farewell, HELLO_FILE, Hello, OUTPUT_FILE, RUN_NAME};
use record::journal;
use record::journal::WitnessedEnd;
use record::store::{self, RESULT};

/// What init left in the staging directory besides the runner's files.
#[derive(Debug)]
pub struct Marks {
    /// Init's first message.
    pub hello: Option<Hello>,
    /// Its last.
    pub farewell: Option<Farewell>,
    /// The serial console.
    pub console: String,
}

/// Reads the marks, and removes those that are no part of a run.
pub fn take_marks(staging: &Path) -> Marks {
    let marks = Marks {
        hello: read_json(&staging.join(HELLO_FILE)),
        farewell: read_json(&staging.join(EXIT_FILE)),
        console: String::from_utf8_lossy(&fs::read(staging.join(CONSOLE_FILE)).unwrap_or_default()).into_owned(),
    };
    for name in [HELLO_FILE, EXIT_FILE, PARTIAL_FILE] {
        // Absent where init did not come so far.
        let _ = fs::remove_file(staging.join(name));
    }
    marks
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// When a run took place, by the host's clock. The guest's own clock is virtual.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// QEMU was started.
    pub started: Timestamp,
    /// QEMU had ended.
    pub finished: Timestamp,
}

/// Moves the staging directory to `<results>/<UTC time>-<release>-<short id>` and completes `result.json` there.
///
/// # Errors
///
/// [`Error::Results`] or [`Error::DiskFull`].
pub fn publish(staging: &Path, results: &Path, release: &str, times: Times) -> Result<PathBuf, Error> {
    let id = run_id(times.started, release);
    let target = results.join(&id);
    // First of all what there is: on a full disk a rename works, and writing anew does not.
    fs::rename(staging, &target).map_err(|error| Error::results(&target, error))?;
    let result = target.join(RESULT);
    if result.exists() {
        complete(&result, &id, times).map_err(|error| Error::results(&result, error))?;
    }
    Ok(target)
}

/// Makes the result of a run that died, from its directory and from the end that the lab saw.
pub type Closer<'a> = &'a (dyn Fn(&Path, &WitnessedEnd) + Sync);

/// Gives a run that died in the guest its result. Without a journal there was no run; the lab's own word on the guest is
/// all there is then.
pub fn close(run_dir: &Path, exit: &GuestExit, times: Times, closer: Closer<'_>) {
    if run_dir.join(RESULT).exists() {
        return;
    }
    let witness = WitnessedEnd {
        cause: Some(cause(run_dir, exit)),
        started: Some(rfc3339(times.started)),
        finished: Some(rfc3339(times.finished)),
    };
    // A run directory that cannot be written to any more stays as it is, for `faultline recover`.
    closer(run_dir, &witness);
}

/// Says why a guest ended without a result: by the runner's own words where there are any.
pub fn cause(run_dir: &Path, exit: &GuestExit) -> String {
    match exit {
        GuestExit::Exited(code) => last_words(run_dir).unwrap_or_else(|| ended_with(*code)),
        other => other.to_string(),
    }
}

/// Says how a runner ended that had nothing to say.
fn ended_with(code: i32) -> String {
    match code.checked_sub(128).filter(|signal| *signal > 0) {
        Some(signal) => format!("the runner was killed by signal {signal}"),
        None => format!("the runner ended with exit code {code}"),
    }
}

/// Returns the runner's error message, if it printed one.
fn last_words(run_dir: &Path) -> Option<String> {
    let output = fs::read_to_string(run_dir.join(OUTPUT_FILE)).ok()?;
    let line = output.lines().rev().find_map(|line| line.strip_prefix("faultline: "))?;
    Some(format!("the runner gave up: {line}"))
}

/// How the names of directories begin in which labs are at work, in the directory of results.
pub const WORK_PREFIX: &str = ".lab-";
/// File in there that a living lab keeps locked.
const LOCK: &str = "lock";

/// Marks a directory as one in which this lab is at work, as long as the result lives.
///
/// # Errors
///
/// If it cannot be written to. A file system without locks is no error: nothing is rescued from it.
pub fn lock(work: &Path) -> io::Result<File> {
    let unlocked = work.join("lock.part");
    let lock = File::create(&unlocked)?;
    // Under its own name it is locked, always.
    if lock.try_lock().is_ok() {
        fs::rename(&unlocked, work.join(LOCK))?;
    }
    Ok(lock)
}

/// Moves runs out of the directories of labs that were killed, removes what else is in there, and returns the runs, which
/// are still to be closed. What cannot be moved stays.
pub fn rescue(results: &Path) -> Vec<PathBuf> {
    let is_work = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(WORK_PREFIX));
    let entries = fs::read_dir(results).into_iter().flatten().flatten();
    let mut runs = Vec::new();
    for work in entries.map(|entry| entry.path()).filter(is_work) {
        let Ok(lock) = File::open(work.join(LOCK)) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let staging = work.join(RUN_NAME);
        if staging.join(journal::FILE).exists() {
            let at = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
            let time = |path: &Path| at(path).and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_default();
            let times = Times { started: time(&work.join(LOCK)), finished: time(&staging.join(CONSOLE_FILE)) };
            let release = take_marks(&staging).hello.map_or_else(|| "unknown".into(), |hello| hello.release);
            let Ok(run) = publish(&staging, results, &release, times) else { continue };
            runs.push(run);
        }
        // The initramfs and what else is made anew each time.
        let _ = fs::remove_dir_all(&work);
    }
    runs
}

fn run_id(started: Timestamp, release: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".+_-".contains(c) { c } else { '_' };
    let release: String = release.chars().map(plain).collect();
    // Seeded by the system for every RandomState: enough to tell runs of one second apart.
    let short = RandomState::new().build_hasher().finish() as u32 & 0xff_ffff;
    format!("{}-{release}-{short:06x}", started.strftime("%Y%m%dT%H%M%SZ"))
}

/// Fills in what only the host knows. Everything else keeps its order and its digits.
fn complete(path: &Path, id: &str, times: Times) -> io::Result<()> {
    let mut value: Value = serde_json::from_slice(&fs::read(path)?)?;
    let Some(run) = value.get_mut("run").and_then(Value::as_object_mut) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the guest's result has no object 'run'"));
    };
    run.insert("id".into(), id.into());
    run.insert("started".into(), rfc3339(times.started).into());
    run.insert("finished".into(), rfc3339(times.finished).into());
    let mut text = serde_json::to_vec_pretty(&value)?;
    text.push(b'\n');
    store::replace(path, &text)
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Says whether the disk below `results` is full, or was when init carried something out.
pub fn is_full(results: &Path, staging: &Path) -> bool {
    let now = rustix::fs::statvfs(results).is_ok_and(|space| space.f_bavail == 0);
    now || read_json(&staging.join(EXIT_FILE)).is_some_and(|farewell: Farewell| farewell.host_was_full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::ExitMark;

    #[test]
    fn what_a_killed_lab_left_is_rescued_and_the_living_are_left_alone() {
        let results = tempfile::tempdir().expect("a temporary directory");
        let lab = |name: &str| {
            let work = results.path().join(name);
            fs::create_dir_all(work.join(RUN_NAME)).expect("writable");
            fs::write(work.join(RUN_NAME).join(journal::FILE), "").expect("writable");
            fs::write(work.join(RUN_NAME).join(HELLO_FILE), r#"{"release":"6.1.0"}"#).expect("writable");
            lock(&work).expect("writable")
        };
        let _alive = lab(".lab-alive");
        drop(lab(".lab-dead"));
        let runs = rescue(results.path());
        assert_eq!(runs.len(), 1);
        assert!(runs[0].to_string_lossy().contains("6.1.0") && runs[0].join(journal::FILE).exists(), "{runs:?}");
        assert!(results.path().join(".lab-alive").exists() && !results.path().join(".lab-dead").exists());
        assert!(rescue(results.path()).is_empty());
    }

    fn times() -> Times {
        let at = |text: &str| text.parse().expect("a valid time");
        Times { started: at("2026-01-02T03:04:05.678Z"), finished: at("2026-01-02T03:05:00Z") }
    }

    #[test]
    fn result_gets_the_hosts_times_and_keeps_the_rest() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let staging = base.path().join("staging");
        fs::create_dir(&staging).expect("a fresh directory");
        let text = r#"{"z":1.10,"run":{"id":"run","scenario":"relax"},"a":0.1234567890123456789}"#;
        fs::write(staging.join(RESULT), text).expect("writable");
        let run = publish(&staging, base.path(), "6.1.0-9-arm64", times()).expect("publishing works");
        let name = run.file_name().expect("a named directory").to_string_lossy().into_owned();
        assert!(name.starts_with("20260102T030405Z-6.1.0-9-arm64-"), "{name}");
        assert!(!staging.exists());
        let result = fs::read_to_string(run.join(RESULT)).expect("the result is there");
        let value: Value = serde_json::from_str(&result).expect("valid JSON");
        assert_eq!(value["run"]["id"], name.as_str());
        assert_eq!(value["run"]["started"], "2026-01-02T03:04:05Z");
        assert_eq!(value["run"]["finished"], "2026-01-02T03:05:00Z");
        assert_eq!(value["run"]["scenario"], "relax");
        assert!(result.find("\"z\"") < result.find("\"a\""), "the order is kept: {result}");
    }

    #[test]
    fn a_run_without_result_is_kept() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let staging = base.path().join("staging");
        fs::create_dir(&staging).expect("a fresh directory");
        fs::write(staging.join("journal.jsonl"), "{}\n").expect("writable");
        fs::write(staging.join(HELLO_FILE), r#"{"release":"6.1.0"}"#).expect("writable");
        fs::write(staging.join(EXIT_FILE), r#"{"exit":{"code":4},"lost":[],"host_was_full":false}"#).expect("writable");
        let marks = take_marks(&staging);
        assert_eq!(marks.hello, Some(Hello { release: "6.1.0".into() }));
        assert_eq!(
            marks.farewell,
            Some(Farewell { exit: ExitMark::Code(4), lost: vec![], notes: vec![], host_was_full: false })
        );
        let run = publish(&staging, base.path(), "a/../b", times()).expect("publishing works");
        assert_eq!(run.parent(), Some(base.path()));
        let names: Vec<_> = fs::read_dir(&run).expect("readable").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["journal.jsonl"]);
    }
}
