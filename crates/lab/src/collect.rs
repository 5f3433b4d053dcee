//! The way from the staging directory of an emulated host to a run directory.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use record::journal::WitnessedEnd;
use record::store::{self, RESULT};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::end::HostEnd;
use crate::error::Error;
use crate::init::protocol::{
    BOOT_REPORT_FILE, BootReport, CONSOLE_FILE, EXIT_REPORT_FILE, ExitReport, OUTPUT_FILE, PARTIAL_FILE,
};

/// The messages in a staging directory.
#[derive(Debug)]
pub struct Reports {
    /// Init's first message.
    pub boot: Option<BootReport>,
    /// Init's last message.
    pub exit: Option<ExitReport>,
    /// The output of the serial console.
    pub console: String,
}

/// Reads the messages, and removes the files that are not part of a run.
pub fn take_reports(staging: &Path) -> Reports {
    let reports = Reports {
        boot: read_json(&staging.join(BOOT_REPORT_FILE)),
        exit: read_json(&staging.join(EXIT_REPORT_FILE)),
        console: String::from_utf8_lossy(&fs::read(staging.join(CONSOLE_FILE)).unwrap_or_default()).into_owned(),
    };
    for name in [BOOT_REPORT_FILE, EXIT_REPORT_FILE, PARTIAL_FILE] {
        // The file is absent if init did not come so far.
        let _ = fs::remove_file(staging.join(name));
    }
    reports
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The times of a run, by the clock of this machine. The clock of the emulated host is virtual.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The start of QEMU.
    pub started: Timestamp,
    /// The end of QEMU.
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
    // The rename comes first, because on a full disk it works, and a write does not.
    fs::rename(staging, &target).map_err(|error| Error::results(&target, error))?;
    let result = target.join(RESULT);
    if result.exists() {
        complete(&result, &id, times).map_err(|error| Error::results(&result, error))?;
    }
    Ok(target)
}

/// A function that writes the result of a run that died, from its directory and from the end that the lab saw.
pub type CloseRun<'a> = &'a (dyn Fn(&Path, &WitnessedEnd) + Sync);

/// Closes a run that left no result.
pub fn close(run_dir: &Path, end: &HostEnd, times: Times, close_run: CloseRun<'_>) {
    if run_dir.join(RESULT).exists() {
        return;
    }
    let witness = WitnessedEnd {
        cause: Some(cause(run_dir, end)),
        started: Some(rfc3339(times.started)),
        finished: Some(rfc3339(times.finished)),
    };
    close_run(run_dir, &witness);
}

/// Returns the reason why a run has no result: the runner's own error message, or else the end of the emulated host.
pub fn cause(run_dir: &Path, end: &HostEnd) -> String {
    match end {
        HostEnd::Exited(code) => error_message(run_dir).unwrap_or_else(|| ended_with(*code)),
        other => other.to_string(),
    }
}

/// Describes the end of a runner that printed no error message.
fn ended_with(code: i32) -> String {
    match code.checked_sub(128).filter(|signal| *signal > 0) {
        Some(signal) => format!("the runner was killed by {}", hostfacts::process::signal_name(signal)),
        None => format!("the runner ended with exit code {code}"),
    }
}

/// Returns the last error message that the runner printed.
fn error_message(run_dir: &Path) -> Option<String> {
    let output = fs::read_to_string(run_dir.join(OUTPUT_FILE)).ok()?;
    let line = output.lines().rev().find_map(|line| line.strip_prefix("faultline: "))?;
    Some(format!("the runner gave up: {line}"))
}

/// Returns the name of a run directory.
fn run_id(started: Timestamp, release: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".+_-".contains(c) { c } else { '_' };
    let release: String = release.chars().map(plain).collect();
    // The system seeds every RandomState, which tells runs of the same second apart.
    let short = RandomState::new().build_hasher().finish() as u32 & 0xff_ffff;
    format!("{}-{release}-{short:06x}", started.strftime("%Y%m%dT%H%M%SZ"))
}

/// Fills in the name and the times of the run. The other fields keep their order and their digits.
fn complete(path: &Path, id: &str, times: Times) -> io::Result<()> {
    let mut value: Value = serde_json::from_slice(&fs::read(path)?)?;
    let Some(run) = value.get_mut("run").and_then(Value::as_object_mut) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the result has no object 'run'"));
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

/// Returns whether the disk of `results` is full, or was full when init copied a file out.
pub fn is_full(results: &Path, staging: &Path) -> bool {
    let now = rustix::fs::statvfs(results).is_ok_and(|space| space.f_bavail == 0);
    now || read_json(&staging.join(EXIT_REPORT_FILE)).is_some_and(|report: ExitReport| report.disk_was_full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::protocol::RunnerExit;

    fn times() -> Times {
        let at = |text: &str| text.parse().expect("a valid time");
        Times { started: at("2026-01-02T03:04:05.678Z"), finished: at("2026-01-02T03:05:00Z") }
    }

    #[test]
    fn the_result_gets_real_times_and_keeps_its_other_fields() {
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
        fs::write(staging.join(BOOT_REPORT_FILE), r#"{"release":"6.1.0"}"#).expect("writable");
        let exit = r#"{"exit":{"code":4},"lost":[],"disk_was_full":false}"#;
        fs::write(staging.join(EXIT_REPORT_FILE), exit).expect("writable");
        let reports = take_reports(&staging);
        assert_eq!(reports.boot, Some(BootReport { release: "6.1.0".into() }));
        let expected = ExitReport { exit: RunnerExit::Code(4), lost: vec![], notes: vec![], disk_was_full: false };
        assert_eq!(reports.exit, Some(expected));
        let run = publish(&staging, base.path(), "a/../b", times()).expect("publishing works");
        assert_eq!(run.parent(), Some(base.path()));
        let names: Vec<_> = fs::read_dir(&run).expect("readable").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["journal.jsonl"]);
    }
}
