//! Debian's arm64 kernels: found by series or release, fetched by apt, kept in the cache.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::apt::{Apt, Archive, Installed, Scope, Update};
use crate::context::Context;
use crate::error::Error;
use crate::kernel::modules::SwapModules;
use crate::kernel::package;
use crate::kernel::series::{PackageName, Series};
use crate::kernel::store::{KernelStore, NewKernel, StoredKernel};

/// The suites that have had Debian's kernels.
const SCOPE: Scope = Scope {
    suites: &[
        ("bookworm", Archive::Main),
        ("bookworm-updates", Archive::Main),
        ("bookworm-backports", Archive::Main),
        ("trixie", Archive::Main),
        ("bookworm-security", Archive::Security),
        ("trixie-security", Archive::Security),
    ],
    architecture: Some("arm64"),
    installed: Installed::Nothing,
};

/// Returns the Image of the newest kernel of a series. An Image in the cache is taken even if there is a newer kernel.
///
/// # Errors
///
/// The step that failed, see [`Error`].
pub fn newest_of_series(series: Series, store: &KernelStore, context: Context<'_>) -> Result<PathBuf, Error> {
    let key = format!("debian-{}", series.name());
    if let Some(image) = store.find(&key, context) {
        return Ok(image);
    }
    let apt = prepare(store, context)?;
    let update = apt.update()?;
    let PackageName { prefix, suffix } = series.package_name();
    let names = apt.package_names(prefix)?;
    let newest = names.iter().filter(|name| series.contains(name)).max_by(|a, b| natural_order(a, b));
    let package = newest.ok_or_else(|| no_package(update, format!("{prefix}*{suffix}")))?;
    fetch(package, &key, &apt, store, context)
}

/// Returns the Image of one exact release, from the cache if it is there.
///
/// # Errors
///
/// The step that failed, see [`Error`].
pub fn exact_release(release: &str, store: &KernelStore, context: Context<'_>) -> Result<PathBuf, Error> {
    let key = store.key_of_release(release).unwrap_or_else(|| release.to_string());
    if let Some(image) = store.find(&key, context) {
        return Ok(image);
    }
    let apt = prepare(store, context)?;
    let update = apt.update()?;
    let package = format!("linux-image-{release}-unsigned");
    if !apt.package_names(&package)?.contains(&package) {
        return Err(no_package(update, package));
    }
    fetch(&package, &key, &apt, store, context)
}

fn prepare<'a>(store: &KernelStore, context: Context<'a>) -> Result<Apt<'a>, Error> {
    Apt::prepare(&store.apt_directory(), &SCOPE, context)
}

fn no_package(update: Update, pattern: String) -> Error {
    match update.first_error {
        Some(reason) => Error::Fetch { what: "Debian's package lists".into(), reason },
        None => Error::NoPackage {
            pattern,
            suites: SCOPE.names(),
            hint: "Debian keeps only the latest releases; take debian:6.1 or debian:6.12, or a path".into(),
        },
    }
}

/// Returns the modules for swap of a cached Image.
///
/// An older `faultline` may have cached the Image without modules. Then they are taken from the same package. If that
/// package cannot be fetched, the result gives the reason, and the next call tries again.
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
    if !apt.package_names(&kernel.package)?.contains(&kernel.package) {
        return Err(no_package(update, kernel.package.clone()));
    }
    let (_directory, deb) = download(&kernel.package, &apt, store, context)?;
    package::unpack(&deb, &kernel.release, &mut io::sink(), &mut io::sink())
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

/// Downloads a package and stores its kernel under `key`.
fn fetch(package: &str, key: &str, apt: &Apt<'_>, store: &KernelStore, context: Context<'_>) -> Result<PathBuf, Error> {
    let release = package.trim_start_matches("linux-image-").trim_end_matches("-unsigned");
    let (_directory, deb) = download(package, apt, store, context)?;
    store.store(NewKernel { key, release, package }, &mut |image| {
        let create = |path: &Path| File::create(path).map_err(|error| Error::Cache { path: path.to_path_buf(), error });
        let (mut output, mut config) = (create(image)?, create(&image.with_file_name("config"))?);
        package::unpack(&deb, release, &mut output, &mut config)
    })
}

/// Compares two names. Sequences of digits compare as numbers, so 6.12.9 comes before 6.12.10.
fn natural_order(a: &str, b: &str) -> Ordering {
    fn next(text: &str) -> (Option<u64>, &str, &str) {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        if digits > 0 {
            return (text[..digits].parse().ok(), &text[..digits], &text[digits..]);
        }
        let letters = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
        (None, &text[..letters], &text[letters..])
    }
    let (mut a, mut b) = (a, b);
    while !a.is_empty() || !b.is_empty() {
        let ((number_a, text_a, rest_a), (number_b, text_b, rest_b)) = (next(a), next(b));
        let order = number_a.cmp(&number_b).then_with(|| text_a.cmp(text_b));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert_eq!(natural_order("6.1.0-9-arm64", "6.1.0-38-arm64"), Ordering::Less);
        assert_eq!(natural_order("6.12.95+deb12", "6.12.117+deb12"), Ordering::Less);
        assert_eq!(natural_order("6.12.115+deb13.1", "6.12.115+deb13"), Ordering::Greater);
        assert_eq!(natural_order("6.12.117", "6.12.117"), Ordering::Equal);
    }
}
