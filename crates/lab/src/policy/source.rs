//! The source of policy kernels: Debian's package, or a tree of the user's.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apt::Apt;
use crate::context::Context;
use crate::error::Error as LabError;
use crate::kernel::suites;
use crate::policy::error::{Error, io_error};
use crate::policy::spec::SourceVersion;
use crate::policy::toolchain;
use crate::policy::tree::{Tree, files, lock};
use crate::process::pipe;

/// The origin of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Debian's linux-source of a version, fetched once by a private apt and kept as it is.
    Debian(SourceVersion),
    /// A kernel tree of the user's, which is copied and never written to.
    Tree(PathBuf),
}

impl Source {
    /// Returns the tree in `cache`. If it is not there yet, it is unpacked or copied.
    ///
    /// # Errors
    ///
    /// The step that failed, see [`Error`].
    pub fn tree(&self, cache: &Path, context: Context<'_>) -> Result<Tree, Error> {
        let trees = cache.join("linux");
        fs::create_dir_all(&trees).map_err(io_error("create", &trees))?;
        let _lock = lock(&trees.join("lock"), context)?;
        match self {
            Self::Debian(version) => debian(*version, &trees, context),
            Self::Tree(original) => copy(original, &trees, context),
        }
    }
}

/// Returns Debian's source. The package that was fetched first stays, so results stay comparable and later calls need no
/// network.
fn debian(version: SourceVersion, trees: &Path, context: Context<'_>) -> Result<Tree, Error> {
    let name = format!("linux-source-{version}");
    let chosen = trees.join(format!("{name}.version"));
    let tree =
        |package: &str| Tree { id: format!("{name} {package}"), version, folder: trees.join(folder_name(package)) };
    if let Ok(package) = fs::read_to_string(&chosen) {
        let tree = tree(&package);
        if tree.folder.join("src").exists() {
            return Ok(tree);
        }
    }
    let fetch = |error: LabError| Error::Fetch { package: name.clone(), reason: error.to_string() };
    let apt = Apt::prepare(&trees.join("apt"), &suites::SCOPE, context).map_err(fetch)?;
    let update = apt.update().map_err(fetch)?;
    let mut packages = apt.packages(|package| package == name).map_err(fetch)?;
    // A text that is no version comes last.
    packages.sort_by_cached_key(|package| std::cmp::Reverse(package.version.parse::<debversion::Version>().ok()));
    let mut failed = update.first_error.unwrap_or_else(|| "Debian has no source of that version".into());
    let scratch = tempfile::tempdir_in(trees).map_err(io_error("create a folder in", trees))?;
    for package in packages {
        context.show(&format!("fetching {name} {}", package.version));
        // A suite may list packages whose files are gone.
        let deb = match apt.download(&format!("{name}={}", package.version), scratch.path()) {
            Ok(deb) => deb,
            Err(LabError::Interrupted) => return Err(fetch(LabError::Interrupted)),
            Err(error) => {
                failed = error.to_string();
                continue;
            }
        };
        let tree = tree(&package.version);
        let src = tree.folder.join("src");
        if !src.exists() {
            context.show("unpacking the kernel source");
            unpack(&deb, &name, &src)?;
        }
        fs::write(&chosen, &package.version).map_err(io_error("write", &chosen))?;
        return Ok(tree);
    }
    Err(Error::Fetch { package: name, reason: failed })
}

/// Returns the version of a kernel tree, from its Makefile.
fn version_of(tree: &Path) -> Result<SourceVersion, Error> {
    let path = tree.join("Makefile");
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
        value.and_then(|value| value.trim().parse().ok())
    };
    match (number("VERSION"), number("PATCHLEVEL")) {
        (Some(major), Some(minor)) => Ok(SourceVersion(major, minor)),
        _ => Err(Error::NotLinux(tree.to_owned())),
    }
}

/// Returns `version` without the characters that make or a shell might misread.
fn folder_name(version: &str) -> String {
    version.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect()
}

/// Unpacks the tarball inside the package `deb` into `src`, which appears only when it is complete.
fn unpack(deb: &Path, name: &str, src: &Path) -> Result<(), Error> {
    into(src, |part| {
        let mut package = Command::new("dpkg-deb");
        package.arg("--fsys-tarfile").arg(deb);
        let mut tarball = Command::new("tar");
        tarball.args(["-xO", "-f", "-"]).arg(format!("./usr/src/{name}.tar.xz"));
        let mut files = Command::new("tar");
        files.args(["-xJ", "--strip-components=1", "-f", "-", "-C"]).arg(part);
        pipe([package, tarball, files])
    })
}

/// Copies the user's tree, without its history and without the files that were built in it.
///
/// If the tree has changed since the last copy, the new copy replaces the old one.
fn copy(original: &Path, trees: &Path, context: Context<'_>) -> Result<Tree, Error> {
    let original = original.canonicalize().map_err(io_error("open", original))?;
    if !original.join("arch/arm64/kvm/mmu.c").exists() {
        return Err(Error::NotLinux(original));
    }
    let family = format!("tree-{:016x}-", hash(&original));
    let state = fingerprint(&original)?;
    let version = version_of(&original)?;
    let tree = Tree { id: format!("tree {state}"), version, folder: trees.join(format!("{family}{state}")) };
    let src = tree.folder.join("src");
    if src.exists() {
        return Ok(tree);
    }
    context.show(&format!("copying {}", original.display()));
    for entry in fs::read_dir(trees).map_err(io_error("read", trees))? {
        let entry = entry.map_err(io_error("read", trees))?;
        if entry.file_name().to_string_lossy().starts_with(&family) {
            // Another process may build in the old copy.
            let _lock = lock(&entry.path().join("lock"), context)?;
            fs::remove_dir_all(entry.path()).map_err(io_error("remove", &entry.path()))?;
        }
    }
    into(&src, |part| {
        let mut pack = Command::new("tar");
        pack.arg("-C").arg(&original).args(["--exclude=./.git", "-cf", "-", "."]);
        let mut files = Command::new("tar");
        files.arg("-C").arg(part).args(["-xf", "-"]);
        pipe([pack, files])?;
        // make refuses to build outside a source that contains built files.
        let mut clean = toolchain::make();
        clean.arg("-C").arg(part).args(["-s", "ARCH=arm64", "mrproper"]).stdout(Stdio::null());
        pipe([clean])
    })?;
    Ok(tree)
}

/// Returns a hash of the path, size and time of every file.
fn fingerprint(tree: &Path) -> Result<String, Error> {
    let mut files = files(tree)?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        let path = tree.join(&file);
        let about = fs::symlink_metadata(&path).map_err(io_error("read", &path))?;
        (file, about.size(), about.mtime(), about.mtime_nsec()).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Calls `fill` with a directory beside `target`, and renames it to `target` if that succeeded.
fn into(target: &Path, fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), Error> {
    let part = target.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).map_err(io_error("remove", &part))?;
    }
    fs::create_dir_all(&part).map_err(io_error("create", &part))?;
    fill(&part).map_err(|reason| Error::Unpack { into: target.to_owned(), reason })?;
    fs::rename(&part, target).map_err(io_error("rename", &part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostfacts::interrupt::Interrupt;

    #[test]
    fn a_folder_that_is_no_kernel_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = Source::Tree(folder.path().to_owned());
        let interrupt = Interrupt::catch().expect("signals can be caught");
        let context = Context { interrupt: &interrupt, progress: &|_| () };
        assert!(matches!(source.tree(folder.path(), context), Err(Error::NotLinux(_))));
    }

    #[test]
    fn the_makefile_has_the_version() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let makefile = folder.path().join("Makefile");
        fs::write(&makefile, "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\n").expect("written");
        assert_eq!(version_of(folder.path()).expect("there"), SourceVersion(7, 3));
        fs::write(&makefile, "all:\n").expect("written");
        assert!(matches!(version_of(folder.path()), Err(Error::NotLinux(_))));
    }

    #[test]
    fn a_version_becomes_a_folder_name() {
        assert_eq!(folder_name("6.12.1-1~bpo12+1"), "6.12.1-1_bpo12_1");
    }
}
