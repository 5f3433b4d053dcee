//! Digests of the files that run on this machine: the program, its kernel, and the kernel's configuration.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use record::provenance::Provenance;
use sha2::{Digest, Sha256};

use crate::procfs;

/// Returns the SHA-256 of `source` in hexadecimal.
///
/// # Errors
///
/// The first error of `source`.
pub fn sha256(mut source: impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut source, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Digests this program, the image of the running kernel in /boot, and its configuration.
pub fn read(release: &str) -> Provenance {
    Provenance { runner_sha256: of_file(Path::new("/proc/self/exe")), ..of_kernel(Path::new("/"), release) }
}

fn of_kernel(root: &Path, release: &str) -> Provenance {
    let first = |paths: &[String]| paths.iter().find_map(|path| of_file(&procfs::under(root, path)));
    let packed = File::open(procfs::under(root, "/proc/config.gz")).ok();
    let own = packed.and_then(|file| sha256(MultiGzDecoder::new(file)).ok());
    Provenance {
        kernel_sha256: first(&["vmlinuz", "Image"].map(|name| format!("/boot/{name}-{release}"))),
        config_sha256: own.or_else(|| first(&[format!("/boot/config-{release}")])),
        ..Provenance::default()
    }
}

fn of_file(path: &Path) -> Option<String> {
    sha256(File::open(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::fake_root;

    #[test]
    fn the_files_in_boot_are_digested() {
        let root = fake_root(&[("/boot/vmlinuz-6.1", "abc"), ("/boot/config-6.1", "CONFIG_A=y\n")]);
        let found = of_kernel(root.path(), "6.1");
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(found.kernel_sha256.as_deref(), Some(abc));
        assert!(found.config_sha256.is_some_and(|digest| digest.len() == 64));
        assert_eq!(of_kernel(root.path(), "6.2"), Provenance::default());
    }
}
