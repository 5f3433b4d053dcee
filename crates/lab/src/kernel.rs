//! How the user names a kernel, and how the name becomes an Image.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Error;
use crate::cache::{self, Cache};
use crate::debian::{self, Series};
use crate::image::{self, ImageInfo};
use crate::modules::Supply;
use crate::policy;
use crate::process::Interrupt;

/// A kernel as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// The newest kernel of one of Debian's series.
    Series(Series),
    /// One exact Debian release, as `uname -r` gives it.
    Release(String),
    /// A policy variant, built from source.
    Policy(policy::Spec),
    /// A file.
    Path(PathBuf),
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownKernel(text.to_string());
        if let Some(name) = text.strip_prefix("policy:") {
            return name.parse().map(Self::Policy).map_err(Error::Policy);
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
            Err(unknown())
        }
    }
}

fn is_release(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_digit())
        && name.contains("-arm64")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '~'))
}

/// A kernel that is ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// How the user named it.
    pub name: String,
    /// The uncompressed Image.
    pub image: PathBuf,
    /// What its header says.
    pub info: ImageInfo,
    /// Modules for swap, where these are wanted.
    pub supply: Option<Supply>,
}

/// Whether a kernel's modules are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modules {
    /// Those that swap needs.
    ForSwap,
    /// None.
    Unwanted,
}

/// Makes the kernel ready: fetched, unpacked and checked.
///
/// # Errors
///
/// Any step's.
pub fn resolve(
    name: &str,
    spec: &Spec,
    modules: Modules,
    linux: Option<&Path>,
    scratch: &Path,
    interrupt: &Interrupt,
    progress: &dyn Fn(&str),
) -> Result<Kernel, Error> {
    let others = || {
        let why = "the lab has modules only for Debian's kernels".to_owned();
        (modules == Modules::ForSwap).then_some(Supply::Nothing(why))
    };
    let debian = |fetch: &dyn Fn(&Cache) -> Result<PathBuf, Error>| {
        let cache = Cache::open(interrupt, progress)?;
        let image = fetch(&cache)?;
        let wanted = (modules == Modules::ForSwap).then(|| debian::modules(&image, &cache, interrupt, progress));
        Ok::<_, Error>((image, wanted.transpose()?))
    };
    let (path, supply) = match spec {
        Spec::Path(path) => (path.clone(), others()),
        Spec::Series(series) => debian(&|cache| debian::fetch_series(*series, cache, interrupt, progress))?,
        Spec::Release(release) => debian(&|cache| debian::fetch_release(release, cache, interrupt, progress))?,
        Spec::Policy(policy) => {
            let source = linux.map_or(policy::Source::Debian, |tree| policy::Source::Tree(tree.to_owned()));
            let image = policy::image(&policy.to_string(), &source, &cache::directory()?, interrupt, progress);
            interrupt.check()?;
            (image?, others())
        }
    };
    let (image, info) = image::prepare(&path, scratch)?;
    Ok(Kernel { name: name.to_string(), image, info, supply })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Spec, String> {
        text.parse::<Spec>().map_err(|error| error.to_string())
    }

    #[test]
    fn names_of_kernels() {
        assert_eq!(parse("debian:6.1"), Ok(Spec::Series(Series::V6_1)));
        assert_eq!(parse("debian:6.12"), Ok(Spec::Series(Series::V6_12)));
        assert_eq!(parse("debian:6.12-16k"), Ok(Spec::Series(Series::V6_12Pages16K)));
        assert_eq!(parse("6.1.0-38-arm64"), Ok(Spec::Release("6.1.0-38-arm64".into())));
        assert_eq!(parse("debian:6.12.57+deb13-arm64"), Ok(Spec::Release("6.12.57+deb13-arm64".into())));
        assert_eq!(parse("policy:by-line"), Ok(Spec::Policy("by-line".parse().expect("it is one"))));
        assert_eq!(parse("./Image"), Ok(Spec::Path("./Image".into())));
        assert_eq!(parse("/boot/vmlinuz-6.1.0-38-arm64"), Ok(Spec::Path("/boot/vmlinuz-6.1.0-38-arm64".into())));
    }

    #[test]
    fn unknown_kernels_are_named_with_what_is_possible() {
        for text in ["debian:5.10", "debian:", "6.1", "6.1.0-arm64 && true", "debian:./Image"] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(&format!("'{text}'")) && message.contains("debian:6.12"), "{message}");
        }
        assert!(parse("policy:mine").is_err_and(|message| message.contains("by-line, upton")));
    }
}
