//! Compressed kernels and modules.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;

/// A format of compressed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz.
    Xz,
    /// The older format of LZMA.
    Lzma,
    /// LZ4 in its legacy frames, as the kernel's build writes them.
    Lz4,
}

/// First bytes of the LZ4 format that the kernel uses.
const LZ4_LEGACY: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// Size in bytes of an unpacked block of that format; the last one may be shorter.
const LZ4_BLOCK: usize = 8 << 20;

impl Compression {
    const ALL: [Self; 5] = [Self::Gzip, Self::Zstd, Self::Xz, Self::Lzma, Self::Lz4];

    /// Returns the format that the first bytes belong to.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let magic = |format: &Self| match format {
            Self::Gzip => &[0x1f, 0x8b][..],
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
            Self::Xz => b"\xfd7zXZ\0",
            // Not a magic number, but the properties and the dictionary's size that every kernel has.
            Self::Lzma => &[0x5d, 0, 0],
            Self::Lz4 => &LZ4_LEGACY,
        };
        Self::ALL.into_iter().find(|format| bytes.starts_with(magic(format)))
    }

    /// Returns the format with this name in the header of an EFI zboot image (Linux,
    /// drivers/firmware/efi/libstub/Makefile.zboot).
    pub fn of_zboot(name: &str) -> Option<Self> {
        match name {
            "gzip" => Some(Self::Gzip),
            "zstd" | "zstd22" => Some(Self::Zstd),
            "xz" | "xzkern" => Some(Self::Xz),
            "lzma" => Some(Self::Lzma),
            "lz4" => Some(Self::Lz4),
            _ => None,
        }
    }

    /// Returns the format of a file with this name.
    pub fn of_file(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        match extension {
            "gz" => Some(Self::Gzip),
            "zst" => Some(Self::Zstd),
            "xz" => Some(Self::Xz),
            _ => None,
        }
    }

    /// Unpacks data. Bytes after its end are ignored: the kernel's build appends the unpacked size.
    ///
    /// # Errors
    ///
    /// The data is damaged or truncated.
    pub fn unpack(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut unpacked = Vec::new();
        match self {
            Self::Gzip => MultiGzDecoder::new(bytes).read_to_end(&mut unpacked),
            Self::Zstd => StreamingDecoder::new(bytes).map_err(io::Error::other)?.read_to_end(&mut unpacked),
            Self::Xz => XzReader::new(bytes, false).read_to_end(&mut unpacked),
            Self::Lzma => LzmaReader::new_mem_limit(bytes, u32::MAX, None)?.read_to_end(&mut unpacked),
            Self::Lz4 => return lz4(bytes),
        }?;
        Ok(unpacked)
    }
}

fn lz4(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (mut unpacked, mut rest) = (Vec::new(), &bytes[LZ4_LEGACY.len()..]);
    while let Some((length, blocks)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        if unpacked.len() == length && blocks.is_empty() {
            // The size that the kernel's build appends.
            break;
        }
        let Some((block, next)) = blocks.split_at_checked(length) else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a block of LZ4 is truncated"));
        };
        unpacked.extend(lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(io::Error::other)?);
        rest = next;
    }
    Ok(unpacked)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use lzma_rust2::{LzmaOptions, LzmaWriter, XzOptions, XzWriter};
    use std::io::Write;

    impl Compression {
        /// Packs data.
        pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
            const WRITABLE: &str = "memory can be written to";
            match self {
                Self::Gzip => {
                    let mut writer = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    writer.write_all(bytes).expect(WRITABLE);
                    writer.finish().expect(WRITABLE)
                }
                Self::Zstd => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
                Self::Xz => {
                    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).expect(WRITABLE);
                    writer.write_all(bytes).expect(WRITABLE);
                    writer.finish().expect(WRITABLE)
                }
                Self::Lzma => {
                    let options = LzmaOptions::with_preset(1);
                    let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, None).expect(WRITABLE);
                    writer.write_all(bytes).expect(WRITABLE);
                    writer.finish().expect(WRITABLE)
                }
                Self::Lz4 => {
                    let mut packed = LZ4_LEGACY.to_vec();
                    for block in bytes.chunks(LZ4_BLOCK) {
                        let block = lz4_flex::block::compress(block);
                        packed.extend((block.len() as u32).to_le_bytes());
                        packed.extend(block);
                    }
                    packed
                }
            }
        }

        /// Returns all formats.
        pub fn all() -> impl Iterator<Item = Self> {
            Self::ALL.into_iter()
        }
    }

    #[test]
    fn each_format_is_known_and_unpacked() {
        let text = b"one kernel, and another kernel".repeat(1000);
        for format in Compression::all() {
            let mut packed = format.pack(&text);
            assert_eq!(Compression::of(&packed), Some(format));
            assert_eq!(format.unpack(&packed).expect("whole"), text, "{format:?}");
            assert!(format.unpack(&packed[..packed.len() - 9]).is_err(), "{format:?}");
            if format != Compression::Gzip {
                packed.extend((text.len() as u32).to_le_bytes());
                assert_eq!(format.unpack(&packed).expect("whole"), text, "{format:?}, with its size at the end");
            }
        }
        assert_eq!(Compression::of(b"MZ"), None);
    }

    #[test]
    fn several_blocks_of_lz4_are_one_kernel() {
        let text = vec![7; LZ4_BLOCK + 5];
        assert_eq!(Compression::Lz4.unpack(&Compression::Lz4.pack(&text)).expect("whole"), text);
    }
}
