//! The user's name for a kernel.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Error;
use crate::kernel::series::Series;
use crate::policy::faults::FaultKernel;
use crate::policy::spec::PolicyKernel;

/// A kernel as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelChoice {
    /// The newest kernel of one of Debian's series.
    Series(Series),
    /// One exact Debian release, as `uname -r` prints it.
    Release(String),
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
        let debian = text.strip_prefix("debian:");
        let name = debian.unwrap_or(text);
        if let Some(series) = debian.and_then(Series::named) {
            Ok(Self::Series(series))
        } else if is_release(name) {
            Ok(Self::Release(name.to_string()))
        } else if debian.is_none() && (text.contains('/') || Path::new(text).is_file()) {
            Ok(Self::Path(PathBuf::from(text)))
        } else {
            Err(Error::UnknownKernel(text.to_string()))
        }
    }
}

/// Returns whether `name` looks like a release of a Debian arm64 kernel.
fn is_release(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_digit())
        && name.contains("-arm64")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KernelChoice, String> {
        text.parse::<KernelChoice>().map_err(|error| error.to_string())
    }

    #[test]
    fn kernels_have_five_forms_of_names() {
        assert_eq!(parse("debian:6.1"), Ok(KernelChoice::Series(Series::V6_1)));
        assert_eq!(parse("debian:6.12"), Ok(KernelChoice::Series(Series::V6_12)));
        assert_eq!(parse("debian:6.12-16k"), Ok(KernelChoice::Series(Series::V6_12Pages16K)));
        let release = |text: &str| Ok(KernelChoice::Release(text.into()));
        assert_eq!(parse("6.1.0-38-arm64"), release("6.1.0-38-arm64"));
        assert_eq!(parse("debian:6.12.57+deb13-arm64"), release("6.12.57+deb13-arm64"));
        assert_eq!(parse("policy:by-line"), Ok(KernelChoice::Policy("by-line".parse().expect("it is one"))));
        assert_eq!(parse("fault:d-half+64k"), Ok(KernelChoice::Fault("d-half+64k".parse().expect("it is one"))));
        for path in ["./Image", "/boot/vmlinuz-6.1.0-38-arm64"] {
            assert_eq!(parse(path), Ok(KernelChoice::Path(path.into())));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_forms() {
        for text in ["debian:5.10", "debian:", "6.1", "6.1.0-arm64 && true", "debian:./Image"] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(&format!("'{text}'")) && message.contains("debian:6.12"), "{message}");
        }
        assert!(parse("fault:mine").is_err_and(|message| message.contains("no fault is called `mine`")));
        assert!(parse("policy:mine").is_err_and(|message| message.contains("by-line, upton")));
    }
}
