//! An unpacked kernel source in the cache, and its change from one policy to another.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;
use crate::context::Context;
use crate::error::Error as LabError;
use crate::policy::error::{Error, io_error};
use crate::policy::spec::{Policy, SourceVersion};

/// An unpacked source in the cache.
#[derive(Debug)]
pub struct Tree {
    /// Name of the source and its version, which is part of every key.
    pub id: String,
    /// Version of the source.
    pub version: SourceVersion,
    /// Directory with `src`, `pristine`, the build directories and the lock.
    pub folder: PathBuf,
}

/// Waits until no other `faultline` holds the lock file at `path`, and takes it. Dropping the result releases the lock.
///
/// # Errors
///
/// [`Error::Io`].
pub fn lock(path: &Path, context: Context<'_>) -> Result<File, Error> {
    cache::lock(path, context).map_err(|error| {
        let error = match error {
            LabError::Cache { error, .. } => error,
            other => io::Error::new(io::ErrorKind::Interrupted, other.to_string()),
        };
        io_error("lock", path)(error)
    })
}

impl Tree {
    /// Waits for every other build of this source, and keeps others out until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn lock(&self, context: Context<'_>) -> Result<File, Error> {
        lock(&self.folder.join("lock"), context)
    }

    /// Writes the contents under `policy` to every file that any patch changes. The caller holds the lock.
    ///
    /// # Errors
    ///
    /// [`Error::Patch`] or [`Error::Io`].
    pub fn select(&self, policy: Policy) -> Result<(), Error> {
        let (src, pristine) = (self.folder.join("src"), self.folder.join("pristine"));
        let touched = touched(policy.patch(self.version));
        for file in &touched {
            // The copy is made once, before the file is ever changed.
            self.keep(&src.join(file), &pristine.join(file))?;
        }
        let patched = apply(policy, self.version, &pristine, &touched)?;
        for file in files(&pristine)? {
            let wanted = if touched.contains(&file) { patched.path().join(&file) } else { pristine.join(&file) };
            let wanted = fs::read(&wanted).map_err(io_error("read", &wanted))?;
            let target = src.join(&file);
            if fs::read(&target).map_err(io_error("read", &target))? != wanted {
                fs::write(&target, &wanted).map_err(io_error("write", &target))?;
            }
        }
        Ok(())
    }

    /// Copies `from` to `to` unless `to` exists. `to` appears only when it is complete.
    fn keep(&self, from: &Path, to: &Path) -> Result<(), Error> {
        if to.exists() {
            return Ok(());
        }
        let folder = to.parent().expect("a file below pristine/");
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let part = self.folder.join("pristine.part");
        fs::copy(from, &part).map_err(io_error("copy", from))?;
        fs::rename(&part, to).map_err(io_error("rename", &part))
    }
}

/// Returns the files that `patch` changes.
fn touched(patch: &str) -> Vec<PathBuf> {
    patch.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(PathBuf::from).collect()
}

/// Copies the pristine `files` into a temporary directory and patches them there.
fn apply(
    policy: Policy,
    version: SourceVersion,
    pristine: &Path,
    files: &[PathBuf],
) -> Result<tempfile::TempDir, Error> {
    let scratch = tempfile::tempdir().map_err(io_error("create a folder in", &std::env::temp_dir()))?;
    for file in files {
        let copy = scratch.path().join(file);
        let folder = copy.parent().expect("a file below the scratch folder");
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        fs::copy(pristine.join(file), &copy).map_err(io_error("copy", file))?;
    }
    if files.is_empty() {
        return Ok(scratch);
    }
    let diff = scratch.path().join("policy.patch");
    fs::write(&diff, policy.patch(version)).map_err(io_error("write", &diff))?;
    // With fuzz, patch could put a hunk in the wrong place, and the result would be another kernel.
    let output = Command::new("patch")
        .args(["-p1", "--fuzz=0", "--batch", "--forward", "--reject-file=-", "-i"])
        .arg(&diff)
        .current_dir(scratch.path())
        .output()
        .map_err(io_error("run", Path::new("patch")))?;
    if output.status.success() {
        return Ok(scratch);
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    let reason = printed.lines().find(|line| line.contains("FAILED")).unwrap_or("patch failed").to_owned();
    Err(Error::Patch { policy: policy.name(), version, reason })
}

/// Returns the path of every file below `folder`, relative to it. Without such a folder the result is empty.
///
/// # Errors
///
/// [`Error::Io`].
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let path = folder.join(&relative);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(io_error("read", &path))?,
        };
        for entry in entries {
            let entry = entry.map_err(io_error("read", &path))?;
            let is_dir = entry.file_type().map_err(io_error("read", &path))?.is_dir();
            let inside = relative.join(entry.file_name());
            if !is_dir {
                found.push(inside);
            } else if inside != Path::new(".git") {
                folders.push(inside);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::spec::PolicyKernel;

    /// Returns the hunks of `patch` as they are before it (`-`) or after it (`+`), in one text.
    fn side(patch: &str, side: char) -> String {
        let hunks = patch.lines().skip_while(|line| !line.starts_with("@@"));
        let lines = hunks.filter(|line| !line.starts_with("@@"));
        lines.filter_map(|line| line.strip_prefix([' ', side])).flat_map(|line| [line, "\n"]).collect()
    }

    /// Returns a tree with exactly the text that every patch expects.
    fn small_tree(folder: &Path) -> Tree {
        for PolicyKernel { policy, .. } in PolicyKernel::all() {
            for file in touched(policy.patch(SourceVersion::DEFAULT)) {
                let file = folder.join("src").join(file);
                fs::create_dir_all(file.parent().expect("below src/")).expect("created");
                fs::write(file, side(policy.patch(SourceVersion::DEFAULT), '-')).expect("written");
            }
        }
        Tree { id: "small".into(), version: SourceVersion::DEFAULT, folder: folder.to_owned() }
    }

    #[test]
    fn a_policy_leaves_no_trace_of_the_one_before() {
        if Command::new("patch").arg("--version").output().is_err() {
            println!("skipped: patch(1) is not installed");
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tree = small_tree(folder.path());
        let header = folder.path().join("src/arch/arm64/include/asm/kvm_mmu.h");
        let walkers = folder.path().join("src/arch/arm64/kvm/hyp/pgtable.c");
        for policy in [Policy::ByLine, Policy::None, Policy::Shan, Policy::Upton, Policy::None, Policy::ByLine] {
            tree.select(policy).expect("applies");
            let [in_header, in_walkers] = [&header, &walkers].map(|file| fs::read_to_string(file).expect("there"));
            let header_patch = if policy == Policy::Shan { policy } else { Policy::ByLine };
            let header_side = if matches!(policy, Policy::Shan | Policy::ByLine) { '+' } else { '-' };
            assert_eq!(in_header, side(header_patch.patch(SourceVersion::DEFAULT), header_side), "{policy:?}");
            let walkers_side = if policy == Policy::None { '+' } else { '-' };
            assert_eq!(in_walkers, side(Policy::None.patch(SourceVersion::DEFAULT), walkers_side), "{policy:?}");
            let before = fs::metadata(&header).expect("there").modified().expect("kept by Linux");
            tree.select(policy).expect("applies");
            let after = fs::metadata(&header).expect("there").modified().expect("kept by Linux");
            assert_eq!(before, after, "a file that is right already is not written");
        }
    }

    #[test]
    fn a_patch_that_does_not_apply_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tree = small_tree(folder.path());
        let header = folder.path().join("src/arch/arm64/include/asm/kvm_mmu.h");
        fs::write(&header, "another kernel\n").expect("written");
        assert!(matches!(tree.select(Policy::Shan), Err(Error::Patch { policy: "shan", .. } | Error::Io { .. })));
        assert_eq!(fs::read_to_string(&header).expect("there"), "another kernel\n");
    }
}
