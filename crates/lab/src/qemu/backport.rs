//! A newer QEMU than Debian 12's, from its backports.
//!
//! Debian 12 has QEMU 7.2, whose CPU models all lack DIC. The newer QEMU is unpacked into the cache, with the libraries
//! that this machine lacks or has in a version that is too old. Nothing is installed.
//!
//! ```text
//! CACHE/qemu/10/usr/bin/qemu-system-aarch64   and all other files of the packages
//! CACHE/qemu/apt                              the package lists of the private apt
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apt::{self, Apt, Archive, Installed, Scope};
use crate::cache;
use crate::context::Context;
use crate::error::Error;
use crate::qemu::choice::OWN_QEMU;
use crate::qemu::emulator::{Emulator, PACKAGE};

/// The suite with the newer QEMU.
const SUITE: &str = "bookworm-backports";

/// The suites with the newer QEMU and its libraries.
const SCOPE: Scope = Scope {
    suites: &[
        (SUITE, Archive::Main),
        ("bookworm", Archive::Main),
        ("bookworm-updates", Archive::Main),
        ("bookworm-security", Archive::Security),
    ],
    architecture: None,
    installed: Installed::Machine,
};

/// Returns a QEMU of the major version `wanted` or newer. If the cache does not have it, it is fetched.
///
/// # Errors
///
/// [`Error::NoQemu`], [`Error::NoCache`], [`Error::Cache`] or [`Error::Interrupted`].
pub fn get(wanted: u32, context: Context<'_>) -> Result<Emulator, Error> {
    let root = cache::directory()?.join("qemu");
    fs::create_dir_all(&root).map_err(|error| Error::Cache { path: root.clone(), error })?;
    let _lock = cache::lock(&root.join("lock"), context)?;
    let tree = root.join(wanted.to_string());
    if let Ok(found) = unpacked(&tree, wanted) {
        return Ok(found);
    }
    let no_qemu = |error: Error| match error {
        Error::Interrupted | Error::NoQemu { .. } => error,
        error => Error::NoQemu { wanted, reason: error.to_string() },
    };
    fetch(&root, &tree, wanted, context).map_err(no_qemu)?;
    unpacked(&tree, wanted).map_err(no_qemu)
}

/// Returns the first number of an upstream version and the version, from a Debian version such as `1:10.0.2+ds-2`.
fn upstream(version: &str) -> Option<(u32, &str)> {
    let version = version.split_once(':').map_or(version, |(_, version)| version);
    let upstream = version.split(['+', '-', '~']).next()?;
    Some((upstream.split('.').next()?.parse().ok()?, upstream))
}

/// Returns the QEMU in `tree`, if it starts and is new enough.
fn unpacked(tree: &Path, wanted: u32) -> Result<Emulator, Error> {
    let emulator = Emulator::at(&tree.join("usr/bin").join(OWN_QEMU), libraries(tree))?;
    if emulator.major() >= wanted {
        return Ok(emulator);
    }
    Err(Error::NoQemu { wanted, reason: format!("Debian's {SUITE} has {}", emulator.version()) })
}

/// Returns the directories of `tree` in which packages put libraries: `lib/<architecture>-linux-gnu`.
fn libraries(tree: &Path) -> Vec<PathBuf> {
    let entries =
        ["usr/lib", "lib"].into_iter().flat_map(|folder| fs::read_dir(tree.join(folder)).into_iter().flatten());
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("-linux-gnu"))).collect()
}

/// Fetches the QEMU and unpacks it to `tree`, which appears only when it is complete.
///
/// Nothing is fetched if Debian's version is older than `wanted`.
fn fetch(root: &Path, tree: &Path, wanted: u32, context: Context<'_>) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Cache { path, error }
    };
    let apt = Apt::prepare(&root.join("apt"), &SCOPE, context)?;
    let update = apt.update()?;
    let packages = apt.packages(|name| name == PACKAGE)?;
    let newest =
        packages.iter().filter(|package| package.suite == SUITE).filter_map(|package| upstream(&package.version));
    if let Some((_, version)) = newest.max().filter(|(major, _)| *major < wanted) {
        return Err(Error::NoQemu { wanted, reason: format!("Debian's {SUITE} has {version}") });
    }
    let scratch = tempfile::Builder::new().prefix(".new-").tempdir_in(root).map_err(failed(root))?;
    context.show("fetching QEMU for this machine");
    let debs =
        apt.download_with_missing(PACKAGE, SUITE, &scratch.path().join("debs")).map_err(|error| match update {
            // Without lists, apt's own error is only that it does not know the package.
            apt::Update { first_error: Some(reason) } => Error::Fetch { what: "Debian's package lists".into(), reason },
            _ => error,
        })?;
    let fresh = scratch.path().join("tree");
    for deb in debs {
        context.show(&format!("unpacking {}", deb.file_name().unwrap_or_default().to_string_lossy()));
        context.interrupt.check()?;
        let done = Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&fresh).stdin(Stdio::null()).output();
        let done = done.map_err(|error| Error::Start { program: "dpkg-deb".into(), error })?;
        if !done.status.success() {
            let reason = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(Error::Unpack { what: deb.display().to_string(), reason });
        }
    }
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(tree)(error)),
        _ => {}
    }
    fs::rename(&fresh, tree).map_err(failed(tree))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_version_is_read() {
        assert_eq!(upstream("1:10.0.2+ds-2+deb13u1~bpo12+1"), Some((10, "10.0.2")));
        assert_eq!(upstream("7.2-1"), Some((7, "7.2")));
        assert_eq!(upstream("x"), None);
    }

    #[test]
    fn only_folders_of_an_architecture_have_libraries() {
        let tree = tempfile::tempdir().expect("a temporary directory");
        for folder in ["usr/lib/x86_64-linux-gnu", "usr/lib/ipxe", "lib/x86_64-linux-gnu"] {
            fs::create_dir_all(tree.path().join(folder)).expect("created");
        }
        let found = libraries(tree.path());
        assert_eq!(found, ["usr/lib", "lib"].map(|folder| tree.path().join(folder).join("x86_64-linux-gnu")));
    }
}
