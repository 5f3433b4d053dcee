//! Debian's arm64 kernels.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Error;
use crate::apt::{Apt, Archive, Installed, Scope, Update};
use crate::cache::{Cache, Record};
use crate::modules::Supply;
use crate::package;
use crate::process::Interrupt;

/// Where Debian's kernels have been.
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

/// A line of Debian kernels that the lab follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// 6.1, before the fix.
    V6_1,
    /// 6.12, after the fix.
    V6_12,
    /// 6.12 with 16 KiB pages.
    V6_12Pages16K,
}

impl Series {
    /// Returns the series of a name as in `debian:NAME`.
    pub fn named(name: &str) -> Option<Self> {
        [Self::V6_1, Self::V6_12, Self::V6_12Pages16K].into_iter().find(|series| series.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_12Pages16K => "6.12-16k",
        }
    }

    /// Returns the beginning and the end of the package names.
    fn package(self) -> (&'static str, &'static str) {
        match self {
            Self::V6_1 => ("linux-image-6.1.0-", "-arm64-unsigned"),
            Self::V6_12 => ("linux-image-6.12.", "-arm64-unsigned"),
            Self::V6_12Pages16K => ("linux-image-6.12.", "-arm64-16k-unsigned"),
        }
    }

    /// Says whether `package` is a kernel of this series; other flavours (`cloud`, `rt`) are not.
    fn owns(self, package: &str) -> bool {
        let (head, tail) = self.package();
        package
            .strip_prefix(head)
            .and_then(|rest| rest.strip_suffix(tail))
            .is_some_and(|middle| !middle.is_empty() && !middle.contains('-'))
    }
}

/// Returns the Image of the newest kernel of a series, from the cache when there is one.
///
/// # Errors
///
/// Any step's; see [`Error`].
pub fn fetch_series(
    series: Series,
    cache: &Cache,
    interrupt: &Interrupt,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, Error> {
    let key = format!("debian-{}", series.name());
    if let Some(image) = cache.find(&key, progress) {
        return Ok(image);
    }
    let apt = prepare(cache, interrupt)?;
    let update = apt.update(progress)?;
    let (head, tail) = series.package();
    let names = apt.package_names(head)?;
    let newest = names.iter().filter(|name| series.owns(name)).max_by(|a, b| natural_order(a, b));
    let package = newest.ok_or_else(|| no_package(update, format!("{head}*{tail}")))?;
    store(&apt, cache, &key, package, progress)
}

/// Returns the Image of one exact release, from the cache when it is there.
///
/// # Errors
///
/// Any step's; see [`Error`].
pub fn fetch_release(
    release: &str,
    cache: &Cache,
    interrupt: &Interrupt,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, Error> {
    let key = cache.key_of_release(release).unwrap_or_else(|| release.to_string());
    if let Some(image) = cache.find(&key, progress) {
        return Ok(image);
    }
    let apt = prepare(cache, interrupt)?;
    let update = apt.update(progress)?;
    let package = format!("linux-image-{release}-unsigned");
    if !apt.package_names(&package)?.contains(&package) {
        return Err(no_package(update, package));
    }
    store(&apt, cache, &key, &package, progress)
}

fn prepare<'a>(cache: &Cache, interrupt: &'a Interrupt) -> Result<Apt<'a>, Error> {
    Apt::prepare(&cache.tool_directory("apt"), &SCOPE, interrupt)
}

fn no_package(update: Update, pattern: String) -> Error {
    match update.complaint {
        Some(reason) => Error::Fetch { what: "Debian's package lists".into(), reason },
        None => Error::NoPackage {
            pattern,
            suites: SCOPE.names(),
            hint: "Debian keeps only the latest releases; take debian:6.1 or debian:6.12, or a path".into(),
        },
    }
}

/// Returns the modules for swap of an Image in the cache. Entries of a time when nobody wanted them are completed from
/// the same package; where that cannot be had, that is the answer, and the next run asks again.
///
/// # Errors
///
/// [`Error::Interrupted`] or [`Error::Cache`].
pub fn modules(image: &Path, cache: &Cache, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<Supply, Error> {
    if let Some(supply) = cache.find_modules(image) {
        return Ok(supply);
    }
    let Some(record) = cache.record(image) else {
        return Ok(Supply::Nothing("the cache does not know its package".into()));
    };
    match fetch_modules(&record, cache, interrupt, progress) {
        Ok(supply) => {
            cache.store_modules(image, &supply)?;
            Ok(supply)
        }
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            let newest = image.parent().unwrap_or(image).display();
            Ok(Supply::Nothing(format!("{error} (for the newest kernel, which has its modules, delete {newest})")))
        }
    }
}

fn fetch_modules(
    record: &Record,
    cache: &Cache,
    interrupt: &Interrupt,
    progress: &dyn Fn(&str),
) -> Result<Supply, Error> {
    let apt = prepare(cache, interrupt)?;
    let update = apt.update(progress)?;
    if !apt.package_names(&record.package)?.contains(&record.package) {
        return Err(no_package(update, record.package.clone()));
    }
    let (_directory, deb) = download(&apt, cache, &record.package, progress)?;
    package::unpack(&deb, &record.release, &mut io::sink())
}

/// Downloads a package into a directory that is deleted when the first of the results is dropped.
fn download(apt: &Apt<'_>, cache: &Cache, package: &str, progress: &dyn Fn(&str)) -> Result<(TempDir, PathBuf), Error> {
    progress(&format!("fetching {package}"));
    let scratch = cache.tool_directory("apt");
    let directory = tempfile::tempdir_in(&scratch).map_err(|error| Error::Cache { path: scratch, error })?;
    let deb = apt.download(package, directory.path())?;
    progress(&format!("unpacking {package}"));
    Ok((directory, deb))
}

/// Downloads a package and stores its kernel.
fn store(apt: &Apt<'_>, cache: &Cache, key: &str, package: &str, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    let release = package.trim_start_matches("linux-image-").trim_end_matches("-unsigned");
    let (_directory, deb) = download(apt, cache, package, progress)?;
    cache.store(key, release, package, &mut |image| {
        let mut output = File::create(image).map_err(|error| Error::Cache { path: image.to_path_buf(), error })?;
        package::unpack(&deb, release, &mut output)
    })
}

/// Compares names with their runs of digits as numbers: 6.12.9 comes before 6.12.10.
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
    fn only_plain_flavours_belong_to_a_series() {
        assert!(Series::V6_1.owns("linux-image-6.1.0-56-arm64-unsigned"));
        assert!(Series::V6_12.owns("linux-image-6.12.117+deb12-arm64-unsigned"));
        assert!(Series::V6_12Pages16K.owns("linux-image-6.12.117+deb12-arm64-16k-unsigned"));
        for other in [
            "linux-image-6.1.0-56-rt-arm64-unsigned",
            "linux-image-6.1.0-56-arm64",
            "linux-image-6.1.0--arm64-unsigned",
        ] {
            assert!(!Series::V6_1.owns(other), "{other}");
        }
        assert!(!Series::V6_12.owns("linux-image-6.12.117+deb12-arm64-16k-unsigned"));
        assert!(!Series::V6_12.owns("linux-image-6.12.117+deb12-cloud-arm64-unsigned"));
    }

    #[test]
    fn newest_is_by_number() {
        assert_eq!(natural_order("6.1.0-9-arm64", "6.1.0-38-arm64"), Ordering::Less);
        assert_eq!(natural_order("6.12.95+deb12", "6.12.117+deb12"), Ordering::Less);
        assert_eq!(natural_order("6.12.115+deb13.1", "6.12.115+deb13"), Ordering::Greater);
        assert_eq!(natural_order("6.12.117", "6.12.117"), Ordering::Equal);
    }
}
