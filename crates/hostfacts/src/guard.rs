//! The guard of this machine's settings: it changes them and restores them on exit, on an error, and after SIGKILL at
//! the next start.
//!
//! The guard writes each old value to a journal on disk, and syncs it, before it writes the new value. It removes the
//! journal only after all old values are restored. A lock on the state directory keeps two live runs from undoing each
//! other's changes. The kernel drops the lock when its owner dies, so a journal without a lock belongs to a dead run.
//!
//! A reboot resets every setting. The guard therefore drops a journal of another boot and does not apply it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{machine, memory, procfs};

/// Error in changing or restoring settings.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The state directory could not be used.
    #[error("cannot use the state directory {path} ({source}); name another one by XDG_STATE_HOME")]
    State {
        /// The directory or file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// Another live run, with this pid, holds the settings.
    #[error("another faultline run (pid {0}) holds this machine's settings; wait for it or end it")]
    Busy(String),
    /// A setting does not exist on this machine or could not be read.
    #[error("cannot read {path} ({source})")]
    Read {
        /// The setting.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// A setting could not be written.
    #[error("cannot write {value:?} to {path} ({source}); changing settings needs root")]
    Write {
        /// The setting.
        path: PathBuf,
        /// The value.
        value: String,
        /// Error of the system call.
        source: io::Error,
    },
    /// These old values could not be restored. The journal keeps them for the next attempt.
    #[error("cannot put back {}; run `faultline restore` as root", .0.join(", "))]
    Restore(Vec<String>),
}

/// A setting that a run can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `kernel.watchdog_thresh` in seconds.
    WatchdogThresh,
    /// `kernel.hung_task_warnings`, which the kernel counts down.
    HungTaskWarnings,
    /// Size of the pool of hugetlb pages of one size, in pages.
    Hugepages {
        /// Size of one page in bytes.
        bytes: u64,
    },
}

impl Setting {
    /// Returns the file that holds the setting.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::WatchdogThresh => "/proc/sys/kernel/watchdog_thresh".into(),
            Self::HungTaskWarnings => "/proc/sys/kernel/hung_task_warnings".into(),
            Self::Hugepages { bytes } => memory::hugepage_pool_path(*bytes).into(),
        }
    }
}

/// One line of the journal: the id of the boot, or the old value of a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Boot { id: String },
    Old { path: PathBuf, value: String },
}

/// Result of the recovery from a dead run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// No dead run left changed settings.
    Nothing,
    /// A dead run had changed these settings, and they have their old values again.
    Restored(Vec<PathBuf>),
    /// A dead run's journal was from another boot, so the reboot had reset its settings.
    OtherBoot,
}

/// The guard of this machine's settings. Its drop restores the settings that it changed.
///
/// A drop cannot report errors. Call [`Guard::restore`] if they matter.
#[derive(Debug)]
pub struct Guard {
    root: PathBuf,
    journal: PathBuf,
    changed: Vec<(PathBuf, String)>,
    /// The locked file; closing it releases the lock.
    _lock: File,
}

/// Returns the state directory: `$XDG_STATE_HOME/faultline`, or `/var/lib/faultline`.
pub fn default_state_dir() -> PathBuf {
    match std::env::var_os("XDG_STATE_HOME").map(PathBuf::from) {
        Some(home) if home.is_absolute() => home.join("faultline"),
        _ => "/var/lib/faultline".into(),
    }
}

/// Restores the settings that a dead run left changed, if there are any.
///
/// # Errors
///
/// [`GuardError::Busy`] while another run is alive; [`GuardError::Restore`] if some values could not be restored.
pub fn recover(state_dir: &Path) -> Result<Recovery, GuardError> {
    if !state_dir.join(JOURNAL).exists() {
        return Ok(Recovery::Nothing);
    }
    Guard::open_below(Path::new("/"), state_dir).map(|(_, recovery)| recovery)
}

const JOURNAL: &str = "settings.journal";
const LOCK: &str = "settings.lock";

impl Guard {
    /// Takes the lock, recovers from a dead run, and returns a guard that has changed no setting yet.
    ///
    /// # Errors
    ///
    /// [`GuardError::State`], [`GuardError::Busy`], [`GuardError::Restore`].
    pub fn open(state_dir: &Path) -> Result<(Self, Recovery), GuardError> {
        Self::open_below(Path::new("/"), state_dir)
    }

    /// Opens a guard of the settings below `root`.
    fn open_below(root: &Path, state_dir: &Path) -> Result<(Self, Recovery), GuardError> {
        fs::create_dir_all(state_dir).map_err(at(state_dir))?;
        let lock = lock(&state_dir.join(LOCK))?;
        let mut guard = Self { root: root.into(), journal: state_dir.join(JOURNAL), changed: Vec::new(), _lock: lock };
        let recovery = guard.recover()?;
        Ok((guard, recovery))
    }

    /// Changes a setting and returns its new value. A pool of huge pages may get fewer pages than `value`.
    ///
    /// # Errors
    ///
    /// - [`GuardError::Read`] if the setting cannot be read before or after the change.
    /// - [`GuardError::State`] if the journal cannot be written; the setting is then unchanged.
    /// - [`GuardError::Write`] if the setting cannot be written.
    pub fn set(&mut self, setting: &Setting, value: &str) -> Result<String, GuardError> {
        let path = setting.path();
        let old = self.read(&path)?;
        if !self.changed.iter().any(|(known, _)| *known == path) {
            self.note(&path, &old)?;
            self.changed.push((path.clone(), old));
        }
        self.write(&path, value)?;
        self.read(&path)
    }

    /// Restores all old values, the last change first, and returns their number.
    ///
    /// # Errors
    ///
    /// [`GuardError::Restore`] names the values that could not be restored; the journal then stays.
    pub fn restore(mut self) -> Result<usize, GuardError> {
        let count = self.changed.len();
        self.put_back().map(|()| count)
    }

    fn recover(&mut self) -> Result<Recovery, GuardError> {
        let Ok(text) = fs::read_to_string(&self.journal) else { return Ok(Recovery::Nothing) };
        // A crash can cut the last line short. That line was not synced yet, so its setting was not changed yet.
        let entries: Vec<Entry> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let boot = self.boot_id();
        if entries.iter().any(|entry| matches!(entry, Entry::Boot { id } if *id != boot)) {
            self.remove_journal()?;
            return Ok(Recovery::OtherBoot);
        }
        self.changed = entries
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Old { path, value } => Some((path, value)),
                Entry::Boot { .. } => None,
            })
            .collect();
        let paths: Vec<PathBuf> = self.changed.iter().rev().map(|(path, _)| path.clone()).collect();
        self.put_back()?;
        Ok(if paths.is_empty() { Recovery::Nothing } else { Recovery::Restored(paths) })
    }

    fn put_back(&mut self) -> Result<(), GuardError> {
        let mut failed = Vec::new();
        for (path, value) in std::mem::take(&mut self.changed).into_iter().rev() {
            match self.write(&path, &value) {
                Ok(()) => {}
                // The setting disappeared with its module.
                Err(GuardError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                // The change had failed, too (no permission, /proc/sys read-only), so the setting has its old value.
                Err(_) if self.read(&path).is_ok_and(|now| now == value) => {}
                Err(error) => {
                    failed.push(format!("{} = {value} ({error})", path.display()));
                    self.changed.push((path, value));
                }
            }
        }
        if failed.is_empty() {
            return self.remove_journal();
        }
        self.changed.reverse();
        Err(GuardError::Restore(failed))
    }

    fn boot_id(&self) -> String {
        machine::boot_id_below(&self.root).unwrap_or_default()
    }

    /// Appends an old value to the journal and waits until it is on disk.
    fn note(&self, path: &Path, value: &str) -> Result<(), GuardError> {
        let mut lines = String::new();
        if self.changed.is_empty() {
            lines = line(&Entry::Boot { id: self.boot_id() });
        }
        lines += &line(&Entry::Old { path: path.into(), value: value.into() });
        let append = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.journal)?;
            file.write_all(lines.as_bytes())?;
            file.sync_all()?;
            // The directory entry of a new file needs a sync of its own.
            self.journal.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        append().map_err(at(&self.journal))
    }

    fn remove_journal(&self) -> Result<(), GuardError> {
        match fs::remove_file(&self.journal) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&self.journal)(error)),
            _ => Ok(()),
        }
    }

    fn read(&self, path: &Path) -> Result<String, GuardError> {
        let text = fs::read_to_string(procfs::under(&self.root, path))
            .map_err(|source| GuardError::Read { path: path.into(), source })?;
        Ok(text.trim().to_owned())
    }

    fn write(&self, path: &Path, value: &str) -> Result<(), GuardError> {
        // fs::write would create a setting that is absent.
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(procfs::under(&self.root, path))
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|source| GuardError::Write { path: path.into(), value: value.into(), source })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Values that cannot be restored stay in the journal. The next start tries again and reports it.
        let _ = self.put_back();
    }
}

fn line(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("an entry holds only strings and paths of known settings") + "\n"
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> GuardError {
    let path = path.to_owned();
    move |source| GuardError::State { path, source }
}

/// Locks the state directory for this process and writes the pid into the lock, for the message of another run.
fn lock(path: &Path) -> Result<File, GuardError> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(at(path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // A kernel without CONFIG_FILE_LOCKING has no locks. Two runs then can undo each other's changes.
        Ok(()) | Err(rustix::io::Errno::NOSYS) => {}
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
            let owner = fs::read_to_string(path).unwrap_or_default();
            return Err(GuardError::Busy(owner.trim().to_owned()));
        }
        Err(error) => return Err(at(path)(error.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(at(path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().expect("a temporary directory"));
            machine.put("/proc/sys/kernel/random/boot_id", "boot-1\n");
            machine.put("/proc/sys/kernel/watchdog_thresh", "10\n");
            machine.put("/proc/sys/kernel/hung_task_warnings", "10\n");
            machine
        }

        fn put(&self, path: &str, text: &str) {
            let path = procfs::under(self.0.path(), path);
            fs::create_dir_all(path.parent().expect("settings are in directories")).expect("directory");
            fs::write(path, text).expect("setting");
        }

        fn value(&self, setting: &Setting) -> String {
            fs::read_to_string(procfs::under(self.0.path(), setting.path())).expect("setting").trim().to_owned()
        }

        fn state(&self) -> PathBuf {
            self.0.path().join("state")
        }

        fn open(&self) -> Result<(Guard, Recovery), GuardError> {
            Guard::open_below(self.0.path(), &self.state())
        }

        /// Ends a guard as SIGKILL does: the kernel drops the lock, and nothing is restored.
        fn kill(&self, guard: Guard) {
            let lock = guard._lock.try_clone().expect("descriptor");
            flock(&lock, FlockOperation::Unlock).expect("unlock");
            std::mem::forget(guard);
        }
    }

    const THRESH: Setting = Setting::WatchdogThresh;

    #[test]
    fn restores_on_drop_and_on_demand() {
        let machine = Machine::new();
        let (mut guard, recovery) = machine.open().expect("guard");
        assert_eq!(recovery, Recovery::Nothing);
        assert_eq!(guard.set(&THRESH, "1").expect("set"), "1");
        assert_eq!(guard.set(&THRESH, "2").expect("set"), "2");
        guard.set(&Setting::HungTaskWarnings, "3").expect("set");
        drop(guard);
        assert_eq!(machine.value(&THRESH), "10");
        assert_eq!(machine.value(&Setting::HungTaskWarnings), "10");
        assert!(!machine.state().join(JOURNAL).exists());

        let (mut guard, _) = machine.open().expect("guard");
        guard.set(&THRESH, "1").expect("set");
        assert_eq!(guard.restore().expect("restore"), 1);
        assert_eq!(machine.value(&THRESH), "10");
    }

    #[test]
    fn recovers_after_a_kill_and_only_once() {
        let machine = Machine::new();
        let (mut guard, _) = machine.open().expect("guard");
        guard.set(&THRESH, "1").expect("set");
        machine.kill(guard);
        assert_eq!(machine.value(&THRESH), "1");
        let (_, recovery) = machine.open().expect("guard");
        assert_eq!(recovery, Recovery::Restored(vec![THRESH.path()]));
        assert_eq!(machine.value(&THRESH), "10");
        assert_eq!(machine.open().expect("guard").1, Recovery::Nothing);
    }

    #[test]
    fn a_reboot_has_restored_already() {
        let machine = Machine::new();
        let (mut guard, _) = machine.open().expect("guard");
        guard.set(&THRESH, "1").expect("set");
        machine.kill(guard);
        machine.put("/proc/sys/kernel/random/boot_id", "boot-2\n");
        machine.put("/proc/sys/kernel/watchdog_thresh", "30\n");
        assert_eq!(machine.open().expect("guard").1, Recovery::OtherBoot);
        assert_eq!(machine.value(&THRESH), "30");
    }

    #[test]
    fn live_runs_do_not_undo_each_other() {
        let machine = Machine::new();
        let (mut guard, _) = machine.open().expect("guard");
        guard.set(&THRESH, "1").expect("set");
        let own = std::process::id().to_string();
        assert!(matches!(machine.open(), Err(GuardError::Busy(pid)) if pid == own));
        assert_eq!(machine.value(&THRESH), "1");
    }

    #[test]
    fn a_torn_journal_line_is_ignored() {
        let machine = Machine::new();
        let (mut guard, _) = machine.open().expect("guard");
        guard.set(&THRESH, "1").expect("set");
        let journal = machine.state().join(JOURNAL);
        machine.kill(guard);
        let mut file = OpenOptions::new().append(true).open(&journal).expect("journal");
        file.write_all(b"{\"old\":{\"path\":\"/proc/sys/ker").expect("write");
        machine.open().expect("guard");
        assert_eq!(machine.value(&THRESH), "10");
    }

    #[test]
    fn an_absent_setting_is_not_created() {
        let machine = Machine::new();
        let (mut guard, _) = machine.open().expect("guard");
        let absent = Setting::Hugepages { bytes: 2 << 20 };
        assert!(matches!(guard.set(&absent, "4"), Err(GuardError::Read { .. })));
        assert!(!procfs::under(machine.0.path(), absent.path()).exists());
    }

    /// A user without the permission, or a read-only /proc/sys.
    #[test]
    fn a_setting_that_could_not_be_changed_needs_no_restoring() {
        let machine = Machine::new();
        let (mut guard, _) = machine.open().expect("guard");
        let path = procfs::under(machine.0.path(), THRESH.path());
        fs::remove_file(&path).expect("remove");
        // Not even root can write to this file.
        std::os::unix::fs::symlink("/proc/version", &path).expect("link");
        assert!(matches!(guard.set(&THRESH, "1"), Err(GuardError::Write { .. })));
        guard.restore().expect("it has its old value");
        assert!(!machine.state().join(JOURNAL).exists());
    }

    #[test]
    fn a_value_that_cannot_be_restored_stays_in_the_journal() {
        let machine = Machine::new();
        let (mut guard, _) = machine.open().expect("guard");
        guard.set(&THRESH, "1").expect("set");
        // Not even root can write to a directory in its place.
        let path = procfs::under(machine.0.path(), THRESH.path());
        fs::remove_file(&path).expect("remove");
        fs::create_dir(&path).expect("directory");
        assert!(matches!(guard.restore(), Err(GuardError::Restore(_))));
        assert!(machine.state().join(JOURNAL).exists());
        fs::remove_dir(&path).expect("remove");
        fs::write(&path, "1").expect("setting");
        machine.open().expect("guard");
        assert_eq!(machine.value(&THRESH), "10");
    }
}
