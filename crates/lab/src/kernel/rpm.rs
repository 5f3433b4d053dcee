//! Takes the kernel out of an RPM package (rpm's manual, "RPM V4 Package format").

use std::io::{self, Read};

use crate::kernel::compression::Compression;
use crate::kernel::package::is_kernel_path;

/// First bytes of a package.
const LEAD: &[u8] = &[0xed, 0xab, 0xee, 0xdb];
/// Size of the first part of a package in bytes.
const LEAD_BYTES: usize = 96;
/// First bytes of a header.
const HEADER: &[u8] = &[0x8e, 0xad, 0xe8, 0x01];
/// Size of the first part of a header in bytes, and of each of its index entries.
const HEADER_BYTES: usize = 16;

/// Returns whether these are the first bytes of an RPM package.
pub fn is_package(bytes: &[u8]) -> bool {
    bytes.starts_with(LEAD)
}

/// Returns the kernel in a package; none if there is none.
///
/// # Errors
///
/// The package is damaged, or its compression is not known.
pub fn kernel(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let truncated = || io::Error::new(io::ErrorKind::UnexpectedEof, "the package is truncated");
    let signature = header_bytes(bytes, LEAD_BYTES).ok_or_else(truncated)?;
    let header = LEAD_BYTES + signature.next_multiple_of(8);
    let payload = header + header_bytes(bytes, header).ok_or_else(truncated)?;
    let payload = bytes.get(payload..).ok_or_else(truncated)?;
    let format = Compression::of(payload).ok_or_else(|| io::Error::other("its compression is not known"))?;
    let archive = format.unpack(payload)?;
    let mut rest = archive.as_slice();
    loop {
        let mut entry = cpio::newc::Reader::new(rest)?;
        if entry.entry().is_trailer() {
            return Ok(None);
        }
        if is_kernel_path(entry.entry().name()) && entry.entry().file_size() > 0 {
            let mut kernel = Vec::new();
            entry.read_to_end(&mut kernel)?;
            return Ok(Some(kernel));
        }
        rest = entry.finish()?;
    }
}

/// Returns the size of the header at this offset in bytes.
fn header_bytes(bytes: &[u8], at: usize) -> Option<usize> {
    let header = bytes.get(at..)?;
    let number = |offset: usize| Some(u32::from_be_bytes(header.get(offset..offset + 4)?.try_into().ok()?) as usize);
    header.starts_with(HEADER).then_some(())?;
    Some(HEADER_BYTES + number(8)? * HEADER_BYTES + number(12)?)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::io::Write;

    /// Returns a package with one file.
    pub fn rpm(path: &str, contents: &[u8], format: Compression) -> Vec<u8> {
        let mut package = LEAD.to_vec();
        package.resize(LEAD_BYTES, 0);
        for (entries, data) in [(1u32, 5u32), (2, 40)] {
            let start = package.len().next_multiple_of(8);
            package.resize(start, 0);
            package.extend(HEADER);
            package.extend([0; 4]);
            package.extend(entries.to_be_bytes());
            package.extend(data.to_be_bytes());
            package.resize(package.len() + entries as usize * HEADER_BYTES + data as usize, 0xff);
        }
        let size = u32::try_from(contents.len()).expect("small");
        let mut writer = cpio::newc::Builder::new(&format!("./{path}")).mode(0o100_644).write(Vec::new(), size);
        writer.write_all(contents).expect("memory can be written to");
        let archive = writer.finish().expect("memory can be written to");
        let archive = cpio::newc::trailer(archive).expect("memory can be written to");
        package.extend(format.pack(&archive));
        package
    }
}
