//! The user's name for a kernel.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Error;
use crate::kernel::name::{DebianName, Which};
use crate::policy::faults::FaultKernel;
use crate::policy::spec::PolicyKernel;

/// A kernel as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelChoice {
    /// One of Debian's kernels.
    Debian(DebianName),
    /// A policy kernel, built from source.
    Policy(PolicyKernel),
    /// A kernel with a fault, built from source.
    Fault(FaultKernel),
    /// A file.
    Path(PathBuf),
}

impl FromStr for KernelChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(name) = text.strip_prefix("policy:") {
            return name.parse().map(Self::Policy).map_err(|unknown| Error::Policy(unknown.into()));
        }
        if let Some(name) = text.strip_prefix("fault:") {
            return name.parse().map(Self::Fault).map_err(Error::Fault);
        }
        let unknown = || Error::UnknownKernel(text.to_string());
        if let Some(name) = text.strip_prefix("debian:") {
            return name.parse().map(Self::Debian).map_err(|_| unknown());
        }
        let path = Path::new(text);
        match text.parse() {
            // Without the prefix, only an exact release is no path.
            Ok(name @ DebianName { which: Which::Release(_), .. }) => Ok(Self::Debian(name)),
            _ if text.contains('/') || path.exists() => Ok(Self::Path(path.to_owned())),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KernelChoice, String> {
        text.parse::<KernelChoice>().map_err(|error| error.to_string())
    }

    #[test]
    fn kernels_have_four_forms_of_names() {
        let debian = |text: &str| Ok(KernelChoice::Debian(text.parse().unwrap_or_else(|_| panic!("{text} is a name"))));
        for text in ["6.1", "6.12-16k", "latest-rt", "sid", "6.12.57+deb13-arm64"] {
            assert_eq!(parse(&format!("debian:{text}")), debian(text));
        }
        assert_eq!(parse("6.1.0-38-arm64"), debian("6.1.0-38-arm64"));
        assert_eq!(parse("policy:by-line"), Ok(KernelChoice::Policy("by-line".parse().expect("it is one"))));
        assert_eq!(parse("fault:d-half+64k"), Ok(KernelChoice::Fault("d-half+64k".parse().expect("it is one"))));
        for path in ["./Image", "/boot/vmlinuz-6.1.0-38-arm64"] {
            assert_eq!(parse(path), Ok(KernelChoice::Path(path.into())));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_forms() {
        for text in ["debian:5", "debian:", "6.1", "6.1.0-arm64 && true", "debian:./Image", "latest", ""] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(&format!("'{text}'")) && message.contains("debian:VERSION"), "{message}");
        }
        assert!(parse("fault:mine").is_err_and(|message| message.contains("no fault is called `mine`")));
        assert!(parse("policy:mine").is_err_and(|message| message.contains("by-line, upton")));
    }
}
