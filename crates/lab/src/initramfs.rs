//! The initramfs: the static runner as /init, the manifest, and the directories to mount on.
//!
//! Uncompressed, and with constant owners and times, so that two runs boot from the same bytes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cpio::newc::{self, Builder};

use crate::Error;
use crate::guest::{MANIFEST_PATH, Manifest, RESULTS};
use crate::modules::Module;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN_FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// /dev/console (Linux, Documentation/admin-guide/devices.txt).
const CONSOLE_DEVICE: (u32, u32) = (5, 1);

/// ELF: `e_machine` of AArch64 and `p_type` of a dynamic loader's name (System V ABI; "ELF for the Arm 64-bit
/// Architecture").
const EM_AARCH64: u16 = 183;
const PT_INTERP: u32 = 3;

/// Where modules for init are.
const MODULES: &str = "modules";

/// A file or directory for the guest, beside the lab's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    name: String,
    contents: Contents,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Contents {
    Directory,
    Bytes(Vec<u8>),
}

impl File {
    /// Reads `path`, and what is in it if it is a directory; in the guest it has the same name, in the directory that the
    /// runner starts in.
    ///
    /// # Errors
    ///
    /// [`Error::GuestFile`] if it cannot be read, or its name is taken.
    pub fn read(path: &Path) -> Result<Vec<Self>, Error> {
        let failed = |error| Error::GuestFile { path: path.to_path_buf(), error };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let taken = ["", "init", "dev", "proc", "sys", "tmp", MODULES, MANIFEST_PATH, RESULTS];
        if taken.iter().any(|taken| taken.trim_start_matches('/') == name) {
            return Err(failed(io::Error::other("that name is taken in the guest")));
        }
        let mut files = Vec::new();
        Self::gather(path, name, &mut files).map_err(failed)?;
        Ok(files)
    }

    /// Adds a directory before what is in it, in the order of names.
    fn gather(path: &Path, name: &str, files: &mut Vec<Self>) -> io::Result<()> {
        if !path.is_dir() {
            files.push(Self { name: name.into(), contents: Contents::Bytes(fs::read(path)?) });
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

    /// Returns a module for init.
    pub fn module(module: &Module) -> Self {
        Self { name: format!("{MODULES}/{}.ko", module.name), contents: Contents::Bytes(module.contents.clone()) }
    }

    /// Returns the path inside the guest.
    pub fn guest_path(&self) -> String {
        format!("/{}", self.name)
    }
}

/// Writes the archive.
///
/// # Errors
///
/// Any error of `output`.
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
        Contents::Bytes(bytes) => (file.name.as_str(), PLAIN_FILE, bytes.as_slice()),
    });
    for (name, mode, contents) in own.into_iter().chain(given) {
        let length = u32::try_from(contents.len()).map_err(io::Error::other)?;
        let mut file = entry(name, mode).write(output, length);
        io::Write::write_all(&mut file, contents)?;
        output = file.finish()?;
    }
    newc::trailer(output)
}

/// Finds the static arm64 runner: `chosen`, $FAULTLINE_GUEST_RUNNER, this program if it is one, or what was built or
/// installed with it.
///
/// # Errors
///
/// [`Error::NoGuestRunner`] or [`Error::GuestRunnerKind`].
pub fn runner(chosen: Option<&Path>) -> Result<Vec<u8>, Error> {
    let named = chosen.map(Path::to_path_buf).or_else(set_runner);
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    if named.is_none()
        && cfg!(target_arch = "aarch64")
        && let Some(program) = fs::read(&own).ok().filter(|program| is_static_arm64(program))
    {
        return Ok(program);
    }
    let path = named.unwrap_or_else(|| with(&own));
    let program = fs::read(&path).map_err(|_| Error::NoGuestRunner(path.clone()))?;
    if is_static_arm64(&program) { Ok(program) } else { Err(Error::GuestRunnerKind(path)) }
}

fn set_runner() -> Option<PathBuf> {
    std::env::var_os("FAULTLINE_GUEST_RUNNER").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns where the guest's runner is, given this program's own place: installed, as released, or built.
fn with(own: &Path) -> PathBuf {
    let here = own.parent().unwrap_or(Path::new("."));
    let above = here.parent().unwrap_or(here);
    let places = [
        above.join("lib/faultline/faultline-aarch64"),
        here.join("faultline-aarch64"),
        above.join("aarch64-unknown-linux-musl/release/faultline"),
    ];
    // The last stands in the error: it is the one that can be made.
    let there = places.iter().find(|path| path.is_file()).or(places.last());
    there.cloned().unwrap_or_default()
}

fn is_static_arm64(program: &[u8]) -> bool {
    let field = |offset: usize, length: usize| program.get(offset..offset + length);
    let u16_at = |offset| field(offset, 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let header_ok = program.starts_with(b"\x7fELF\x02\x01") && u16_at(18) == Some(EM_AARCH64);
    let table = field(32, 8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")) as usize);
    let (Some(table), Some(size), Some(count)) = (table, u16_at(54), u16_at(56)) else { return false };
    let interpreted = (0..usize::from(count)).any(|index| {
        let start = table.saturating_add(index * usize::from(size));
        program.get(start..start.saturating_add(4)) == Some(PT_INTERP.to_le_bytes().as_slice())
    });
    header_ok && !interpreted
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
    fn archive_is_the_same_every_time_and_readable() {
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
    fn a_directory_comes_before_what_is_in_it() {
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

    fn elf(machine: u16, segment: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&segment.to_le_bytes());
        bytes
    }

    #[test]
    fn only_static_arm64_programs_can_be_init() {
        assert!(is_static_arm64(&elf(EM_AARCH64, 1)));
        assert!(!is_static_arm64(&elf(EM_AARCH64, PT_INTERP)));
        assert!(!is_static_arm64(&elf(62, 1)));
        assert!(!is_static_arm64(b"#!/bin/sh"));
        assert!(!is_static_arm64(&elf(EM_AARCH64, 1)[..40]));
    }

    #[test]
    fn the_runner_is_found_where_it_was_built_released_or_installed() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let own = root.path().join("bin/faultline");
        // Nearer ones come later here, and are found all the same.
        for place in
            ["aarch64-unknown-linux-musl/release/faultline", "bin/faultline-aarch64", "lib/faultline/faultline-aarch64"]
        {
            let path = root.path().join(place);
            assert!(place.starts_with("aarch64") == (with(&own) == path), "{place}");
            fs::create_dir_all(path.parent().expect("a file")).expect("writable");
            fs::write(&path, "").expect("writable");
            assert_eq!(with(&own), path);
        }
    }
}
