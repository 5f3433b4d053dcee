//! Where the kernel source comes from, and switching it between policies.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apt::{self, Apt, Archive, Installed, Scope};
use crate::cache;
use crate::policy::{Error, Policy, io_error};
use crate::process::Interrupt;

/// The package that holds the source.
const PACKAGE: &str = "linux-source-6.12";

/// Where it has been. Sources belong to no architecture.
const SCOPE: Scope = Scope {
    suites: &[
        ("bookworm-security", Archive::Security),
        ("bookworm-backports", Archive::Main),
        ("trixie", Archive::Main),
    ],
    architecture: None,
    installed: Installed::Nothing,
};

/// Where the tree comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Debian's linux-source-6.12, fetched once by an apt with state of its own and kept at that version.
    Debian,
    /// A kernel tree of the user's. It is copied and never written to.
    Tree(PathBuf),
}

/// An unpacked source in the cache.
#[derive(Debug)]
pub(super) struct Tree {
    /// Names the source and its version; part of every key.
    pub id: String,
    /// Holds `src`, `pristine`, the build folders and the lock.
    pub folder: PathBuf,
}

impl Source {
    /// Returns the tree, unpacking or copying it into `cache` if it is not there yet.
    pub(super) fn tree(&self, cache: &Path, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<Tree, Error> {
        let trees = cache.join("linux");
        fs::create_dir_all(&trees).map_err(io_error("create", &trees))?;
        let _lock = lock(&trees.join("lock"), interrupt, progress)?;
        match self {
            Self::Debian => debian(&trees, interrupt, progress),
            Self::Tree(original) => copy(original, &trees, interrupt, progress),
        }
    }
}

/// Waits for the lock file at `path`; it is free again when the result is dropped or the process ends.
fn lock(path: &Path, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<File, Error> {
    cache::lock(path, interrupt, progress).map_err(|error| {
        let error = match error {
            crate::Error::Cache { error, .. } => error,
            other => io::Error::new(io::ErrorKind::Interrupted, other.to_string()),
        };
        io_error("lock", path)(error)
    })
}

impl Tree {
    /// Waits for every other build of this source to end and keeps others out until the result is dropped.
    pub(super) fn lock(&self, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<File, Error> {
        lock(&self.folder.join("lock"), interrupt, progress)
    }

    /// Gives every file that any patch touches its content under `policy`. The caller holds the lock.
    pub(super) fn select(&self, policy: Policy) -> Result<(), Error> {
        let (src, pristine) = (self.folder.join("src"), self.folder.join("pristine"));
        let touched = touched(policy.patch());
        for file in &touched {
            // Kept before the file is first changed, and never again.
            self.keep(&src.join(file), &pristine.join(file))?;
        }
        let patched = apply(policy, &pristine, &touched)?;
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

    /// Copies `from` to `to` unless `to` exists; never leaves half a file there.
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

/// Patches copies of the pristine `files` in a folder of their own.
fn apply(policy: Policy, pristine: &Path, files: &[PathBuf]) -> Result<tempfile::TempDir, Error> {
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
    fs::write(&diff, policy.patch()).map_err(io_error("write", &diff))?;
    // No fuzz: a hunk in the wrong place would be a wrong kernel.
    let output = Command::new("patch")
        .args(["-p1", "--fuzz=0", "--batch", "--forward", "--reject-file=-", "-i"])
        .arg(&diff)
        .current_dir(scratch.path())
        .output()
        .map_err(io_error("run", Path::new("patch")))?;
    if output.status.success() {
        return Ok(scratch);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let reason = said.lines().find(|line| line.contains("FAILED")).unwrap_or("patch failed").to_owned();
    Err(Error::Patch { policy: policy.name(), reason })
}

/// Returns every file below `folder`, relative to it; none if there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
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

/// Returns Debian's source: the version fetched first stays, so that results stay comparable and no network is needed.
fn debian(trees: &Path, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<Tree, Error> {
    let chosen = trees.join(format!("{PACKAGE}.version"));
    let tree = |version: &str| Tree { id: format!("{PACKAGE} {version}"), folder: trees.join(folder_name(version)) };
    if let Ok(version) = fs::read_to_string(&chosen) {
        let tree = tree(&version);
        if tree.folder.join("src").exists() {
            return Ok(tree);
        }
    }
    let fetch = |error: crate::Error| Error::Fetch { package: PACKAGE, reason: error.to_string() };
    let apt = Apt::prepare(&trees.join("apt"), &SCOPE, interrupt).map_err(fetch)?;
    let update = apt.update(progress).map_err(fetch)?;
    progress(&format!("fetching {PACKAGE}"));
    let scratch = tempfile::tempdir_in(trees).map_err(io_error("create a folder in", trees))?;
    // Without lists apt only says that it does not know the package.
    let missing =
        |error| update.complaint.map_or_else(|| fetch(error), |reason| Error::Fetch { package: PACKAGE, reason });
    let deb = apt.download(PACKAGE, scratch.path()).map_err(missing)?;
    let version =
        apt::version(&deb).ok_or_else(|| Error::Fetch { package: PACKAGE, reason: deb.display().to_string() })?;
    let tree = tree(&version);
    let src = tree.folder.join("src");
    if !src.exists() {
        progress("unpacking the kernel source");
        unpack(&deb, &src)?;
    }
    fs::write(&chosen, &version).map_err(io_error("write", &chosen))?;
    Ok(tree)
}

/// Returns `version` without the characters that make or a shell might take amiss.
fn folder_name(version: &str) -> String {
    version.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect()
}

/// Unpacks the tarball inside the package `deb` into `src`, all or nothing.
fn unpack(deb: &Path, src: &Path) -> Result<(), Error> {
    into(src, |part| {
        let mut package = Command::new("dpkg-deb");
        package.arg("--fsys-tarfile").arg(deb);
        let mut tarball = Command::new("tar");
        tarball.args(["-xO", "-f", "-"]).arg(format!("./usr/src/{PACKAGE}.tar.xz"));
        let mut files = Command::new("tar");
        files.args(["-xJ", "--strip-components=1", "-f", "-", "-C"]).arg(part);
        pipe([package, tarball, files])
    })
}

/// Copies the user's tree, without its history and whatever was built in it. A changed tree is copied afresh, and the
/// copy it replaces goes.
fn copy(original: &Path, trees: &Path, interrupt: &Interrupt, progress: &dyn Fn(&str)) -> Result<Tree, Error> {
    let original = original.canonicalize().map_err(io_error("open", original))?;
    if !original.join("arch/arm64/kvm/mmu.c").exists() {
        return Err(Error::NotLinux(original));
    }
    let family = format!("tree-{:016x}-", hash(&original));
    let state = fingerprint(&original)?;
    let tree = Tree { id: format!("tree {state}"), folder: trees.join(format!("{family}{state}")) };
    let src = tree.folder.join("src");
    if src.exists() {
        return Ok(tree);
    }
    progress(&format!("copying {}", original.display()));
    for entry in fs::read_dir(trees).map_err(io_error("read", trees))? {
        let entry = entry.map_err(io_error("read", trees))?;
        if entry.file_name().to_string_lossy().starts_with(&family) {
            // Not while another process builds in it.
            let _lock = lock(&entry.path().join("lock"), interrupt, progress)?;
            fs::remove_dir_all(entry.path()).map_err(io_error("remove", &entry.path()))?;
        }
    }
    into(&src, |part| {
        let mut pack = Command::new("tar");
        pack.arg("-C").arg(&original).args(["--exclude=./.git", "-cf", "-", "."]);
        let mut files = Command::new("tar");
        files.arg("-C").arg(part).args(["-xf", "-"]);
        pipe([pack, files])?;
        // Builds elsewhere refuse a source that was itself built in.
        let mut clean = Command::new("make");
        clean.arg("-C").arg(part).args(["-s", "ARCH=arm64", "mrproper"]).stdout(Stdio::null());
        crate::policy::build::scrub(&mut clean);
        pipe([clean])
    })?;
    Ok(tree)
}

/// Hashes path, size and time of every file.
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

/// Fills `target` through `fill`, which works on a folder beside it; `target` appears only when that succeeded.
fn into(target: &Path, fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), Error> {
    let part = target.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).map_err(io_error("remove", &part))?;
    }
    fs::create_dir_all(&part).map_err(io_error("create", &part))?;
    fill(&part).map_err(|reason| Error::Unpack { into: target.to_owned(), reason })?;
    fs::rename(&part, target).map_err(io_error("rename", &part))
}

/// Runs `commands` with the output of each as the input of the next. The first that fails is the reason, with the first
/// line it said; what the others say is dropped, since a line in the middle of the progress display helps nobody.
fn pipe<const N: usize>(commands: [Command; N]) -> Result<(), String> {
    let mut running = Vec::new();
    let mut input = Stdio::null();
    for (index, mut command) in commands.into_iter().enumerate() {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |error: io::Error| format!("{name}: {error}");
        let said = tempfile::tempfile().map_err(failed)?;
        command.stdin(input).stderr(said.try_clone().map_err(failed)?);
        if index + 1 < N {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn().map_err(failed)?;
        input = child.stdout.take().map_or_else(Stdio::null, Stdio::from);
        running.push((name, child, said));
    }
    let mut failed = None;
    for (name, mut child, said) in running {
        let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
        if !status.success() {
            failed.get_or_insert_with(|| format!("{name}: {}", first_line(said).unwrap_or_else(|| status.to_string())));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Returns the first line in `file` that is not empty.
fn first_line(mut file: File) -> Option<String> {
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut text)).ok()?;
    String::from_utf8_lossy(&text).lines().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one side of `patch`, `-` for before and `+` for after: all its hunks in one text per file.
    fn side(patch: &str, side: char) -> String {
        let hunks = patch.lines().skip_while(|line| !line.starts_with("@@"));
        let lines = hunks.filter(|line| !line.starts_with("@@"));
        lines.filter_map(|line| line.strip_prefix([' ', side])).flat_map(|line| [line, "\n"]).collect()
    }

    /// A tree that holds what every patch expects to find and nothing else.
    fn small_tree(folder: &Path) -> Tree {
        for policy in Policy::ALL {
            for file in touched(policy.patch()) {
                let file = folder.join("src").join(file);
                fs::create_dir_all(file.parent().expect("below src/")).expect("created");
                fs::write(file, side(policy.patch(), '-')).expect("written");
            }
        }
        Tree { id: "small".into(), folder: folder.to_owned() }
    }

    #[test]
    fn selecting_a_policy_leaves_nothing_of_the_one_before() {
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
            assert_eq!(in_header, side(header_patch.patch(), header_side), "{policy:?}");
            let walkers_side = if policy == Policy::None { '+' } else { '-' };
            assert_eq!(in_walkers, side(Policy::None.patch(), walkers_side), "{policy:?}");
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

    #[test]
    fn a_folder_that_is_no_kernel_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = Source::Tree(folder.path().to_owned());
        assert!(matches!(source.tree(folder.path(), &Interrupt::catch(), &|_| ()), Err(Error::NotLinux(_))));
    }

    #[test]
    fn a_failing_command_in_a_pipe_is_named() {
        let [mut good, bad] = [Command::new("true"), Command::new("false")];
        good.arg("unused");
        let reason = pipe([good, bad]).expect_err("false fails");
        assert!(reason.starts_with("false: exit status"), "{reason}");
        let mut tar = Command::new("tar");
        tar.args(["-xf", "/nonexistent"]);
        let reason = pipe([tar, Command::new("cat")]).expect_err("there is no such file");
        assert!(reason.contains("/nonexistent"), "{reason}");
        assert_eq!(folder_name("6.12.1-1~bpo12+1"), "6.12.1-1_bpo12_1");
    }
}
