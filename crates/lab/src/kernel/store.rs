//! The kernels in the cache. Each has one directory, which appears by rename and is checked at every use.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache;
use crate::context::Context;
use crate::digest::{Sum, sum};
use crate::error::Error;
use crate::kernel::module_files;
use crate::kernel::modules::SwapModules;
use crate::kernel::name::{DebianName, Which};

const IMAGE: &str = "Image";
/// Name of the file with the release that each name such as `6.12` meant last.
const NAMES: &str = "names.json";
/// Name of the file with the facts about a cached Image.
pub const FACTS: &str = "kernel.json";

/// Facts about a cached Image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKernel {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// The Debian package that it came from.
    pub package: String,
    /// Length of the Image in bytes.
    pub bytes: u64,
    /// SHA-256 of the Image, in hexadecimal.
    sha256: String,
}

/// The part of the cache that holds kernels. It is locked against other processes until it is dropped.
#[derive(Debug)]
pub struct KernelStore {
    root: PathBuf,
    _lock: File,
}

/// A kernel that is about to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewKernel<'a> {
    /// Release, as `uname -r` prints it.
    pub release: &'a str,
    /// The Debian package that it comes from.
    pub package: &'a str,
}

impl KernelStore {
    /// Opens the kernels in the user's cache, and waits for any other `faultline` that changes them.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`], [`Error::NoCache`] or [`Error::Interrupted`].
    pub fn open(context: Context<'_>) -> Result<Self, Error> {
        Self::open_at(&cache::directory()?, context)
    }

    fn open_at(base: &Path, context: Context<'_>) -> Result<Self, Error> {
        let root = base.join("kernels");
        fs::create_dir_all(&root).map_err(|error| Error::Cache { path: root.clone(), error })?;
        let lock = cache::lock(&root.join("lock"), context)?;
        Ok(Self { root, _lock: lock })
    }

    /// Returns the directory that holds the files of apt.
    pub fn apt_directory(&self) -> PathBuf {
        self.root.join("apt")
    }

    /// Returns the Image of a release, or none if it is absent or damaged.
    pub fn find(&self, release: &str, context: Context<'_>) -> Option<PathBuf> {
        let directory = self.directory_of(release)?;
        let facts = read_facts(&directory)?;
        let image = directory.join(IMAGE);
        let stored = Sum { bytes: facts.bytes, sha256: facts.sha256 };
        if File::open(&image).and_then(sum).is_ok_and(|found| found == stored) {
            return Some(image);
        }
        context.show(&format!("the cached {} is damaged: fetching it again", facts.release));
        None
    }

    /// Returns the directory that holds a release.
    fn directory_of(&self, release: &str) -> Option<PathBuf> {
        self.kernels().into_iter().find(|(kernel, _)| kernel.release == release).map(|(_, directory)| directory)
    }

    /// Returns the kernels, each with its directory.
    pub fn kernels(&self) -> Vec<(StoredKernel, PathBuf)> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|entry| entry.path());
        // A name with a dot belongs to a kernel that is about to be stored.
        let is_complete = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] != b'.');
        let kernels = entries.filter(is_complete).filter_map(|path| Some((read_facts(&path)?, path)));
        let mut kernels: Vec<_> = kernels.collect();
        kernels.sort_by(|(a, _), (b, _)| a.release.cmp(&b.release));
        kernels
    }

    /// Returns the release that a name means: the one in it, or else the one that it meant last.
    pub fn release_of(&self, name: &DebianName) -> Option<String> {
        match &name.which {
            Which::Release(release) => Some(release.clone()),
            _ => self.names().remove(&name.to_string()),
        }
    }

    /// Returns the releases that names meant last.
    pub fn names(&self) -> BTreeMap<String, String> {
        let text = fs::read(self.root.join(NAMES)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Records the release that a name means.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`].
    pub fn set_name(&self, name: &DebianName, release: &str) -> Result<(), Error> {
        if matches!(name.which, Which::Release(_)) {
            return Ok(());
        }
        let mut names = self.names();
        names.insert(name.to_string(), release.to_owned());
        self.write_names(&names)
    }

    fn write_names(&self, names: &BTreeMap<String, String>) -> Result<(), Error> {
        let (path, part) = (self.root.join(NAMES), self.root.join(".names.part"));
        let text = serde_json::to_vec_pretty(names).expect("plain texts");
        fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(|error| Error::Cache { path, error })
    }

    /// Deletes a kernel that [`kernels`](Self::kernels) returned.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`].
    pub fn delete(&self, directory: &Path, release: &str) -> Result<(), Error> {
        fs::remove_dir_all(directory).map_err(|error| Error::Cache { path: directory.to_owned(), error })?;
        let mut names = self.names();
        names.retain(|_, meant| meant != release);
        self.write_names(&names)
    }

    /// Returns the modules beside `image`, or none if they were never stored or a file is damaged.
    pub fn find_modules(&self, image: &Path) -> Option<SwapModules> {
        module_files::find(image.parent()?)
    }

    /// Returns the facts about an Image in this cache.
    pub fn facts(&self, image: &Path) -> Option<StoredKernel> {
        read_facts(image.parent()?)
    }

    /// Stores modules beside the Image that they belong to.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`].
    pub fn store_modules(&self, image: &Path, modules: &SwapModules) -> Result<(), Error> {
        let entry = image.parent().unwrap_or(&self.root);
        module_files::store(entry, modules).map_err(|error| Error::Cache { path: entry.into(), error })
    }

    /// Stores a kernel and returns its Image. `produce` writes the Image to the given path and returns the modules; none if
    /// they are elsewhere.
    ///
    /// The kernel replaces the one of the same release.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`], or the error of `produce`.
    pub fn store(
        &self,
        kernel: NewKernel<'_>,
        produce: &mut dyn FnMut(&Path) -> Result<Option<SwapModules>, Error>,
    ) -> Result<PathBuf, Error> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |error| Error::Cache { path, error }
        };
        let fresh = tempfile::Builder::new().prefix(".new-").tempdir_in(&self.root).map_err(failed(&self.root))?;
        let image = fresh.path().join(IMAGE);
        if let Some(modules) = produce(&image)? {
            module_files::store(fresh.path(), &modules).map_err(failed(fresh.path()))?;
        }
        let Sum { bytes, sha256 } = File::open(&image).and_then(sum).map_err(failed(&image))?;
        let NewKernel { release, package } = kernel;
        let facts = StoredKernel { release: release.to_string(), package: package.to_string(), bytes, sha256 };
        let text = serde_json::to_vec_pretty(&facts).expect("a plain struct serialises");
        fs::write(fresh.path().join(FACTS), text).map_err(failed(fresh.path()))?;
        let target = self.directory_of(release).unwrap_or_else(|| self.root.join(release));
        match fs::remove_dir_all(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&target)(error)),
            _ => {}
        }
        fs::rename(fresh.path(), &target).map_err(failed(&target))?;
        // The directory has a new name, so there is nothing to delete under the old one.
        let _ = fresh.keep();
        Ok(target.join(IMAGE))
    }
}

fn read_facts(directory: &Path) -> Option<StoredKernel> {
    serde_json::from_slice(&fs::read(directory.join(FACTS)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostfacts::interrupt::Interrupt;

    fn store_at(base: &Path) -> KernelStore {
        let interrupt = Interrupt::catch().expect("signals can be caught");
        let context = Context { interrupt: &interrupt, progress: &|_| () };
        KernelStore::open_at(base, context).expect("a fresh directory can be opened")
    }

    fn find(store: &KernelStore, shown: &dyn Fn(&str)) -> Option<PathBuf> {
        let interrupt = Interrupt::catch().expect("signals can be caught");
        store.find("6.1.0-9-arm64", Context { interrupt: &interrupt, progress: shown })
    }

    fn put(store: &KernelStore, contents: &[u8]) -> PathBuf {
        let mut produce = |path: &Path| {
            fs::write(path, contents).map_err(|error| Error::Results { path: path.into(), error })?;
            Ok(Some(SwapModules::Unavailable("a test".into())))
        };
        let kernel = NewKernel { release: "6.1.0-9-arm64", package: "linux-image" };
        store.store(kernel, &mut produce).expect("the directory is writable")
    }

    #[test]
    fn a_stored_kernel_is_found_by_its_release_and_its_names() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let store = store_at(base.path());
        let image = put(&store, b"kernel");
        assert_eq!(find(&store, &|_| {}), Some(image.clone()));
        let name: DebianName = "6.1".parse().expect("it is a name");
        assert_eq!(store.release_of(&name), None);
        store.set_name(&name, "6.1.0-9-arm64").expect("the directory is writable");
        assert_eq!(store.release_of(&name).as_deref(), Some("6.1.0-9-arm64"));
        assert_eq!(store.find_modules(&image), Some(SwapModules::Unavailable("a test".into())));
        let [(kernel, directory)] = &store.kernels()[..] else { panic!("there is one") };
        store.delete(directory, &kernel.release).expect("it can be deleted");
        assert_eq!((find(&store, &|_| {}), store.release_of(&name)), (None, None));
    }

    #[test]
    fn a_damaged_image_is_not_used_and_can_be_replaced() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let store = store_at(base.path());
        let image = put(&store, b"kernel");
        for damage in [&b"ker"[..], b"kerneL"] {
            fs::write(&image, damage).expect("the image can be overwritten");
            let shown = std::cell::Cell::new(false);
            assert_eq!(find(&store, &|_| shown.set(true)), None);
            assert!(shown.get(), "the user is told");
        }
        let image = put(&store, b"kernel two");
        assert_eq!(find(&store, &|_| {}), Some(image));
    }
}
