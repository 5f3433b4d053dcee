//! SHA-256 digests of files in the cache.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Length and digest of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// Reads `source` to its end and returns its length and digest.
///
/// # Errors
///
/// The first error of `source`.
pub fn sum(mut source: impl Read) -> io::Result<Sum> {
    let mut hasher = Sha256::new();
    let bytes = io::copy(&mut source, &mut hasher)?;
    Ok(Sum { bytes, sha256: hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_published_one() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sum(&b"abc"[..]).expect("memory is readable"), Sum { bytes: 3, sha256: expected.into() });
    }
}
