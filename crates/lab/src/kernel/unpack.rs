//! Unpacks kernel files that are compressed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::Error;
use crate::kernel::image;

/// Returns the path of an uncompressed Image, and the release in its banner.
///
/// The path is `path` itself, or a file in `scratch` with the unpacked contents of `path`.
///
/// # Errors
///
/// [`Error::KernelFile`], [`Error::NotAnImage`] or [`Error::Unpack`].
pub fn plain_image(path: &Path, scratch: &Path) -> Result<(PathBuf, Option<String>), Error> {
    let unreadable = |error| Error::KernelFile { path: path.to_path_buf(), error };
    let refused = |problem| Error::NotAnImage { path: path.to_path_buf(), problem };
    let bytes = fs::read(path).map_err(unreadable)?;
    let Some(packed) = image::gzip_part(&bytes).map_err(refused)? else {
        let release = image::check(&bytes).map_err(refused)?;
        return Ok((path.canonicalize().map_err(unreadable)?, release));
    };
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(packed)
        .read_to_end(&mut unpacked)
        .map_err(|error| Error::Unpack { what: path.display().to_string(), reason: error.to_string() })?;
    let release = image::check(&unpacked).map_err(refused)?;
    let plain = scratch.join("Image");
    fs::write(&plain, unpacked).map_err(|error| Error::results(&plain, error))?;
    Ok((plain, release))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    #[test]
    fn only_a_compressed_image_is_copied() {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let mut image = vec![0; 64];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let given = scratch.path().join("given");
        let write = |bytes: &[u8]| fs::write(&given, bytes).expect("writable");
        write(&image);
        assert_eq!(plain_image(&given, scratch.path()).expect("an Image").0, given.canonicalize().expect("it exists"));

        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&image).expect("memory is writable");
        let packed = encoder.finish().expect("memory is writable");
        write(&packed);
        let (plain, _) = plain_image(&given, scratch.path()).expect("an Image");
        assert_eq!((&plain, fs::read(&plain).expect("it is there")), (&scratch.path().join("Image"), image));

        write(&packed[..packed.len() - 9]);
        assert!(matches!(plain_image(&given, scratch.path()), Err(Error::Unpack { .. })));
    }
}
