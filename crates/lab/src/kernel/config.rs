//! The configuration of a kernel: from its Image, or from a file beside it.

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

/// Returns the configuration of the Image at `image`, as it was built in (`CONFIG_IKCONFIG`), or as it lies beside the
/// Image under the name `config` or `config-<release>`.
pub fn of(image: &Path, release: Option<&str>) -> Option<Vec<u8>> {
    let beside = |name: String| fs::read(image.with_file_name(name)).ok();
    let built_in = fs::read(image).ok().and_then(|bytes| built_in(&bytes));
    built_in.or_else(|| beside("config".into())).or_else(|| beside(format!("config-{}", release?)))
}

/// Returns the configuration between the marks of kernel/configs.c.
fn built_in(image: &[u8]) -> Option<Vec<u8>> {
    const START: &[u8] = b"IKCFG_ST";
    let start = image.windows(START.len()).position(|window| window == START)? + START.len();
    let mut text = Vec::new();
    GzDecoder::new(&image[start..]).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    #[test]
    fn the_built_in_one_comes_before_a_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join("Image");
        let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).expect("writable");
        write("Image", b"no marks");
        assert_eq!(of(&image, Some("6.1")), None);
        write("config-6.1", b"CONFIG_A=y\n");
        assert_eq!(of(&image, Some("6.1")), Some(b"CONFIG_A=y\n".to_vec()));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"CONFIG_B=y\n").expect("memory is writable");
        let packed = encoder.finish().expect("memory is writable");
        write("Image", &[b"x IKCFG_ST", packed.as_slice(), b"IKCFG_ED y"].concat());
        assert_eq!(of(&image, Some("6.1")), Some(b"CONFIG_B=y\n".to_vec()));
    }
}
