//! Reads a Debian kernel package: the Image, and the modules that swap needs.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use crate::error::Error;
use crate::kernel::compression::Compression;
use crate::kernel::modules::{self, PackedModule, SwapModules, ZRAM};

/// First bytes of a Debian package.
const ARCHIVE: &[u8] = b"!<arch>\ndebian-binary";

/// Folders of the module tree with zram and the modules that it can depend on: zsmalloc, and the compressors.
const FOLDERS: [&str; 4] = ["drivers/block/zram", "mm", "lib", "crypto"];

/// Contents of a package.
#[derive(Debug)]
pub struct Unpacked {
    /// True if it has the kernel.
    pub has_kernel: bool,
    /// zram and the modules that it depends on.
    pub modules: SwapModules,
}

/// Writes the kernel of a package to `image` and its configuration to `config`, if the package has them.
///
/// # Errors
///
/// [`Error::MissingProgram`], [`Error::Start`] or [`Error::Unpack`].
pub fn unpack(deb: &Path, release: &str, image: &mut dyn Write, config: &mut dyn Write) -> Result<Unpacked, Error> {
    let (has_kernel, taken) = read(deb, |tar| take(tar, release, image, config))?;
    Ok(Unpacked { has_kernel, modules: SwapModules::select(ZRAM, &taken) })
}

/// Returns whether these are the first bytes of a Debian package.
pub fn is_package(bytes: &[u8]) -> bool {
    bytes.starts_with(ARCHIVE)
}

/// Returns the kernel in a package of any distribution; none if there is none.
///
/// # Errors
///
/// [`Error::MissingProgram`], [`Error::Start`] or [`Error::Unpack`].
pub fn kernel(deb: &Path) -> Result<Option<Vec<u8>>, Error> {
    read(deb, |tar| {
        let (mut kernel, mut archive) = (None, tar::Archive::new(tar));
        for entry in archive.entries()? {
            let mut entry = entry?;
            let is_kernel = entry.header().entry_type().is_file() && is_kernel_path(&entry.path()?.to_string_lossy());
            if is_kernel && kernel.is_none() {
                let mut contents = Vec::new();
                entry.read_to_end(&mut contents)?;
                kernel = Some(contents);
            }
        }
        Ok(kernel)
    })
}

/// Returns whether distributions have kernels at this path of a package.
pub fn is_kernel_path(path: &str) -> bool {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    let in_boot = path.strip_prefix("boot/").is_some_and(|name| {
        !name.contains('/') && ["vmlinuz", "vmlinux", "Image"].iter().any(|start| name.starts_with(start))
    });
    let modules = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/");
    let in_modules = modules
        .and_then(|path| path.split_once('/'))
        .is_some_and(|(_, name)| ["vmlinuz", "vmlinuz.unsigned", "vmlinux", "Image"].contains(&name));
    in_boot || in_modules
}

/// Gives the tar of a package to `take`.
fn read<T>(deb: &Path, take: impl FnOnce(ChildStdout) -> io::Result<T>) -> Result<T, Error> {
    let failed = |reason: String| Error::Unpack { what: deb.display().to_string(), reason };
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::MissingProgram { program: "dpkg-deb".into(), package: "dpkg" },
            _ => Error::Start { program: "dpkg-deb".into(), error },
        })?;
    let pipe = archive.stdout.take().expect("stdout was set to a pipe");
    let taken = take(pipe);
    let unpacked = archive.wait().map_err(|error| failed(error.to_string()))?;
    let taken = taken.map_err(|error| failed(error.to_string()))?;
    if unpacked.success() { Ok(taken) } else { Err(failed("dpkg-deb failed".into())) }
}

/// Returns the paths at which packages have the kernel of a release: up to 7.1 in /boot, later beside its modules.
fn kernel_paths(release: &str) -> [String; 3] {
    let modules = format!("usr/lib/modules/{release}");
    [format!("boot/vmlinuz-{release}"), format!("{modules}/vmlinuz"), format!("{modules}/vmlinuz.unsigned")]
}

/// Reads the tar of a package to its end, and writes the kernel and its configuration. Returns whether there was a
/// kernel, and the modules in [`FOLDERS`] by name.
fn take(
    tar: impl Read,
    release: &str,
    image: &mut dyn Write,
    config: &mut dyn Write,
) -> io::Result<(bool, BTreeMap<String, PackedModule>)> {
    let (kernels, options) = (kernel_paths(release), format!("boot/config-{release}"));
    let (mut found, mut modules) = (false, BTreeMap::new());
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if kernels.contains(&path) && entry.header().entry_type().is_file() {
            found = true;
            io::copy(&mut entry, image)?;
        } else if path == options {
            io::copy(&mut entry, config)?;
        } else if let Some((name, compression)) = module(&path, release) {
            let mut file = Vec::new();
            entry.read_to_end(&mut file)?;
            modules.insert(name, PackedModule { compression, file });
        }
    }
    Ok((found, modules))
}

/// Returns the name and the compression of the module at `path` of the package, if the path is in [`FOLDERS`].
///
/// Since trixie, modules are below /usr.
fn module(path: &str, release: &str) -> Option<(String, Option<Compression>)> {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    let path = path.strip_prefix("lib/modules/")?.strip_prefix(release)?.strip_prefix("/kernel/")?;
    FOLDERS.iter().find(|folder| path.strip_prefix(**folder).is_some_and(|rest| rest.starts_with('/')))?;
    let (_, file) = path.rsplit_once('/')?;
    let (stem, extension) = file.split_once(".ko")?;
    let compression = Compression::of_file(file);
    (extension.is_empty() || compression.is_some()).then(|| (modules::canonical(stem), compression))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const RELEASE: &str = "6.12.9-arm64";

    #[test]
    fn only_modules_of_this_release_and_these_folders_are_taken() {
        for (path, expected) in [
            ("lib/modules/6.12.9-arm64/kernel/mm/zsmalloc.ko", Some(("zsmalloc".to_owned(), None))),
            (
                "usr/lib/modules/6.12.9-arm64/kernel/lib/lz4/lz4-x.ko.xz",
                Some(("lz4_x".to_owned(), Some(Compression::Xz))),
            ),
            ("usr/lib/modules/6.12.9-arm64/kernel/drivers/block/zram/", None),
            ("usr/lib/modules/6.12.9-arm64/kernel/drivers/block/nbd.ko.xz", None),
            ("lib/modules/6.12.9-arm64-16k/kernel/mm/zsmalloc.ko", None),
            ("usr/lib/modules/6.12.9-arm64/modules.builtin", None),
        ] {
            assert_eq!(module(path, RELEASE), expected, "{path}");
        }
    }

    /// Returns a Debian package with one file.
    pub fn deb(path: &str, contents: &[u8]) -> Vec<u8> {
        let control = Compression::Gzip.pack(&tar(&[("control", b"Package: x\nVersion: 1\nArchitecture: arm64\n")]));
        let data = Compression::Gzip.pack(&tar(&[(path, contents)]));
        let mut package = b"!<arch>\n".to_vec();
        for (name, member) in [("debian-binary", &b"2.0\n"[..]), ("control.tar.gz", &control), ("data.tar.gz", &data)] {
            package.extend(format!("{name:16}{:12}{:6}{:6}{:8}{:<10}`\n", 0, 0, 0, 100_644, member.len()).bytes());
            package.extend(member);
            package.resize(package.len().next_multiple_of(2), b'\n');
        }
        package
    }

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, contents) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            builder.append_data(&mut header, path, *contents).expect("memory can be written to");
        }
        builder.into_inner().expect("memory can be written to")
    }

    #[test]
    fn kernel_and_modules_leave_the_package() {
        let files: [(&str, &[u8]); 4] = [
            ("boot/vmlinuz-6.12.9-arm64", b"kernel"),
            ("boot/config-6.12.9-arm64", b"CONFIG_A=y"),
            ("usr/lib/modules/6.12.9-arm64/kernel/drivers/block/zram/zram.ko.xz", b"xz"),
            ("usr/lib/modules/6.12.9-arm64/kernel/fs/fuse/fuse.ko.xz", b"fuse"),
        ];
        let (mut image, mut config) = (Vec::new(), Vec::new());
        let (found, modules) = take(tar(&files).as_slice(), RELEASE, &mut image, &mut config).expect("all is there");
        let zram = PackedModule { compression: Some(Compression::Xz), file: b"xz".to_vec() };
        assert_eq!((found, image.as_slice()), (true, &b"kernel"[..]));
        assert_eq!(modules, BTreeMap::from([(ZRAM.into(), zram)]));
        assert_eq!(config, b"CONFIG_A=y");
        let (found, _) = take(tar(&files[1..]).as_slice(), RELEASE, &mut image, &mut config).expect("a package");
        assert!(!found);
        let newer = [("usr/lib/modules/6.12.9-arm64/vmlinuz.unsigned", &b"newer"[..])];
        image.clear();
        let (found, _) = take(tar(&newer).as_slice(), RELEASE, &mut image, &mut config).expect("a package");
        assert_eq!((found, image.as_slice()), (true, &b"newer"[..]));
    }
}
