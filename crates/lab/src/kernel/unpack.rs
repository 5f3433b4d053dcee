//! Takes a plain Image out of the file or directory that the user named.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::kernel::compression::Compression;
use crate::kernel::image::{self, ImageError};
use crate::kernel::{package, rpm};

/// The most wrappings of one kernel: a package, compression, and EFI zboot, each twice.
const MOST_LAYERS: usize = 6;
/// Kernels in a build tree, best first.
const BUILT: [&str; 6] = ["Image", "Image.gz", "Image.zst", "Image.xz", "Image.lz4", "vmlinuz.efi"];

/// Returns the path of an uncompressed Image, and the release in its banner.
///
/// The path is that of the given file, or a file in `scratch` with an Image from inside it. `path` is an Image, one that is
/// compressed, an EFI zboot image, a package of Debian or of an RPM distribution, or a kernel tree in which one was built.
///
/// # Errors
///
/// [`Error::KernelFile`], [`Error::NotAnImage`] or [`Error::Unpack`].
pub fn plain_image(path: &Path, scratch: &Path) -> Result<(PathBuf, Option<String>), Error> {
    let refused = |problem| Error::NotAnImage { path: path.to_path_buf(), problem };
    let unreadable = |error| Error::KernelFile { path: path.to_path_buf(), error };
    let built = BUILT.iter().map(|name| path.join("arch/arm64/boot").join(name)).find(|file| file.exists());
    let file = match built {
        Some(file) => file,
        None if path.is_dir() => return Err(refused(ImageError::NotBuilt)),
        None => path.to_owned(),
    };
    let damaged = |error: std::io::Error| Error::Unpack { what: file.display().to_string(), reason: error.to_string() };
    let mut bytes = fs::read(&file).map_err(unreadable)?;
    for layer in 0..MOST_LAYERS {
        if let Some((format, part)) = image::zboot_part(&bytes).map_err(refused)? {
            bytes = format.unpack(part).map_err(damaged)?;
        } else if let Some(format) = Compression::of(&bytes) {
            bytes = format.unpack(&bytes).map_err(damaged)?;
        } else if package::is_package(&bytes) {
            bytes = package::kernel(&file)?.ok_or_else(|| refused(ImageError::NoKernelInside))?;
        } else if rpm::is_package(&bytes) {
            bytes = rpm::kernel(&bytes).map_err(damaged)?.ok_or_else(|| refused(ImageError::NoKernelInside))?;
        } else {
            let release = image::check(&bytes).map_err(refused)?;
            if layer == 0 {
                return Ok((file.canonicalize().map_err(unreadable)?, release));
            }
            let plain = scratch.join("Image");
            fs::write(&plain, bytes).map_err(|error| Error::results(&plain, error))?;
            return Ok((plain, release));
        }
    }
    Err(refused(ImageError::NoMagic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        image[100..117].copy_from_slice(b"Linux version 6.9");
        image
    }

    /// Returns an EFI zboot image with this kernel.
    fn zboot(format: Compression, name: &str, kernel: &[u8]) -> Vec<u8> {
        let part = format.pack(kernel);
        let mut bytes = vec![0; 64];
        bytes[..8].copy_from_slice(b"MZ\0\0zimg");
        bytes[8..12].copy_from_slice(&64u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&(part.len() as u32).to_le_bytes());
        bytes[24..24 + name.len()].copy_from_slice(name.as_bytes());
        bytes.extend(part);
        bytes
    }

    /// Returns what `plain_image` makes of a file with these contents.
    fn taken(contents: &[u8]) -> Result<(Vec<u8>, Option<String>, bool), Error> {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let given = scratch.path().join("given");
        fs::write(&given, contents).expect("writable");
        let (plain, release) = plain_image(&given, scratch.path())?;
        let is_given = plain == given.canonicalize().expect("it exists");
        Ok((fs::read(plain).expect("it is there"), release, is_given))
    }

    #[test]
    fn every_container_gives_its_kernel() {
        let plain = || (image(), Some("6.9".to_owned()), false);
        assert_eq!(taken(&image()).expect("an Image"), (image(), Some("6.9".into()), true));
        for format in Compression::all() {
            assert_eq!(taken(&format.pack(&image())).expect("compressed"), plain(), "{format:?}");
        }
        for (format, name) in [
            (Compression::Gzip, "gzip"),
            (Compression::Zstd, "zstd22"),
            (Compression::Xz, "xzkern"),
            (Compression::Lzma, "lzma"),
            (Compression::Lz4, "lz4"),
        ] {
            let zboot = zboot(format, name, &image());
            assert_eq!(taken(&zboot).expect("zboot"), plain(), "{name}");
            assert_eq!(taken(&Compression::Gzip.pack(&zboot)).expect("compressed zboot"), plain(), "{name}");
        }
    }

    #[test]
    fn packages_give_their_kernel() {
        let plain = (image(), Some("6.9".to_owned()), false);
        for path in ["boot/vmlinuz-6.9", "usr/lib/modules/6.9/vmlinuz", "lib/modules/6.9/vmlinuz"] {
            let packed = Compression::Gzip.pack(&image());
            assert_eq!(taken(&package::tests::deb(path, &packed)).expect("a package"), plain, "{path}");
            for format in [Compression::Zstd, Compression::Xz, Compression::Gzip] {
                assert_eq!(taken(&rpm::tests::rpm(path, &image(), format)).expect("a package"), plain, "{path}");
            }
        }
        let others = [package::tests::deb("usr/bin/x", b"x"), rpm::tests::rpm("usr/bin/x", b"x", Compression::Zstd)];
        for other in others {
            assert!(matches!(taken(&other), Err(Error::NotAnImage { problem: ImageError::NoKernelInside, .. })));
        }
    }

    #[test]
    fn a_tree_gives_what_was_built_in_it() {
        let tree = tempfile::tempdir().expect("a temporary directory");
        let refused = plain_image(tree.path(), tree.path());
        assert!(matches!(refused, Err(Error::NotAnImage { problem: ImageError::NotBuilt, .. })));
        let boot = tree.path().join("arch/arm64/boot");
        fs::create_dir_all(&boot).expect("created");
        fs::write(boot.join("Image.gz"), Compression::Gzip.pack(&image())).expect("writable");
        assert_eq!(fs::read(plain_image(tree.path(), tree.path()).expect("built").0).expect("there"), image());
        fs::write(boot.join("Image"), image()).expect("writable");
        assert_eq!(
            plain_image(tree.path(), tree.path()).expect("built").0,
            boot.join("Image").canonicalize().expect("there")
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let packed = Compression::Gzip.pack(&image());
        assert!(matches!(taken(&packed[..packed.len() - 9]), Err(Error::Unpack { .. })));
        assert!(matches!(taken(b""), Err(Error::NotAnImage { problem: ImageError::Empty, .. })));
        assert!(taken(&rpm::tests::rpm("boot/vmlinuz", &image(), Compression::Xz)[..300]).is_err());
    }
}
