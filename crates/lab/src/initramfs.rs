//! The initramfs: the static runner as /init, the manifest, mount points, and the user's files.
//!
//! It is uncompressed, and owners and times are constant, so two runs boot from the same bytes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cpio::newc::{self, Builder};

use crate::error::Error;
use crate::init::protocol::{MANIFEST_PATH, Manifest, RESULTS};
use crate::kernel::modules::Module;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN_FILE: u32 = 0o100_644;
/// Permission of any user to execute.
const ANY_EXECUTE: u32 = 0o111;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// /dev/console (Linux, Documentation/admin-guide/devices.txt).
const CONSOLE_DEVICE: (u32, u32) = (5, 1);

/// Directory with the modules that init loads.
const MODULES: &str = "modules";

/// A file or directory that is added to the lab's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    name: String,
    contents: Contents,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Contents {
    Directory,
    /// Type and permissions, and the bytes.
    File(u32, Vec<u8>),
}

impl File {
    /// Reads the file or directory at `path`. The initramfs has it under the same name, in the directory where the
    /// runner starts.
    ///
    /// # Errors
    ///
    /// [`Error::AddedFile`] if it cannot be read, or the lab itself uses its name.
    pub fn read(path: &Path) -> Result<Vec<Self>, Error> {
        let failed = |error| Error::AddedFile { path: path.to_path_buf(), error };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let taken = ["", "init", "dev", "proc", "sys", "tmp", MODULES, MANIFEST_PATH, RESULTS];
        if taken.iter().any(|taken| taken.trim_start_matches('/') == name) {
            return Err(failed(io::Error::other("the emulated host uses that name itself")));
        }
        let mut files = Vec::new();
        Self::gather(path, name, &mut files).map_err(failed)?;
        Ok(files)
    }

    /// Appends a file, or a directory and then its entries in the order of their names.
    fn gather(path: &Path, name: &str, files: &mut Vec<Self>) -> io::Result<()> {
        if !path.is_dir() {
            let is_program = fs::metadata(path)?.permissions().mode() & ANY_EXECUTE != 0;
            let mode = if is_program { PROGRAM } else { PLAIN_FILE };
            files.push(Self { name: name.into(), contents: Contents::File(mode, fs::read(path)?) });
            return Ok(());
        }
        files.push(Self { name: name.into(), contents: Contents::Directory });
        let mut inside: Vec<_> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
        inside.sort_by_key(fs::DirEntry::file_name);
        inside.iter().try_for_each(|entry| {
            let below = entry.file_name();
            let below = below.to_str().ok_or_else(|| io::Error::other("a name in it is no UTF-8"))?;
            Self::gather(&entry.path(), &format!("{name}/{below}"), files)
        })
    }

    /// Returns the file of a module that init loads.
    pub fn module(module: &Module) -> Self {
        let contents = Contents::File(PLAIN_FILE, module.contents.clone());
        Self { name: format!("{MODULES}/{}.ko", module.name), contents }
    }

    /// Returns the path in the emulated host.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }
}

/// Writes the archive.
///
/// # Errors
///
/// The first error of `output`.
pub fn write<W: io::Write>(mut output: W, runner: &[u8], manifest: &Manifest, files: &[File]) -> io::Result<W> {
    let mut inode = 0;
    let mut entry = |name: &str, mode: u32| {
        inode += 1;
        Builder::new(name).ino(inode).mode(mode).nlink(1).mtime(0)
    };
    for name in ["dev", "proc", "sys", "tmp", MODULES, RESULTS.trim_start_matches('/')] {
        output = entry(name, DIRECTORY).write(output, 0).finish()?;
    }
    let (major, minor) = CONSOLE_DEVICE;
    let console = entry("dev/console", CHARACTER_DEVICE).rdev_major(major).rdev_minor(minor);
    output = console.write(output, 0).finish()?;
    let manifest = serde_json::to_vec(manifest).map_err(io::Error::other)?;
    let own = [(MANIFEST_PATH.trim_start_matches('/'), PLAIN_FILE, manifest.as_slice()), ("init", PROGRAM, runner)];
    let given = files.iter().map(|file| match &file.contents {
        Contents::Directory => (file.name.as_str(), DIRECTORY, [].as_slice()),
        Contents::File(mode, bytes) => (file.name.as_str(), *mode, bytes.as_slice()),
    });
    for (name, mode, contents) in own.into_iter().chain(given) {
        let length = u32::try_from(contents.len()).map_err(io::Error::other)?;
        let mut file = entry(name, mode).write(output, length);
        io::Write::write_all(&mut file, contents)?;
        output = file.finish()?;
    }
    newc::trailer(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            argv: vec!["run".into(), "relax".into()],
            lab: Default::default(),
            swap: None,
            hooks: Default::default(),
        }
    }

    #[test]
    fn the_archive_is_the_same_every_time_and_readable() {
        let archive = write(Vec::new(), b"runner", &manifest(), &[]).expect("writing to memory works");
        assert_eq!(archive, write(Vec::new(), b"runner", &manifest(), &[]).expect("writing to memory works"));
        let mut names = Vec::new();
        let mut rest: &[u8] = &archive;
        loop {
            let reader = newc::Reader::new(rest).expect("the archive parses");
            if reader.entry().is_trailer() {
                break;
            }
            assert_eq!((reader.entry().mtime(), reader.entry().uid()), (0, 0));
            names.push((reader.entry().name().to_string(), reader.entry().mode()));
            rest = reader.finish().expect("the entry is whole");
        }
        assert!(names.contains(&("init".into(), PROGRAM)), "{names:?}");
        assert!(names.contains(&("dev/console".into(), CHARACTER_DEVICE)), "{names:?}");
        assert!(names.contains(&("faultline-lab.json".into(), PLAIN_FILE)), "{names:?}");
    }

    #[test]
    fn a_directory_comes_before_its_entries() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let run = place.path().join("dead");
        fs::create_dir_all(run.join("sub")).expect("writable");
        fs::write(run.join("sub/b"), "b").expect("writable");
        fs::write(run.join("a"), "a").expect("writable");
        let files = File::read(&run).expect("readable");
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["dead", "dead/a", "dead/sub", "dead/sub/b"]);
        assert!(File::read(Path::new("/proc")).is_err(), "the name is taken");
    }

    #[test]
    fn a_program_stays_one() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("program");
        fs::write(&path, "").expect("writable");
        for (given, kept) in [(0o640, PLAIN_FILE), (0o700, PROGRAM)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(given)).expect("our own file");
            let files = File::read(&path).expect("readable");
            assert_eq!(files[0].contents, Contents::File(kept, Vec::new()));
        }
    }
}
