//! Copies a flat run directory out of the emulated host while it grows.
//!
//! A new file is copied whole under a temporary name and then renamed. So `result.json`, which the runner creates by
//! rename, is never incomplete outside. Later only the appended bytes are sent, because the runner writes its files by
//! appending or by rename, and never in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::init::protocol::{CONSOLE_FILE, OUTPUT_FILE, PARTIAL_FILE};

/// Length of the longest allowed file name, in bytes.
const NAME_MAX_BYTES: usize = 100;

/// Size of one write, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// The position of a write in a file outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The start of a file that is created or emptied.
    NewFile,
    /// An offset in bytes in an existing file.
    At(u64),
}

/// The files outside the emulated host. In tests, a directory takes their place.
pub trait OutsideFiles {
    /// Writes the chunks of `data` to the file `name` and returns the number of bytes written.
    ///
    /// # Errors
    ///
    /// The error of the write, or the first error of `data`.
    fn write(
        &mut self,
        name: &str,
        position: Position,
        data: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    ) -> io::Result<u64>;

    /// Renames a file, and replaces `to` if it exists.
    ///
    /// # Errors
    ///
    /// The error of the rename.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
}

/// The treatment of a file in the run directory, which depends on its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// It is copied under the same name.
    Export,
    /// It is skipped: it is a temporary file, which its writer will rename.
    Skip,
    /// It is refused: the name could lead out of the staging directory, or the lab itself uses it.
    Refuse,
}

/// Returns the treatment of a file with this name.
fn treatment(name: &str) -> Treatment {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let reserved = [".", "..", CONSOLE_FILE, OUTPUT_FILE];
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(plain) || reserved.contains(&name) {
        Treatment::Refuse
    } else if name.starts_with('.') || name.ends_with(".tmp") {
        Treatment::Skip
    } else {
        Treatment::Export
    }
}

/// A file of the run directory that has a copy outside.
#[derive(Debug, Clone, Copy)]
struct Exported {
    inode: u64,
    bytes: u64,
}

/// A file of init's own that grows.
#[derive(Debug, Default)]
struct Appended {
    /// Bytes that were sent, or none before the file exists outside.
    sent: Option<u64>,
    /// Bytes that could not be sent. The next call sends them first.
    left: Vec<u8>,
}

/// The copy of a run directory outside the emulated host.
#[derive(Debug)]
pub struct Exporter<F> {
    outside: F,
    directory: PathBuf,
    files: BTreeMap<String, Exported>,
    appended: BTreeMap<&'static str, Appended>,
    failures: BTreeSet<String>,
    new_failures: Vec<String>,
    disk_was_full: bool,
}

impl<F: OutsideFiles> Exporter<F> {
    /// Creates an exporter of `directory`, which need not exist yet.
    pub fn new(outside: F, directory: &Path) -> Self {
        Self {
            outside,
            directory: directory.to_path_buf(),
            files: BTreeMap::new(),
            appended: BTreeMap::new(),
            failures: BTreeSet::new(),
            new_failures: Vec::new(),
            disk_was_full: false,
        }
    }

    /// Writes a small file of init's own, which appears only when it is complete.
    ///
    /// # Errors
    ///
    /// The error of the write or the rename.
    pub fn put(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.outside.write(PARTIAL_FILE, Position::NewFile, &mut std::iter::once(Ok(contents.to_vec())))?;
        self.outside.rename(PARTIAL_FILE, name)
    }

    /// Appends `bytes` to a file of init's own. If they cannot be sent, the next call sends them.
    ///
    /// # Errors
    ///
    /// The error of the write.
    pub fn append(&mut self, name: &'static str, bytes: &[u8]) -> io::Result<()> {
        let file = self.appended.entry(name).or_default();
        file.left.extend(bytes);
        let position = file.sent.map_or(Position::NewFile, Position::At);
        match self.outside.write(name, position, &mut std::iter::once(Ok(file.left.clone()))) {
            Ok(sent) => {
                *file.sent.get_or_insert(0) += sent;
                file.left.clear();
                Ok(())
            }
            Err(error) => {
                self.disk_was_full |= error.kind() == io::ErrorKind::StorageFull;
                Err(error)
            }
        }
    }

    /// Copies everything that is new in the run directory.
    ///
    /// A file that cannot be copied does not stop the others. [`Exporter::take_failures`] reports it, once.
    pub fn sync(&mut self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        for name in names {
            match treatment(&name) {
                Treatment::Export => {
                    if let Err(error) = self.sync_file(&name) {
                        self.disk_was_full |= error.kind() == io::ErrorKind::StorageFull;
                        self.fail(format!("cannot copy {name}: {error}"));
                    }
                }
                Treatment::Skip => {}
                Treatment::Refuse => self.fail(format!("not copied, name not allowed: {name:?}")),
            }
        }
    }

    /// Returns the failures that are new since the last call, one line each.
    pub fn take_failures(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new_failures)
    }

    /// Tries once more to copy everything, and returns the failures that remain, one line each.
    pub fn finish(&mut self) -> Vec<String> {
        self.failures.clear();
        let late: Vec<_> =
            self.appended.iter().filter(|(_, file)| !file.left.is_empty()).map(|(name, _)| *name).collect();
        for name in late {
            if let Err(error) = self.append(name, &[]) {
                let bytes = self.appended.get(name).map_or(0, |file| file.left.len());
                self.fail(format!("cannot copy the last {bytes} bytes of {name}: {error}"));
            }
        }
        self.sync();
        self.failures.iter().cloned().collect()
    }

    /// Returns whether the disk outside was full at any time.
    pub fn disk_was_full(&self) -> bool {
        self.disk_was_full
    }

    fn fail(&mut self, text: String) {
        if self.failures.insert(text.clone()) {
            self.new_failures.push(text);
        }
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        let path = self.directory.join(name);
        let metadata = fs::symlink_metadata(&path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a plain file"));
        }
        match self.files.get(name).copied() {
            Some(known) if known.inode == metadata.ino() && known.bytes == metadata.len() => Ok(()),
            Some(known) if known.inode == metadata.ino() && known.bytes < metadata.len() => {
                let mut file = File::open(&path)?;
                file.seek(SeekFrom::Start(known.bytes))?;
                let sent = self.outside.write(name, Position::At(known.bytes), &mut chunks(file))?;
                self.remember(name, metadata.ino(), known.bytes + sent);
                Ok(())
            }
            _ => {
                let sent = self.outside.write(PARTIAL_FILE, Position::NewFile, &mut chunks(File::open(&path)?))?;
                self.outside.rename(PARTIAL_FILE, name)?;
                self.remember(name, metadata.ino(), sent);
                Ok(())
            }
        }
    }

    fn remember(&mut self, name: &str, inode: u64, bytes: u64) {
        self.files.insert(name.to_string(), Exported { inode, bytes });
    }
}

fn chunks(mut file: File) -> impl Iterator<Item = io::Result<Vec<u8>>> {
    std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(Ok(chunk)),
            Err(error) => Some(Err(error)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// A directory in place of the files outside.
    struct Directory(PathBuf);

    impl OutsideFiles for Directory {
        fn write(
            &mut self,
            name: &str,
            position: Position,
            data: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
        ) -> io::Result<u64> {
            let path = self.0.join(name);
            let (file, start) = match position {
                Position::NewFile => (File::create(path)?, 0),
                Position::At(offset) => (File::options().write(true).open(path)?, offset),
            };
            let mut written = 0;
            for chunk in data {
                let chunk = chunk?;
                file.write_all_at(&chunk, start + written)?;
                written += chunk.len() as u64;
            }
            Ok(written)
        }

        fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
            fs::rename(self.0.join(from), self.0.join(to))
        }
    }

    /// A run directory, and an exporter of it into a directory.
    struct Setup {
        base: tempfile::TempDir,
        exporter: Exporter<Directory>,
    }

    impl Setup {
        fn new() -> Self {
            let base = tempfile::tempdir().expect("a temporary directory");
            fs::create_dir(base.path().join("outside")).expect("a fresh directory");
            let exporter = Exporter::new(Directory(base.path().join("outside")), &base.path().join("run"));
            Self { base, exporter }
        }

        fn run(&self, name: &str) -> PathBuf {
            self.base.path().join("run").join(name)
        }

        fn outside(&self, name: &str) -> Option<Vec<u8>> {
            fs::read(self.base.path().join("outside").join(name)).ok()
        }
    }

    #[test]
    fn appended_bytes_are_sent_and_replaced_files_are_copied_again() {
        let mut setup = Setup::new();
        setup.exporter.sync();
        fs::create_dir(setup.run("")).expect("a fresh directory");
        let mut expected = Vec::new();
        for round in 0..4u8 {
            expected.extend(vec![round; CHUNK_BYTES + 7]);
            fs::write(setup.run("journal.jsonl"), &expected).expect("writable");
            setup.exporter.sync();
            assert_eq!(setup.outside("journal.jsonl").as_ref(), Some(&expected));
        }
        fs::write(setup.run("new.tmp"), b"other").expect("writable");
        setup.exporter.sync();
        assert_eq!(setup.outside("new.tmp"), None);
        fs::rename(setup.run("new.tmp"), setup.run("journal.jsonl")).expect("renameable");
        setup.exporter.sync();
        assert_eq!(setup.outside("journal.jsonl").as_deref(), Some(&b"other"[..]));
        assert!(setup.exporter.take_failures().is_empty());
    }

    #[test]
    fn a_failure_is_reported_once_and_stops_nothing() {
        let mut setup = Setup::new();
        fs::create_dir_all(setup.run("deep")).expect("a fresh directory");
        fs::write(setup.run("a b"), b"x").expect("writable");
        std::os::unix::fs::symlink("/etc/passwd", setup.run("link")).expect("linkable");
        fs::write(setup.run("samples"), b"x").expect("writable");
        setup.exporter.sync();
        assert_eq!(setup.exporter.take_failures().len(), 3);
        setup.exporter.sync();
        assert_eq!(setup.exporter.take_failures().len(), 0);
        assert_eq!(setup.outside("samples").as_deref(), Some(&b"x"[..]));
        assert_eq!(setup.outside("link"), None);
    }

    #[test]
    fn a_small_file_appears_under_its_name_alone() {
        let mut setup = Setup::new();
        setup.exporter.put(".exit", b"done").expect("writable");
        assert_eq!((setup.outside(".exit").as_deref(), setup.outside(PARTIAL_FILE)), (Some(&b"done"[..]), None));
    }

    #[test]
    fn a_full_disk_is_remembered() {
        let mut exporter = Exporter::new(Directory("/dev".into()), Path::new("/nonexistent"));
        assert!(!exporter.disk_was_full());
        let error = exporter.append("full", b"x").expect_err("full(4)");
        assert!(error.kind() == io::ErrorKind::StorageFull && exporter.disk_was_full());
    }

    #[test]
    fn output_is_appended() {
        let mut setup = Setup::new();
        setup.exporter.append(OUTPUT_FILE, b"one ").expect("writable");
        setup.exporter.append(OUTPUT_FILE, b"two").expect("writable");
        assert_eq!(setup.outside(OUTPUT_FILE).as_deref(), Some(&b"one two"[..]));
    }

    #[test]
    fn names_stay_inside_the_staging_directory() {
        for name in ["result.json", "samples", "kmsg.raw", "environment-2.json"] {
            assert_eq!(treatment(name), Treatment::Export, "{name}");
        }
        for name in ["", ".", "..", "../x", "a/b", "a b", "x\n", "console.log", "output.log", &"x".repeat(101)] {
            assert_eq!(treatment(name), Treatment::Refuse, "{name}");
        }
        for name in [".exit", ".hidden", "result.json.tmp"] {
            assert_eq!(treatment(name), Treatment::Skip, "{name}");
        }
    }

    #[test]
    fn output_has_no_gap_after_a_failure() {
        let base = tempfile::tempdir().unwrap();
        let (there, away) = (base.path().join("there"), base.path().join("away"));
        fs::create_dir(&away).unwrap();
        let mut exporter = Exporter::new(Directory(there.clone()), &base.path().join("run"));
        assert!(exporter.append(OUTPUT_FILE, b"one ").is_err());
        fs::rename(&away, &there).unwrap();
        exporter.append(OUTPUT_FILE, b"two ").unwrap();
        fs::rename(&there, &away).unwrap();
        assert!(exporter.append(OUTPUT_FILE, b"three").is_err());
        assert_eq!(exporter.finish().len(), 1);
        fs::rename(&away, &there).unwrap();
        assert!(exporter.finish().is_empty());
        assert_eq!(fs::read(there.join(OUTPUT_FILE)).unwrap(), b"one two three");
    }
}
