//! The arm64 kernel Image format (Linux, Documentation/arch/arm64/booting.rst), and its EFI zboot wrapping.
//!
//! With an EFI stub, an Image is also a PE file.

use object::LittleEndian as LE;
use object::pe::{ImageDosHeader, ImageNtHeaders64};
use object::read::pe::ImageNtHeaders;

use crate::kernel::compression::Compression;

const HEADER_BYTES: usize = 64;
const IMAGE_SIZE_OFFSET: usize = 0x10;
const FLAGS_OFFSET: usize = 0x18;
const MAGIC_OFFSET: usize = 0x38;
const PE_OFFSET: usize = 0x3c;
const MAGIC: &[u8] = b"ARM\x64";
/// The beginning of the kernel's banner, before its release.
const BANNER: &[u8] = b"Linux version ";

/// An EFI zboot image (Linux, include/linux/pe.h and drivers/firmware/efi/libstub/zboot-header.S).
const ZBOOT_MAGIC: &[u8] = b"zimg";
const ZBOOT_START_OFFSET: usize = 8;
const ZBOOT_LENGTH_OFFSET: usize = 12;
const ZBOOT_COMPRESSION_OFFSET: usize = 24;

/// Reasons why a file is no kernel that the lab can boot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file has no bytes.
    #[error("is empty: fetch or build it again")]
    Empty,
    /// The file is an x86 kernel.
    #[error("is an x86 kernel; the lab boots arm64 kernels: build with ARCH=arm64")]
    X86,
    /// The file is an ELF file.
    #[error("is an ELF file, such as vmlinux; give arch/arm64/boot/Image of the same build")]
    Elf,
    /// The file is an EFI program of another architecture, or one that wraps no kernel.
    #[error("is an EFI program, but no arm64 kernel; give an arm64 Image")]
    OtherEfi,
    /// A directory without a built kernel.
    #[error("is a directory without arch/arm64/boot/Image: build the kernel there first")]
    NotBuilt,
    /// A package without a kernel.
    #[error("is a package without a kernel (Debian's newer ones are called linux-binary-…, Fedora's kernel-core)")]
    NoKernelInside,
    /// The magic number is absent.
    #[error(
        "is not an arm64 kernel Image (no ARM\\x64 at byte 56); give an Image, plain or compressed, an EFI zboot image, a \
         .deb, an .rpm or a built kernel tree"
    )]
    NoMagic,
    /// The file is shorter than the kernel.
    #[error("is truncated: {have} of at least {want} bytes; fetch or build it again")]
    Truncated {
        /// Length of the file in bytes.
        have: u64,
        /// Length that its header calls for, in bytes.
        want: u64,
    },
    /// The lab cannot unpack this compression.
    #[error("is compressed with {0}: unpack it first")]
    Compression(String),
}

/// Checks an uncompressed Image and returns the release in its banner, which `uname -r` prints in the running kernel.
///
/// # Errors
///
/// [`ImageError::Truncated`], or what the file is instead.
pub fn check(bytes: &[u8]) -> Result<Option<String>, ImageError> {
    if bytes.len() < HEADER_BYTES || &bytes[MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()] != MAGIC {
        return Err(other_kind(bytes));
    }
    let have = bytes.len() as u64;
    let want = stored_bytes(bytes).unwrap_or(HEADER_BYTES as u64);
    if have < want {
        return Err(ImageError::Truncated { have, want });
    }
    Ok(release(bytes))
}

/// Returns the length that the file must have.
///
/// The sections of a PE file give the exact end. `image_size` includes the BSS, which the file does not contain, so
/// without a PE header the result is only a lower limit.
fn stored_bytes(bytes: &[u8]) -> Option<u64> {
    if u32_at(bytes, PE_OFFSET)? == 0 {
        return u64_at(bytes, IMAGE_SIZE_OFFSET).map(|image_size| image_size / 2);
    }
    let mut offset = ImageDosHeader::parse(bytes).ok()?.e_lfanew.get(LE).into();
    let (headers, _) = ImageNtHeaders64::parse(bytes, &mut offset).ok()?;
    Some(headers.sections(bytes, offset).ok()?.max_section_file_offset())
}

/// Returns the page size of an Image in bytes, if its header tells it (Linux, Documentation/arch/arm64/booting.rst).
pub fn page_bytes(bytes: &[u8]) -> Option<u64> {
    match u64_at(bytes, FLAGS_OFFSET)? >> 1 & 3 {
        1 => Some(4 << 10),
        2 => Some(16 << 10),
        3 => Some(64 << 10),
        _ => None,
    }
}

/// Returns the release in the banner.
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

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

/// Returns the compressed kernel in an EFI zboot image and its format, or none for another file.
///
/// # Errors
///
/// [`ImageError::Compression`] or [`ImageError::Truncated`].
pub fn zboot_part(bytes: &[u8]) -> Result<Option<(Compression, &[u8])>, ImageError> {
    if bytes.get(4..8) != Some(ZBOOT_MAGIC) {
        return Ok(None);
    }
    let name = &bytes[ZBOOT_COMPRESSION_OFFSET.min(bytes.len())..];
    let name: Vec<u8> = name.iter().copied().take(32).take_while(|&byte| byte != 0).collect();
    let name = String::from_utf8_lossy(&name).into_owned();
    let format = Compression::of_zboot(&name).ok_or(ImageError::Compression(name))?;
    let start = u32_at(bytes, ZBOOT_START_OFFSET).unwrap_or(0) as usize;
    let length = u32_at(bytes, ZBOOT_LENGTH_OFFSET).unwrap_or(0) as usize;
    let truncated = ImageError::Truncated { have: bytes.len() as u64, want: start as u64 + length as u64 };
    let part = bytes.get(start..start.saturating_add(length)).ok_or(truncated)?;
    Ok(Some((format, part)))
}

/// Returns the kind of a file that is no arm64 Image, as far as its first bytes tell.
fn other_kind(bytes: &[u8]) -> ImageError {
    const X86_SETUP: usize = 0x202;
    if bytes.is_empty() {
        ImageError::Empty
    } else if bytes.starts_with(b"\x7fELF") {
        ImageError::Elf
    } else if bytes.get(X86_SETUP..X86_SETUP + 4) == Some(b"HdrS") {
        ImageError::X86
    } else if bytes.starts_with(b"MZ") {
        ImageError::OtherEfi
    } else {
        ImageError::NoMagic
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::pe::{ImageOptionalHeader64, ImageSectionHeader};
    use std::mem::{offset_of, size_of};

    /// File offset of the PE header in [`image`].
    const PE: usize = 0x40;

    /// Returns a header with one PE section of 256 bytes, which follows the first kilobyte.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 1280];
        let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, b"MZ");
        put(MAGIC_OFFSET, MAGIC);
        put(IMAGE_SIZE_OFFSET, &4096u64.to_le_bytes());
        put(PE_OFFSET, &[PE as u8]);
        put(PE, b"PE\0\0");
        let file_header = PE + offset_of!(ImageNtHeaders64, file_header);
        put(file_header + offset_of!(object::pe::ImageFileHeader, number_of_sections), &[1]);
        let optional_bytes = size_of::<ImageOptionalHeader64>() as u16;
        let size_of_optional_header = offset_of!(object::pe::ImageFileHeader, size_of_optional_header);
        put(file_header + size_of_optional_header, &optional_bytes.to_le_bytes());
        put(
            PE + offset_of!(ImageNtHeaders64, optional_header),
            &object::pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC.to_le_bytes(),
        );
        let section = PE + size_of::<ImageNtHeaders64>();
        put(section + offset_of!(ImageSectionHeader, size_of_raw_data), &256u32.to_le_bytes());
        put(section + offset_of!(ImageSectionHeader, pointer_to_raw_data), &1024u32.to_le_bytes());
        put(1100, BANNER);
        put(1114, b"6.1.0-9-arm64 (d");
        bytes
    }

    #[test]
    fn a_whole_image_gives_its_release() {
        assert_eq!(check(&image()), Ok(Some("6.1.0-9-arm64".into())));
    }

    #[test]
    fn a_truncated_image_is_refused_with_both_sizes() {
        assert_eq!(check(&image()[..1200]), Err(ImageError::Truncated { have: 1200, want: 1280 }));
    }

    #[test]
    fn an_image_without_pe_header_needs_half_its_size() {
        let mut bytes = image();
        bytes[PE_OFFSET] = 0;
        assert_eq!(check(&bytes), Err(ImageError::Truncated { have: 1280, want: 2048 }));
    }

    #[test]
    fn the_flags_tell_the_page_size() {
        let mut bytes = image();
        for (flags, page) in [(0xa, Some(4096)), (0xc, Some(16384)), (0xe, Some(65536)), (0x8, None)] {
            bytes[FLAGS_OFFSET] = flags;
            assert_eq!(page_bytes(&bytes), page);
        }
    }

    #[test]
    fn other_files_are_no_image() {
        assert_eq!(check(b"\x7fELF"), Err(ImageError::Elf));
        assert_eq!(check(b""), Err(ImageError::Empty));
        assert_eq!(check(b"MZ"), Err(ImageError::OtherEfi));
        assert_eq!(check(&[0; 4096]), Err(ImageError::NoMagic));
        let mut x86 = vec![0; 4096];
        x86[..2].copy_from_slice(b"MZ");
        x86[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(check(&x86), Err(ImageError::X86));
    }

    #[test]
    fn a_wild_pe_offset_is_no_panic() {
        let mut bytes = image();
        bytes[PE_OFFSET..PE_OFFSET + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(check(&bytes).is_ok());
    }

    #[test]
    fn zboot_with_an_unknown_compression_is_refused_by_name() {
        let mut bytes = vec![0; 64];
        bytes[..8].copy_from_slice(b"MZ\0\0zimg");
        bytes[24..27].copy_from_slice(b"lzo");
        assert_eq!(zboot_part(&bytes), Err(ImageError::Compression("lzo".into())));
    }
}
