//! Mirrors a flat run directory to the host, as it grows.
//!
//! A file seen for the first time is copied whole under a temporary name and renamed, so that `result.json`, which
//! the runner also creates by rename, never exists half on the host. After that only what was appended is sent: run
//! files are written by appending or by rename, never in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::guest::{CONSOLE_FILE, OUTPUT_FILE};

/// Temporary name of a file that is being copied whole.
pub const PARTIAL_FILE: &str = ".part";

/// Longest file name that is carried, in bytes.
const NAME_MAX_BYTES: usize = 100;

/// Size of one write to the host, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Where in a host file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a new or emptied file.
    Fresh,
    /// In an existing file, from this offset in bytes.
    At(u64),
}

/// The few things that the courier does on the host, so that tests can stand in for the emulator.
pub trait HostFiles {
    /// Writes the chunks of `data` to the file `name` and returns the number of bytes written.
    ///
    /// # Errors
    ///
    /// The host's error, or the first error of `data`.
    fn write(
        &mut self,
        name: &str,
        place: Place,
        data: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    ) -> io::Result<u64>;

    /// Renames a host file, replacing `to`.
    ///
    /// # Errors
    ///
    /// The host's error.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
}

/// Whether a file in the run directory goes to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carry {
    /// It does, under the same name.
    Yes,
    /// It is somebody's temporary file and will be renamed.
    Temporary,
    /// The name could leave the staging directory, or belongs to the lab itself.
    Refused,
}

/// Judges a file name of the run directory.
pub fn judge_name(name: &str) -> Carry {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let reserved = [".", "..", CONSOLE_FILE, OUTPUT_FILE];
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(plain) || reserved.contains(&name) {
        Carry::Refused
    } else if name.starts_with('.') || name.ends_with(".tmp") {
        Carry::Temporary
    } else {
        Carry::Yes
    }
}

#[derive(Debug, Clone, Copy)]
struct Mirrored {
    inode: u64,
    bytes: u64,
}

/// A file of the lab's own that grows.
#[derive(Debug, Default)]
struct Appended {
    /// Bytes that the host has, once it has the file.
    sent: Option<u64>,
    /// What could not be sent yet; it goes with what comes next.
    left: Vec<u8>,
}

/// The state of the mirror: which files the host has, and how much of each.
#[derive(Debug)]
pub struct Courier<H> {
    host: H,
    directory: PathBuf,
    files: BTreeMap<String, Mirrored>,
    appended: BTreeMap<&'static str, Appended>,
    complaints: BTreeSet<String>,
    untold: Vec<String>,
    host_was_full: bool,
}

impl<H: HostFiles> Courier<H> {
    /// Creates a courier that will mirror `directory`, which need not exist yet.
    pub fn new(host: H, directory: &Path) -> Self {
        Self {
            host,
            directory: directory.to_path_buf(),
            files: BTreeMap::new(),
            appended: BTreeMap::new(),
            complaints: BTreeSet::new(),
            untold: Vec::new(),
            host_was_full: false,
        }
    }

    /// Puts a small file of the lab's own on the host, whole or not at all.
    ///
    /// # Errors
    ///
    /// The host's error.
    pub fn put(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.host.write(PARTIAL_FILE, Place::Fresh, &mut std::iter::once(Ok(contents.to_vec())))?;
        self.host.rename(PARTIAL_FILE, name)
    }

    /// Appends `bytes` to a file of the lab's own; what cannot be sent is kept for the next time.
    ///
    /// # Errors
    ///
    /// The host's error.
    pub fn append(&mut self, name: &'static str, bytes: &[u8]) -> io::Result<()> {
        let file = self.appended.entry(name).or_default();
        file.left.extend(bytes);
        let place = file.sent.map_or(Place::Fresh, Place::At);
        match self.host.write(name, place, &mut std::iter::once(Ok(file.left.clone()))) {
            Ok(sent) => {
                *file.sent.get_or_insert(0) += sent;
                file.left.clear();
                Ok(())
            }
            Err(error) => {
                self.host_was_full |= error.kind() == io::ErrorKind::StorageFull;
                Err(error)
            }
        }
    }

    /// Brings the host up to date with every file of the run directory.
    ///
    /// A file that cannot be carried does not stop the others; it is told by [`Courier::take_complaints`], once.
    pub fn sync(&mut self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        for name in names {
            match judge_name(&name) {
                Carry::Yes => {
                    if let Err(error) = self.sync_file(&name) {
                        self.host_was_full |= error.kind() == io::ErrorKind::StorageFull;
                        self.complain(format!("cannot carry {name}: {error}"));
                    }
                }
                Carry::Temporary => {}
                Carry::Refused => self.complain(format!("not carried, name not allowed: {name:?}")),
            }
        }
    }

    /// Returns the complaints that are new since the last call.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.untold)
    }

    /// Tries once more to carry everything, and returns what is missing on the host then, one line each.
    pub fn finish(&mut self) -> Vec<String> {
        self.complaints.clear();
        let late: Vec<_> =
            self.appended.iter().filter(|(_, file)| !file.left.is_empty()).map(|(name, _)| *name).collect();
        for name in late {
            if let Err(error) = self.append(name, &[]) {
                let bytes = self.appended.get(name).map_or(0, |file| file.left.len());
                self.complain(format!("cannot carry the last {bytes} bytes of {name}: {error}"));
            }
        }
        self.sync();
        self.complaints.iter().cloned().collect()
    }

    /// Says whether the host ever had no space left.
    pub fn host_was_full(&self) -> bool {
        self.host_was_full
    }

    fn complain(&mut self, text: String) {
        if self.complaints.insert(text.clone()) {
            self.untold.push(text);
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
                let sent = self.host.write(name, Place::At(known.bytes), &mut chunks(file))?;
                self.note(name, metadata.ino(), known.bytes + sent);
                Ok(())
            }
            _ => {
                let sent = self.host.write(PARTIAL_FILE, Place::Fresh, &mut chunks(File::open(&path)?))?;
                self.host.rename(PARTIAL_FILE, name)?;
                self.note(name, metadata.ino(), sent);
                Ok(())
            }
        }
    }

    fn note(&mut self, name: &str, inode: u64, bytes: u64) {
        self.files.insert(name.to_string(), Mirrored { inode, bytes });
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

    /// A directory in place of the emulator's host.
    struct Directory(PathBuf);

    impl HostFiles for Directory {
        fn write(
            &mut self,
            name: &str,
            place: Place,
            data: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
        ) -> io::Result<u64> {
            let path = self.0.join(name);
            let (file, start) = match place {
                Place::Fresh => (File::create(path)?, 0),
                Place::At(offset) => (File::options().write(true).open(path)?, offset),
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

    struct Desk {
        base: tempfile::TempDir,
        courier: Courier<Directory>,
    }

    impl Desk {
        fn new() -> Self {
            let base = tempfile::tempdir().expect("a temporary directory");
            fs::create_dir(base.path().join("host")).expect("a fresh directory");
            let courier = Courier::new(Directory(base.path().join("host")), &base.path().join("run"));
            Self { base, courier }
        }

        fn run(&self, name: &str) -> PathBuf {
            self.base.path().join("run").join(name)
        }

        fn host(&self, name: &str) -> Option<Vec<u8>> {
            fs::read(self.base.path().join("host").join(name)).ok()
        }
    }

    #[test]
    fn growing_files_are_followed_and_replaced_ones_copied_again() {
        let mut desk = Desk::new();
        desk.courier.sync();
        fs::create_dir(desk.run("")).expect("a fresh directory");
        let mut expected = Vec::new();
        for round in 0..4u8 {
            expected.extend(vec![round; CHUNK_BYTES + 7]);
            fs::write(desk.run("journal.jsonl"), &expected).expect("writable");
            desk.courier.sync();
            assert_eq!(desk.host("journal.jsonl").as_ref(), Some(&expected));
        }
        fs::write(desk.run("new.tmp"), b"other").expect("writable");
        desk.courier.sync();
        assert_eq!(desk.host("new.tmp"), None);
        fs::rename(desk.run("new.tmp"), desk.run("journal.jsonl")).expect("renameable");
        desk.courier.sync();
        assert_eq!(desk.host("journal.jsonl").as_deref(), Some(&b"other"[..]));
        assert!(desk.courier.take_complaints().is_empty());
    }

    #[test]
    fn what_cannot_be_carried_is_told_once_and_stops_nothing() {
        let mut desk = Desk::new();
        fs::create_dir_all(desk.run("deep")).expect("a fresh directory");
        fs::write(desk.run("a b"), b"x").expect("writable");
        std::os::unix::fs::symlink("/etc/passwd", desk.run("link")).expect("linkable");
        fs::write(desk.run("samples"), b"x").expect("writable");
        desk.courier.sync();
        assert_eq!(desk.courier.take_complaints().len(), 3);
        desk.courier.sync();
        assert_eq!(desk.courier.take_complaints().len(), 0);
        assert_eq!(desk.host("samples").as_deref(), Some(&b"x"[..]));
        assert_eq!(desk.host("link"), None);
    }

    #[test]
    fn output_is_appended() {
        let mut desk = Desk::new();
        desk.courier.append(OUTPUT_FILE, b"one ").expect("writable");
        desk.courier.append(OUTPUT_FILE, b"two").expect("writable");
        assert_eq!(desk.host(OUTPUT_FILE).as_deref(), Some(&b"one two"[..]));
    }

    #[test]
    fn names_stay_inside_the_staging_directory() {
        for name in ["result.json", "samples", "kmsg.raw", "environment-2.json"] {
            assert_eq!(judge_name(name), Carry::Yes, "{name}");
        }
        for name in ["", ".", "..", "../x", "a/b", "a b", "x\n", "console.log", "output.log", &"x".repeat(101)] {
            assert_eq!(judge_name(name), Carry::Refused, "{name}");
        }
        for name in [".exit", ".hidden", "result.json.tmp"] {
            assert_eq!(judge_name(name), Carry::Temporary, "{name}");
        }
    }

    #[test]
    fn output_has_no_hole_where_the_host_was_away() {
        let host = tempfile::tempdir().unwrap();
        let (there, away) = (host.path().join("there"), host.path().join("away"));
        fs::create_dir(&away).unwrap();
        let mut courier = Courier::new(Directory(there.clone()), &host.path().join("run"));
        assert!(courier.append(OUTPUT_FILE, b"one ").is_err());
        fs::rename(&away, &there).unwrap();
        courier.append(OUTPUT_FILE, b"two ").unwrap();
        fs::rename(&there, &away).unwrap();
        assert!(courier.append(OUTPUT_FILE, b"three").is_err());
        assert_eq!(courier.finish().len(), 1);
        fs::rename(&away, &there).unwrap();
        assert!(courier.finish().is_empty());
        assert_eq!(fs::read(there.join(OUTPUT_FILE)).unwrap(), b"one two three");
    }
}
