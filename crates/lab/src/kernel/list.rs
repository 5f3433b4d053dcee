//! The kernels that can be had by name, and those that are in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use hostfacts::interrupt::Interrupt;
use serde::Serialize;

use crate::cache;
use crate::context::Context;
use crate::error::Error;
use crate::kernel::archive::ArchiveKernel;
use crate::kernel::debian;
use crate::kernel::name::{DebianName, Flavour};
use crate::kernel::store::KernelStore;
use crate::progress::{Progress, Verbosity};

/// One of Debian's kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedKernel {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// Version of its package; none for a kernel that only the cache has.
    pub version: Option<String>,
    /// Suites that have it.
    pub suites: Vec<String>,
    /// Size of the download in bytes.
    pub download_bytes: Option<u64>,
    /// Size in the cache in bytes, with modules; none if it is not there.
    pub cached_bytes: Option<u64>,
    /// Names, such as `6.12`, that meant this kernel when they were last used.
    pub names: Vec<String>,
}

/// All kernels, and the size of what the lab built.
#[derive(Debug, Clone, Serialize)]
pub struct KernelList {
    /// Debian's kernels, newest first.
    pub kernels: Vec<ListedKernel>,
    /// Reason why the archive's kernels are not listed, if they are not.
    pub offline: Option<String>,
    /// The cache.
    pub cache: PathBuf,
    /// Number of kernels that were built from source.
    pub built: usize,
    /// Size of those kernels in bytes.
    pub built_bytes: u64,
    /// Size of the kernel sources, with their build directories, in bytes.
    pub source_bytes: u64,
}

/// Part of the cache that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Debian's kernels that no name means any more.
    Unused,
    /// All kernels, and the sources.
    All,
}

/// Returns the kernels of Debian's archive and of the cache. Only those that `wanted` may mean are listed, and without a
/// name the plain ones.
///
/// # Errors
///
/// The step that failed, see [`Error`]. An archive that cannot be reached is no error.
pub fn list(wanted: Option<&str>, cached_only: bool, verbosity: Verbosity) -> Result<KernelList, Error> {
    let wanted = wanted.map(|text| text.strip_prefix("debian:").unwrap_or(text));
    let parse = |text: &str| text.parse::<DebianName>().map_err(|_| Error::UnknownKernel(text.to_owned()));
    let wanted = wanted.map(parse).transpose()?;
    let interrupt = Interrupt::catch()?;
    let progress = Progress::new(verbosity, std::iter::empty());
    let line = progress.line("kernels");
    let context = Context { interrupt: &interrupt, progress: &|text| line.show(text) };
    let store = KernelStore::open(context)?;
    let archive = if cached_only { Ok(Vec::new()) } else { debian::all(&store, context) };
    line.finish();
    let (archive, offline) = match archive {
        Ok(kernels) => (kernels, None),
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let is_wanted = |kernel: &ArchiveKernel| match &wanted {
        Some(name) => name.matches(&kernel.release, &kernel.package.version, &kernel.package.suite),
        None => Flavour::of_release(&kernel.release) == Some(Flavour::Plain),
    };
    let mut kernels = of_archive(archive.iter().filter(|kernel| is_wanted(kernel)));
    let is_known = |release: &str| archive.iter().any(|kernel| kernel.release == release);
    let names = store.names();
    for (kernel, directory) in store.kernels() {
        let listed = kernels.iter_mut().find(|listed| listed.release == kernel.release);
        let listed = match listed {
            Some(listed) => listed,
            // The archive has it, but it is not wanted.
            None if is_known(&kernel.release) || (wanted.is_some() && !cached_only) => continue,
            None => kernels.push_mut(ListedKernel {
                release: kernel.release.clone(),
                version: None,
                suites: Vec::new(),
                download_bytes: None,
                cached_bytes: None,
                names: Vec::new(),
            }),
        };
        listed.cached_bytes = Some(bytes(&directory));
        let meant = names.iter().filter(|(_, release)| **release == kernel.release);
        listed.names = meant.map(|(name, _)| name.clone()).collect();
    }
    let cache = cache::directory()?;
    let policies = cache.join("policy");
    let built = fs::read_dir(&policies).into_iter().flatten().count();
    let (built_bytes, source_bytes) = (bytes(&policies), bytes(&cache.join("linux")));
    Ok(KernelList { kernels, offline, cache, built, built_bytes, source_bytes })
}

/// Returns the kernels of the archive, each once.
fn of_archive<'a>(archive: impl Iterator<Item = &'a ArchiveKernel>) -> Vec<ListedKernel> {
    let mut kernels: Vec<ListedKernel> = Vec::new();
    for ArchiveKernel { release, package } in archive {
        match kernels.iter_mut().find(|known| known.release == *release) {
            Some(known) => known.suites.push(package.suite.clone()),
            None => kernels.push(ListedKernel {
                release: release.clone(),
                version: Some(package.version.clone()),
                suites: vec![package.suite.clone()],
                download_bytes: Some(package.bytes),
                cached_bytes: None,
                names: Vec::new(),
            }),
        }
    }
    kernels
}

/// Removes kernels from the cache, and returns the directories and their sizes in bytes.
///
/// # Errors
///
/// [`Error::Cache`], [`Error::NoCache`] or [`Error::Interrupted`].
pub fn prune(what: Prune, dry_run: bool) -> Result<Vec<(PathBuf, u64)>, Error> {
    let interrupt = Interrupt::catch()?;
    let context = Context { interrupt: &interrupt, progress: &|_| () };
    let store = KernelStore::open(context)?;
    let mut removed = Vec::new();
    let names = store.names();
    for (kernel, directory) in store.kernels() {
        let is_meant = names.values().any(|release| *release == kernel.release);
        if what == Prune::Unused && is_meant {
            continue;
        }
        removed.push((directory.clone(), bytes(&directory)));
        if !dry_run {
            store.delete(&directory, &kernel.release)?;
        }
    }
    if what == Prune::All {
        for directory in ["policy", "linux"].map(|folder| cache::directory().map(|cache| cache.join(folder))) {
            let directory = directory?;
            if !directory.exists() {
                continue;
            }
            removed.push((directory.clone(), bytes(&directory)));
            if !dry_run {
                fs::remove_dir_all(&directory).map_err(|error| Error::Cache { path: directory, error })?;
            }
        }
    }
    Ok(removed)
}

/// Returns the size of all files below a directory in bytes.
fn bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
