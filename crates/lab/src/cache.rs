//! The kernels on this machine: one directory each, written by rename, checked at every use.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::modules::{self, Supply};
use crate::process::Interrupt;

const IMAGE: &str = "Image";
const RECORD: &str = "kernel.json";

/// What is known of a cached Image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// As `uname -r` gives it.
    pub release: String,
    /// The Debian package it came from.
    pub package: String,
    /// Length of the Image.
    pub bytes: u64,
    /// SHA-256 of the Image, in hexadecimal.
    pub sha256: String,
}

/// The cache, locked against other processes for as long as this lives.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    _lock: File,
}

/// Returns the cache directory: $FAULTLINE_CACHE, or `faultline` below $XDG_CACHE_HOME or ~/.cache.
///
/// # Errors
///
/// [`Error::NoCache`] when none of the variables is set.
pub fn directory() -> Result<PathBuf, Error> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FAULTLINE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("faultline")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/faultline")))
        // make and QEMU run in directories of their own.
        .and_then(|path| std::path::absolute(path).ok())
        .ok_or(Error::NoCache)
}

/// Waits for every other `faultline` to let go of the lock file at `path`; it is free again when the result is dropped.
///
/// # Errors
///
/// [`Error::Cache`] or [`Error::Interrupted`].
pub fn lock(path: &Path, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<File, Error> {
    let failed = |error| Error::Cache { path: path.to_owned(), error };
    let lock = File::create(path).map_err(failed)?;
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    progress("waiting for another faultline that is fetching");
                }
                interrupt.tick()?;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

impl Cache {
    /// Opens the cache of this user, waiting for any other `faultline` that is changing it.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`], [`Error::NoCache`] or [`Error::Interrupted`].
    pub fn open(interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<Self, Error> {
        Self::open_at(&directory()?, interrupt, progress)
    }

    /// Opens the cache in `base`.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`] or [`Error::Interrupted`].
    pub fn open_at(base: &Path, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<Self, Error> {
        let root = base.join("kernels");
        fs::create_dir_all(&root).map_err(|error| Error::Cache { path: root.clone(), error })?;
        let lock = lock(&root.join("lock"), interrupt, progress)?;
        Ok(Self { root, _lock: lock })
    }

    /// Returns a directory of the cache for the named tool's own files.
    pub fn tool_directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the Image stored under `key`, none when it is not there or not whole.
    pub fn find(&self, key: &str, progress: &dyn Fn(&str)) -> Option<PathBuf> {
        let directory = self.root.join(key);
        let record = read_record(&directory)?;
        let image = directory.join(IMAGE);
        if matches!(digest(&image), Ok((bytes, sha256)) if bytes == record.bytes && sha256 == record.sha256) {
            return Some(image);
        }
        progress(&format!("the cached {} is damaged: fetching it again", record.release));
        None
    }

    /// Returns the key under which a release is stored.
    pub fn key_of_release(&self, release: &str) -> Option<String> {
        let entries = fs::read_dir(&self.root).ok()?;
        let holds = |directory: &Path| read_record(directory).is_some_and(|record| record.release == release);
        entries.flatten().filter(|entry| holds(&entry.path())).find_map(|entry| entry.file_name().into_string().ok())
    }

    /// Returns the modules that are stored beside an Image; none if they are not there or not whole.
    pub fn find_modules(&self, image: &Path) -> Option<Supply> {
        modules::find(image.parent()?)
    }

    /// Returns what is known of an Image that was found here.
    pub fn record(&self, image: &Path) -> Option<Record> {
        read_record(image.parent()?)
    }

    /// Stores modules beside the Image that they are for.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`].
    pub fn store_modules(&self, image: &Path, supply: &Supply) -> Result<(), Error> {
        let entry = image.parent().unwrap_or(&self.root);
        modules::store(entry, supply).map_err(|error| Error::Cache { path: entry.into(), error })
    }

    /// Stores the Image that `produce` writes to the path it is given, and the modules that it returns, replacing what
    /// was under `key`.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`], or what `produce` returns.
    pub fn store(
        &self,
        key: &str,
        release: &str,
        package: &str,
        produce: &mut dyn FnMut(&Path) -> Result<Supply, Error>,
    ) -> Result<PathBuf, Error> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |error| Error::Cache { path, error }
        };
        let fresh = tempfile::Builder::new().prefix(".new-").tempdir_in(&self.root).map_err(failed(&self.root))?;
        let image = fresh.path().join(IMAGE);
        let supply = produce(&image)?;
        modules::store(fresh.path(), &supply).map_err(failed(fresh.path()))?;
        let (bytes, sha256) = digest(&image).map_err(failed(&image))?;
        let record = Record { release: release.to_string(), package: package.to_string(), bytes, sha256 };
        let text = serde_json::to_vec_pretty(&record).expect("a plain struct serialises");
        fs::write(fresh.path().join(RECORD), text).map_err(failed(fresh.path()))?;
        let target = self.root.join(key);
        match fs::remove_dir_all(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&target)(error)),
            _ => {}
        }
        fs::rename(fresh.path(), &target).map_err(failed(&target))?;
        // The directory has moved; what is left to delete under the old name is nothing.
        let _ = fresh.keep();
        Ok(target.join(IMAGE))
    }
}

fn read_record(directory: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()
}

fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => {
                hash.update(&buffer[..length]);
                bytes += length as u64;
            }
        }
    }
    Ok((bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(base: &Path) -> Cache {
        Cache::open_at(base, &Interrupt::catch(), &|_| {}).expect("a fresh directory can be opened")
    }

    fn put(cache: &Cache, contents: &[u8]) -> PathBuf {
        let mut produce = |path: &Path| {
            fs::write(path, contents).map_err(|error| Error::Results { path: path.into(), error })?;
            Ok(Supply::Nothing("a test".into()))
        };
        cache.store("debian-6.1", "6.1.0-9-arm64", "linux-image", &mut produce).expect("a writable cache stores")
    }

    #[test]
    fn what_was_stored_is_found_by_key_and_by_release() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let cache = cache(base.path());
        let image = put(&cache, b"kernel");
        assert_eq!(cache.find("debian-6.1", &|_| {}), Some(image.clone()));
        assert_eq!(cache.key_of_release("6.1.0-9-arm64").as_deref(), Some("debian-6.1"));
        assert_eq!(cache.key_of_release("6.1.0-8-arm64"), None);
        assert_eq!(cache.find_modules(&image), Some(Supply::Nothing("a test".into())));
    }

    #[test]
    fn damaged_images_are_not_used_and_can_be_replaced() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let cache = cache(base.path());
        let image = put(&cache, b"kernel");
        for damage in [&b"ker"[..], b"kerneL"] {
            fs::write(&image, damage).expect("the image can be overwritten");
            let told = std::cell::Cell::new(false);
            assert_eq!(cache.find("debian-6.1", &|_| told.set(true)), None);
            assert!(told.get(), "the user is told");
        }
        let image = put(&cache, b"kernel two");
        assert_eq!(cache.find("debian-6.1", &|_| {}), Some(image));
    }
}
