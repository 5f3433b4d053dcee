//! The arm64 kernel Image format (Linux, Documentation/arch/arm64/booting.rst) and its wrappings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

const HEADER_BYTES: usize = 64;
const IMAGE_SIZE_OFFSET: usize = 0x10;
const FLAGS_OFFSET: usize = 0x18;
const MAGIC_OFFSET: usize = 0x38;
const PE_OFFSET: usize = 0x3c;
const MAGIC: &[u8] = b"ARM\x64";
const BANNER: &[u8] = b"Linux version ";

const PE_SECTION_COUNT: usize = 6;
const PE_OPTIONAL_HEADER_BYTES: usize = 20;
const PE_HEADER_BYTES: usize = 24;
const PE_SECTION_BYTES: usize = 40;
const PE_RAW_SIZE: usize = 16;
const PE_RAW_OFFSET: usize = 20;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// EFI zboot (include/linux/pe.h, `LINUX_PE_MAGIC` and drivers/firmware/efi/libstub/zboot-header.S).
const ZBOOT_MAGIC: &[u8] = b"zimg";
const ZBOOT_COMPRESSION_OFFSET: usize = 24;

/// Why a file is not a kernel that the lab can boot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The magic number is not there.
    #[error(
        "is not an arm64 kernel Image (no ARM\\x64 at byte 56); give an uncompressed or gzip-compressed arm64 Image"
    )]
    NoMagic,
    /// The file ends before the kernel does.
    #[error("is truncated: {have} of at least {want} bytes; fetch or build it again")]
    Truncated {
        /// Length of the file in bytes.
        have: u64,
        /// Length that its header calls for, in bytes.
        want: u64,
    },
    /// A compression that nothing here unpacks.
    #[error("is compressed with {0}: unpack it first")]
    Compression(String),
}

/// What the header and the banner of an Image say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The release in "Linux version …", as `uname -r` will give it.
    pub release: Option<String>,
    /// Page size in KiB, where the header says so.
    pub page_kib: Option<u32>,
}

/// Checks an uncompressed Image.
///
/// # Errors
///
/// [`ImageError::NoMagic`] or [`ImageError::Truncated`].
pub fn check(bytes: &[u8]) -> Result<ImageInfo, ImageError> {
    if bytes.len() < HEADER_BYTES || &bytes[MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()] != MAGIC {
        return Err(ImageError::NoMagic);
    }
    let have = bytes.len() as u64;
    let want = stored_bytes(bytes).unwrap_or(HEADER_BYTES as u64);
    if have < want {
        return Err(ImageError::Truncated { have, want });
    }
    let page_kib = match (u64_at(bytes, FLAGS_OFFSET).unwrap_or(0) >> 1) & 3 {
        1 => Some(4),
        2 => Some(16),
        3 => Some(64),
        _ => None,
    };
    Ok(ImageInfo { release: release(bytes), page_kib })
}

/// Returns how many bytes the file must have. `image_size` counts the BSS, which is not stored; with a PE header the
/// sections give the exact end, without one only a half-empty file is noticed.
fn stored_bytes(bytes: &[u8]) -> Option<u64> {
    let pe = u32_at(bytes, PE_OFFSET)? as usize;
    if pe == 0 {
        return u64_at(bytes, IMAGE_SIZE_OFFSET).map(|image_size| image_size / 2);
    }
    let sections = u16_at(bytes, pe + PE_SECTION_COUNT)?;
    let table = pe + PE_HEADER_BYTES + usize::from(u16_at(bytes, pe + PE_OPTIONAL_HEADER_BYTES)?);
    (0..usize::from(sections))
        .map(|index| {
            let section = table + index * PE_SECTION_BYTES;
            let end =
                u64::from(u32_at(bytes, section + PE_RAW_SIZE)?) + u64::from(u32_at(bytes, section + PE_RAW_OFFSET)?);
            Some(end)
        })
        .try_fold(0, |most, end| Some(most.max(end?)))
}

fn release(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes;
    while let Some(at) = find(rest, BANNER) {
        rest = &rest[at + BANNER.len()..];
        let word: Vec<u8> = rest.iter().copied().take(80).take_while(u8::is_ascii_graphic).collect();
        if word.first().is_some_and(u8::is_ascii_digit) {
            return String::from_utf8(word).ok();
        }
    }
    None
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

/// Returns an uncompressed Image for `path`, which is the file itself or its contents unpacked into `scratch`.
///
/// # Errors
///
/// [`Error::KernelFile`], [`Error::NotAnImage`] or [`Error::Unpack`].
pub fn prepare(path: &Path, scratch: &Path) -> Result<(PathBuf, ImageInfo), Error> {
    let read = |path: &Path| fs::read(path).map_err(|error| Error::KernelFile { path: path.to_path_buf(), error });
    let bytes = read(path)?;
    let plain = match gzip_part(&bytes).map_err(|problem| Error::NotAnImage { path: path.to_path_buf(), problem })? {
        None => path.canonicalize().map_err(|error| Error::KernelFile { path: path.to_path_buf(), error })?,
        Some(part) => gunzip(path, part, scratch)?,
    };
    let bytes = if plain.starts_with(scratch) { read(&plain)? } else { bytes };
    let info = check(&bytes).map_err(|problem| Error::NotAnImage { path: path.to_path_buf(), problem })?;
    Ok((plain, info))
}

/// Returns the gzip stream in a compressed Image or an EFI zboot image, none for a plain one.
fn gzip_part(bytes: &[u8]) -> Result<Option<&[u8]>, ImageError> {
    if bytes.starts_with(GZIP_MAGIC) {
        return Ok(Some(bytes));
    }
    if bytes.get(4..8) != Some(ZBOOT_MAGIC) {
        return Ok(None);
    }
    let name: Vec<u8> =
        bytes[ZBOOT_COMPRESSION_OFFSET.min(bytes.len())..].iter().copied().take(32).take_while(|&b| b != 0).collect();
    if name != b"gzip" {
        return Err(ImageError::Compression(String::from_utf8_lossy(&name).into_owned()));
    }
    let start = u32_at(bytes, 8).unwrap_or(0) as usize;
    let length = u32_at(bytes, 12).unwrap_or(0) as usize;
    let truncated = ImageError::Truncated { have: bytes.len() as u64, want: start as u64 + length as u64 };
    bytes.get(start..start.saturating_add(length)).map(Some).ok_or(truncated)
}

fn gunzip(path: &Path, part: &[u8], scratch: &Path) -> Result<PathBuf, Error> {
    let unpack = |reason: String| Error::Unpack { what: path.display().to_string(), reason };
    let packed = scratch.join("Image.gz");
    let plain = scratch.join("Image");
    fs::write(&packed, part).map_err(|error| Error::results(&packed, error))?;
    let output = fs::File::create(&plain).map_err(|error| Error::results(&plain, error))?;
    let done = Command::new("gzip")
        .args(["-dc", "--"])
        .arg(&packed)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| unpack(format!("gzip: {error}")))?;
    if !done.status.success() {
        return Err(unpack(String::from_utf8_lossy(&done.stderr).trim().to_string()));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header-only Image with one PE section of 256 bytes behind its first kilobyte.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 1280];
        bytes[MAGIC_OFFSET..MAGIC_OFFSET + 4].copy_from_slice(MAGIC);
        bytes[IMAGE_SIZE_OFFSET..IMAGE_SIZE_OFFSET + 8].copy_from_slice(&4096u64.to_le_bytes());
        bytes[FLAGS_OFFSET] = 0x0a;
        bytes[PE_OFFSET] = 0x40;
        bytes[0x40..0x42].copy_from_slice(b"PE");
        bytes[0x46] = 1;
        bytes[0x54] = 0x20;
        let section = 0x40 + PE_HEADER_BYTES + 0x20;
        bytes[section + PE_RAW_SIZE..section + PE_RAW_SIZE + 4].copy_from_slice(&256u32.to_le_bytes());
        bytes[section + PE_RAW_OFFSET..section + PE_RAW_OFFSET + 4].copy_from_slice(&1024u32.to_le_bytes());
        bytes[1100..1114].copy_from_slice(BANNER);
        bytes[1114..1130].copy_from_slice(b"6.1.0-9-arm64 (d");
        bytes
    }

    #[test]
    fn whole_image_gives_release_and_page_size() {
        let info = check(&image()).expect("a whole image");
        assert_eq!(info, ImageInfo { release: Some("6.1.0-9-arm64".into()), page_kib: Some(4) });
    }

    #[test]
    fn truncated_image_is_told_with_both_sizes() {
        assert_eq!(check(&image()[..1200]), Err(ImageError::Truncated { have: 1200, want: 1280 }));
    }

    #[test]
    fn image_without_pe_header_is_judged_by_half_its_size() {
        let mut bytes = image();
        bytes[PE_OFFSET] = 0;
        assert_eq!(check(&bytes), Err(ImageError::Truncated { have: 1280, want: 2048 }));
    }

    #[test]
    fn other_files_are_no_image() {
        assert_eq!(check(b"\x7fELF"), Err(ImageError::NoMagic));
        assert_eq!(check(&[0; 4096]), Err(ImageError::NoMagic));
    }

    #[test]
    fn wild_section_table_is_no_panic() {
        let mut bytes = image();
        bytes[PE_OFFSET..PE_OFFSET + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(check(&bytes).is_ok());
    }

    #[test]
    fn zboot_with_other_compression_is_refused_by_name() {
        let mut bytes = vec![0; 64];
        bytes[..8].copy_from_slice(b"MZ\0\0zimg");
        bytes[24..28].copy_from_slice(b"zstd");
        assert_eq!(gzip_part(&bytes), Err(ImageError::Compression("zstd".into())));
    }
}
