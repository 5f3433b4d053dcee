//! Names of Debian's kernels: a suite, a version or an exact release, with a flavour.

use std::fmt;
use std::str::FromStr;

use crate::kernel::suites;

/// The name of the suite's newest kernel that `latest` means.
const LATEST: &str = "trixie-backports";

/// Build of a kernel besides the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// For most machines.
    Plain,
    /// PREEMPT_RT.
    Rt,
    /// For virtual machines of cloud providers.
    Cloud,
    /// 16 KiB pages.
    Pages16K,
}

impl Flavour {
    const ALL: [Self; 4] = [Self::Plain, Self::Rt, Self::Cloud, Self::Pages16K];

    /// Returns the end of a name such as `debian:latest-rt`.
    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Rt => "-rt",
            Self::Cloud => "-cloud",
            Self::Pages16K => "-16k",
        }
    }

    /// Returns the end of a release.
    fn release_suffix(self) -> &'static str {
        match self {
            Self::Plain => "-arm64",
            Self::Rt => "-rt-arm64",
            Self::Cloud => "-cloud-arm64",
            Self::Pages16K => "-arm64-16k",
        }
    }

    /// Returns the flavour of a release; none if it is not one of Debian's arm64 kernels.
    pub fn of_release(release: &str) -> Option<Self> {
        // The end of the plain flavour is an end of others, too.
        Self::ALL.into_iter().rev().find(|flavour| release.ends_with(flavour.release_suffix()))
    }
}

/// Meaning of a name without its flavour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The newest kernel of a suite.
    Suite(&'static str),
    /// The newest kernel whose version begins with this one, as in `6.12` or `7.1.13`.
    Version(String),
    /// The kernel of this release, as `uname -r` prints it.
    Release(String),
}

/// Name of one of Debian's kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianName {
    /// Meaning without the flavour.
    pub which: Which,
    /// Flavour.
    pub flavour: Flavour,
}

/// A text that names none of Debian's kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoDebianName;

impl FromStr for DebianName {
    type Err = NoDebianName;

    fn from_str(text: &str) -> Result<Self, NoDebianName> {
        if let Some(flavour) = Flavour::of_release(text).filter(|_| is_release(text)) {
            return Ok(Self { which: Which::Release(text.to_owned()), flavour });
        }
        let flavours = Flavour::ALL.into_iter().rev();
        let (base, flavour) = flavours
            .filter_map(|flavour| Some((text.strip_suffix(flavour.suffix())?, flavour)))
            .next()
            .ok_or(NoDebianName)?;
        let which = if base == "latest" {
            Which::Suite(LATEST)
        } else if let Some(suite) = suites::named(base) {
            Which::Suite(suite)
        } else if is_version(base) {
            Which::Version(base.to_owned())
        } else {
            return Err(NoDebianName);
        };
        Ok(Self { which, flavour })
    }
}

impl fmt::Display for DebianName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Suite(name) => write!(f, "{name}{}", self.flavour.suffix()),
            Which::Version(version) => write!(f, "{version}{}", self.flavour.suffix()),
            Which::Release(release) => f.write_str(release),
        }
    }
}

impl DebianName {
    /// Returns whether a kernel with this release and this version of its package, from this suite, may be meant.
    pub fn matches(&self, release: &str, version: &str, suite: &str) -> bool {
        let is_flavour = Flavour::of_release(release) == Some(self.flavour);
        match &self.which {
            Which::Suite(name) => is_flavour && suites::belongs(suite, name),
            Which::Version(prefix) => is_flavour && begins(version, prefix),
            Which::Release(wanted) => release == wanted,
        }
    }
}

/// Returns whether `version` is `prefix`, or goes on after it with another number.
fn begins(version: &str, prefix: &str) -> bool {
    version.strip_prefix(prefix).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn is_version(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    (2..=3).contains(&parts.len()) && parts.iter().all(|part| part.parse::<u16>().is_ok())
}

fn is_release(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DebianName {
        text.parse().unwrap_or_else(|_| panic!("{text} is a name"))
    }

    #[test]
    fn names_read_as_they_print() {
        for text in ["6.12", "7.1.13-rt", "sid-cloud", "trixie-backports-16k", "5.10", "6.12.57+deb13-arm64-16k"] {
            assert_eq!(name(text).to_string(), text);
        }
        assert_eq!(name("latest-16k"), name("trixie-backports-16k"));
        for text in ["", "6", "6.x", "6.12.1.2", "buster", "-rt", "6.12-64k", "6.1.0-38-amd64", "arm64", "7.3/x-arm64"]
        {
            assert_eq!(text.parse::<DebianName>(), Err(NoDebianName), "{text}");
        }
    }

    #[test]
    fn a_version_is_not_the_beginning_of_another_number() {
        let release = "7.1.13+deb13-arm64";
        for (text, expected) in [("7.1", true), ("7.1.13", true), ("7.1.1", false), ("7.1-rt", false)] {
            assert_eq!(name(text).matches(release, "7.1.13-1~bpo13+1", "trixie-backports"), expected, "{text}");
        }
        assert!(name("7.3").matches("7.3-arm64", "7.3~rc7-1~exp1", "experimental"));
        assert!(name("6.1").matches("6.1.0-56-arm64", "6.1.180-1", "bookworm-security"));
    }

    #[test]
    fn a_suite_has_its_updates() {
        let is_in = |text: &str, suite: &str| name(text).matches("6.1.0-56-arm64", "6.1.180-1", suite);
        assert!(is_in("bookworm", "bookworm") && is_in("bookworm", "bookworm-security"));
        assert!(!is_in("bookworm", "bookworm-backports") && !is_in("trixie", "bookworm"));
        assert!(!is_in("bookworm-16k", "bookworm"));
    }
}
