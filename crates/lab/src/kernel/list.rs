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
use crate::kernel::suites;
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

/// Returns the names of kernels, oldest first, that a text such as `5.10..latest`, `trixie-backports` or `debian:6.1,./Image`
/// means. A range has the newest kernel of each version in it; a suite has all of its kernels.
///
/// # Errors
///
/// A part has no known form, or the archive cannot be reached and the cache has none of its kernels.
pub fn expand(parts: &[String], verbosity: Verbosity) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for part in parts {
        let name = part.strip_prefix("debian:").unwrap_or(part);
        if let Some((from, to)) = part.split_once("..").filter(|_| !part.contains('/')) {
            names.extend(range(from, to, verbosity)?);
        } else if name != "latest" && suites::named(name).is_some() {
            let listed = list(Some(name), false, verbosity)?;
            names.extend(listed.kernels.iter().rev().map(|kernel| kernel.release.clone()));
        } else {
            // A version may be given as in a range.
            let is_name = !part.contains('/') && name.parse::<DebianName>().is_ok();
            names.push(if is_name { format!("debian:{name}") } else { part.clone() });
        }
    }
    Ok(names)
}

fn range(from: &str, to: &str, verbosity: Verbosity) -> Result<Vec<String>, Error> {
    let unknown = || Error::Kernels(format!("{from}..{to}"));
    let listed = list(None, false, verbosity)?;
    // Without the archive, the names that are in the cache tell the versions.
    let versions = listed.kernels.iter().filter_map(|kernel| series(kernel.version.as_deref()?));
    let cached = listed.kernels.iter().flat_map(|kernel| &kernel.names).filter_map(|name| series(name));
    let mut known: Vec<(u32, u32)> = versions.chain(cached).collect();
    known.sort_unstable();
    known.dedup();
    let newest = *known.last().ok_or_else(unknown)?;
    let end = |text: &str| match text.strip_prefix("debian:").unwrap_or(text) {
        "latest" => Ok(newest),
        text => series(text).ok_or_else(unknown),
    };
    let (first, last) = (end(from)?, end(to)?);
    let between: Vec<_> = known.into_iter().filter(|version| (first..=last).contains(version)).collect();
    if between.is_empty() {
        return Err(unknown());
    }
    Ok(between.into_iter().map(|(major, minor)| format!("debian:{major}.{minor}")).collect())
}

/// Returns the first two numbers of a version.
fn series(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_needs_no_archive() {
        let parts = ["6.1", "debian:latest", "./Image", "policy:by-line", "6.1.0-9-arm64"].map(str::to_owned);
        let names = expand(&parts, Verbosity::default()).expect("a list");
        assert_eq!(names, ["debian:6.1", "debian:latest", "./Image", "policy:by-line", "debian:6.1.0-9-arm64"]);
    }

    #[test]
    fn versions_have_two_numbers() {
        assert_eq!(series("7.1.13-1~bpo13+1"), Some((7, 1)));
        assert_eq!(series("7.3~rc7-1"), Some((7, 3)));
        assert_eq!(series("latest"), None);
    }
}
