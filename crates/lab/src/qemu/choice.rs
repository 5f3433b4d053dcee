//! The user's choice of a QEMU.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The name of the machine's own QEMU.
pub const OWN_QEMU: &str = "qemu-system-aarch64";

/// A QEMU as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuChoice {
    /// A program.
    Program(PathBuf),
    /// The machine's own QEMU if its major version is at least this one, otherwise the one in Debian's backports.
    AtLeast(u32),
}

impl Default for QemuChoice {
    fn default() -> Self {
        Self::Program(OWN_QEMU.into())
    }
}

impl fmt::Display for QemuChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(path) => path.display().fmt(f),
            Self::AtLeast(version) => version.fmt(f),
        }
    }
}

impl FromStr for QemuChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::Program(text.into()), Self::AtLeast))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_version_and_any_other_text_a_program() {
        assert_eq!("10".parse(), Ok(QemuChoice::AtLeast(10)));
        assert_eq!(QemuChoice::AtLeast(10).to_string(), "10");
        for text in ["qemu-system-aarch64", "./10", "/opt/qemu/bin/qemu-system-aarch64"] {
            assert_eq!(text.parse(), Ok(QemuChoice::Program(text.into())));
        }
    }
}
