//! Debian's arm64 kernels: found by name, fetched by apt, kept in the cache.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::apt::{Apt, Update};
use crate::context::Context;
use crate::error::Error;
use crate::kernel::archive::{self, ArchiveKernel};
use crate::kernel::modules::SwapModules;
use crate::kernel::name::{DebianName, Which};
use crate::kernel::package;
use crate::kernel::store::{KernelStore, NewKernel, StoredKernel};
use crate::kernel::suites;

/// Number of kernels of one suite that are tried. A suite may list packages whose files are gone.
const TRIES: usize = 2;

/// Returns the Image of the kernel with this name.
///
/// An exact release is taken from the cache if it is there. So is a version such as `6.12`, even if there is a newer
/// kernel. A suite is asked for its newest kernel; without network, the one that was newest before is taken.
///
/// # Errors
///
/// The step that failed, see [`Error`].
pub fn get(name: &DebianName, store: &KernelStore, context: Context<'_>) -> Result<PathBuf, Error> {
    let cached = store.release_of(name).and_then(|release| store.find(&release, context));
    if let Some(image) = cached.as_ref().filter(|_| !matches!(name.which, Which::Suite(_))) {
        return Ok(image.clone());
    }
    match fetch_best(name, store, context) {
        Err(Error::Fetch { what, reason }) if cached.is_some() => {
            context.show(&format!("cannot fetch {what}: {reason}; taking debian:{name} from the cache"));
            cached.ok_or(Error::Fetch { what, reason })
        }
        result => result,
    }
}

/// Returns all kernels that the archive has, newest first.
///
/// # Errors
///
/// The step that failed, see [`Error`].
pub fn all(store: &KernelStore, context: Context<'_>) -> Result<Vec<ArchiveKernel>, Error> {
    let apt = prepare(store, context)?;
    let update = apt.update()?;
    let kernels = listed(&apt)?;
    if kernels.is_empty() {
        return Err(Error::Fetch { what: LISTS.into(), reason: update.first_error.unwrap_or_default() });
    }
    Ok(kernels)
}

const LISTS: &str = "Debian's package lists";

fn listed(apt: &Apt<'_>) -> Result<Vec<ArchiveKernel>, Error> {
    Ok(archive::kernels(&apt.packages(archive::may_hold_kernel)?))
}

fn prepare<'a>(store: &KernelStore, context: Context<'a>) -> Result<Apt<'a>, Error> {
    Apt::prepare(&store.apt_directory(), &suites::SCOPE, context)
}

/// Fetches the newest kernel that `name` means and that can be fetched.
fn fetch_best(name: &DebianName, store: &KernelStore, context: Context<'_>) -> Result<PathBuf, Error> {
    let apt = prepare(store, context)?;
    let update = apt.update()?;
    let kernels = listed(&apt)?;
    let meant = archive::meant(name, &kernels);
    let (mut first_error, mut failed) = (None, Vec::new());
    for kernel in meant {
        let suite = &kernel.package.suite;
        if failed.iter().filter(|failed| *failed == suite).count() == TRIES {
            continue;
        }
        if let Some(image) = store.find(&kernel.release, context) {
            store.set_name(name, &kernel.release)?;
            return Ok(image);
        }
        match fetch(kernel, &apt, store, context) {
            Ok(image) => {
                store.set_name(name, &kernel.release)?;
                return Ok(image);
            }
            Err(error @ Error::Fetch { .. }) => {
                context.show(&format!("{} is listed, but cannot be fetched", kernel.package.name));
                failed.push(suite.clone());
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first_error.unwrap_or_else(|| no_kernel(update, name, &kernels)))
}

/// Returns the error for a name without a kernel in the archive.
fn no_kernel(update: Update, name: &DebianName, kernels: &[ArchiveKernel]) -> Error {
    if let (Some(reason), true) = (update.first_error, kernels.is_empty()) {
        return Error::Fetch { what: LISTS.into(), reason };
    }
    let mut known: Vec<String> = Vec::new();
    for kernel in kernels {
        let mut parts = kernel.package.version.splitn(3, |c: char| !c.is_ascii_digit());
        let series = format!("{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if !known.contains(&series) {
            known.push(series);
        }
    }
    Error::NoKernel { name: name.to_string(), known: known.join(", ") }
}

/// Returns the modules for swap of a cached Image.
///
/// The Image may have been cached without modules. Then they are fetched. If that fails, the result gives the reason, and
/// the next call tries again.
///
/// # Errors
///
/// [`Error::Interrupted`] or [`Error::Cache`].
pub fn modules(image: &Path, store: &KernelStore, context: Context<'_>) -> Result<SwapModules, Error> {
    if let Some(modules) = store.find_modules(image) {
        return Ok(modules);
    }
    let Some(kernel) = store.facts(image) else {
        return Ok(SwapModules::Unavailable("the cache does not know its package".into()));
    };
    match fetch_modules(&kernel, store, context) {
        Ok(modules) => {
            store.store_modules(image, &modules)?;
            Ok(modules)
        }
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            let entry = image.parent().unwrap_or(image).display();
            let hint = format!("for the newest kernel, which has its modules, delete {entry}");
            Ok(SwapModules::Unavailable(format!("{error} ({hint})")))
        }
    }
}

fn fetch_modules(kernel: &StoredKernel, store: &KernelStore, context: Context<'_>) -> Result<SwapModules, Error> {
    let apt = prepare(store, context)?;
    let update = apt.update()?;
    let package = archive::modules_package(&kernel.package, &kernel.release);
    if apt.packages(|name| name == package)?.is_empty() {
        let reason = update.first_error.unwrap_or_else(|| "no suite has it any more".into());
        return Err(Error::Fetch { what: package, reason });
    }
    let (_directory, deb) = download(&package, &apt, store, context)?;
    package::unpack(&deb, &kernel.release, &mut io::sink(), &mut io::sink()).map(|unpacked| unpacked.modules)
}

/// Downloads a package into a temporary directory, which is deleted when the first part of the result is dropped.
fn download(
    package: &str,
    apt: &Apt<'_>,
    store: &KernelStore,
    context: Context<'_>,
) -> Result<(TempDir, PathBuf), Error> {
    context.show(&format!("fetching {package}"));
    let scratch = store.apt_directory();
    let directory = tempfile::tempdir_in(&scratch).map_err(|error| Error::Cache { path: scratch, error })?;
    let deb = apt.download(package, directory.path())?;
    context.show(&format!("unpacking {package}"));
    Ok((directory, deb))
}

/// Downloads a package and stores its kernel.
fn fetch(kernel: &ArchiveKernel, apt: &Apt<'_>, store: &KernelStore, context: Context<'_>) -> Result<PathBuf, Error> {
    let ArchiveKernel { release, package } = kernel;
    let (_directory, deb) = download(&format!("{}={}", package.name, package.version), apt, store, context)?;
    store.store(NewKernel { release, package: &package.name }, &mut |image| {
        let create = |path: &Path| File::create(path).map_err(|error| Error::Cache { path: path.to_path_buf(), error });
        let (mut output, mut config) = (create(image)?, create(&image.with_file_name("config"))?);
        let unpacked = package::unpack(&deb, release, &mut output, &mut config)?;
        if !unpacked.has_kernel {
            let reason = format!("there is no kernel {release} in it");
            return Err(Error::Unpack { what: package.name.clone(), reason });
        }
        let has_modules = archive::modules_package(&package.name, release) == package.name;
        Ok(has_modules.then_some(unpacked.modules))
    })
}
