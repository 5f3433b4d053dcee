//! Policy kernels: arm64 Linux images from one source tree that differ by their I-cache maintenance at stage 2 alone.
//!
//! ```text
//! CACHE/linux/<source>/src         the unpacked tree, with the chosen patch applied
//! CACHE/linux/<source>/pristine    the tree's own version of every file a patch ever touched
//! CACHE/linux/<source>/build-4k    objects, shared by the policies of a page size
//! CACHE/policy/<key>/              Image, System.map, config, build.log and inputs, all that the key stands for
//! ```
//!
//! Policies share their objects, so a second one compiles only what includes the patched file. That they never mix rests
//! on three things: one build at a time per source (a lock), every build first sets every file that any patch touches
//! to exactly its content for this policy, and a file that changes gets a new time, which is what make goes by.

mod build;
mod source;

use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use build::PACKAGES;
pub use source::Source;

use crate::process::Interrupt;

/// What the kernel does to the I-cache when stage 2 grants execute permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Line by line whatever the size: KVM up to v6.6.
    ByLine,
    /// Line by line up to `MAX_DVM_OPS` lines, then the whole I-cache: KVM since v6.7, the tree as it is.
    Upton,
    /// Line by line for one page, the whole I-cache for anything larger.
    Shan,
    /// Nothing: a deliberately broken kernel.
    None,
}

impl Policy {
    /// All of them, in the order in which they are best built: the tree as it is comes first.
    pub const ALL: [Self; 4] = [Self::Upton, Self::ByLine, Self::Shan, Self::None];

    /// Returns the name used in specifications and in lab/policies/.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByLine => "by-line",
            Self::Upton => "upton",
            Self::Shan => "shan",
            Self::None => "none",
        }
    }

    /// Returns the patch that makes a v6.7 or later tree follow this policy; empty where the tree already does.
    fn patch(self) -> &'static str {
        match self {
            Self::ByLine => include_str!("../../../lab/policies/by-line.patch"),
            Self::Upton => "",
            Self::Shan => include_str!("../../../lab/policies/shan.patch"),
            Self::None => include_str!("../../../lab/policies/none.patch"),
        }
    }
}

/// Page size of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 16 KiB.
    Size16K,
    /// 64 KiB.
    Size64K,
}

impl PageSize {
    /// Returns `4k`, `16k` or `64k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size4K => "4k",
            Self::Size16K => "16k",
            Self::Size64K => "64k",
        }
    }

    /// Returns the kernel option that selects it.
    fn option(self) -> &'static str {
        match self {
            Self::Size4K => "CONFIG_ARM64_4K_PAGES",
            Self::Size16K => "CONFIG_ARM64_16K_PAGES",
            Self::Size64K => "CONFIG_ARM64_64K_PAGES",
        }
    }
}

/// A policy and a page size: `by-line`, `none+16k`, `upton+64k`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What the kernel does.
    pub policy: Policy,
    /// Its page size; 4 KiB if not given.
    pub page: PageSize,
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::Spec(text.to_owned());
        let (name, page) = text.split_once('+').unwrap_or((text, PageSize::Size4K.name()));
        let policy = Policy::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(unknown)?;
        let page = [PageSize::Size4K, PageSize::Size16K, PageSize::Size64K]
            .into_iter()
            .find(|size| size.name() == page)
            .ok_or_else(unknown)?;
        Ok(Self { policy, page })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.policy.name())?;
        match self.page {
            PageSize::Size4K => Ok(()),
            page => write!(f, "+{}", page.name()),
        }
    }
}

/// Why there is no policy kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a policy.
    #[error(
        "no policy kernel is called `{0}`: take by-line, upton, shan or none, with +16k or +64k for other page sizes"
    )]
    Spec(String),
    /// Programs that a build needs are not installed.
    #[error("building a policy kernel needs {}; install: apt-get install {}", .0.join(", "), PACKAGES.join(" "))]
    Tools(Vec<&'static str>),
    /// apt has no kernel source for us.
    #[error("cannot fetch {package}: {reason}; with a kernel tree at hand use --linux DIR")]
    Fetch {
        /// The Debian package.
        package: &'static str,
        /// apt's own words, or the system's.
        reason: String,
    },
    /// The package or the tree could not be copied into the cache.
    #[error("cannot unpack the kernel source into {}: {reason}", .into.display())]
    Unpack {
        /// Where it should have gone.
        into: PathBuf,
        /// The program that failed and how.
        reason: String,
    },
    /// `--linux` does not point at a kernel tree.
    #[error("{} is no Linux source tree: it has no arch/arm64/kvm/mmu.c", .0.display())]
    NotLinux(PathBuf),
    /// The tree differs from what the patch expects.
    #[error("{policy}.patch does not apply to this kernel source (it is written for Linux 6.12): {reason}")]
    Patch {
        /// The policy.
        policy: &'static str,
        /// What patch(1) said.
        reason: String,
    },
    /// The configuration came out without something the lab depends on.
    #[error("this kernel source drops options that the lab needs: {} (in {})", .missing.join(", "), .config.display())]
    Config {
        /// The options.
        missing: Vec<String>,
        /// The resulting configuration.
        config: PathBuf,
    },
    /// make failed.
    #[error("building the {spec} kernel failed: {line} (whole log: {})", .log.display())]
    Build {
        /// The kernel.
        spec: Spec,
        /// The first line that looks like the cause.
        line: String,
        /// Everything make printed.
        log: PathBuf,
    },
    /// A file of the cache could not be used.
    #[error("cannot {what} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Turns an `io::Error` into ours, with the step and the path.
fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| Error::Io { what, path: path.to_owned(), error }
}

/// Returns the path of the `Image` of `spec`, building it (and fetching its source) if the cache does not hold it.
/// System.map is beside it: [`system_map`].
///
/// `progress` gets one short line whenever there is something new to show.
///
/// # Errors
///
/// Each variant of [`Error`] names the step; nothing half-built is ever left under the path that is returned.
pub fn image(
    spec: &str,
    source: &Source,
    cache: &Path,
    interrupt: &Interrupt,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, Error> {
    let spec: Spec = spec.parse()?;
    build::check_tools()?;
    let compiler = build::compiler_version()?;
    let tree = source.tree(cache, interrupt, progress)?;
    let inputs = inputs(spec, &tree.id, &compiler);
    let folder = cache.join("policy").join(key(&inputs));
    let image = folder.join("Image");
    if is_for(&folder, &inputs) {
        return Ok(image);
    }
    let _lock = tree.lock(interrupt, progress)?;
    // Another process may have built it while this one waited for the lock.
    if !is_for(&folder, &inputs) {
        build::build(spec, &tree, &compiler, &inputs, &folder, interrupt, progress)?;
    }
    Ok(image)
}

/// Returns where the symbols of a policy kernel's `image` are (addresses hold with `nokaslr`).
pub fn system_map(image: &Path) -> PathBuf {
    image.with_file_name("System.map")
}

/// Everything that the kernel depends on, as text that can be read and compared.
fn inputs(spec: Spec, source: &str, compiler: &str) -> String {
    format!(
        "source: {source}\ncompiler: {compiler}\npage size: {}\n\n== config\n{}\n== patch\n{}",
        spec.page.name(),
        build::config(spec.page),
        diff(spec.policy.patch())
    )
}

/// Returns `patch` without its head, which only people read.
fn diff(patch: &str) -> &str {
    patch.find("\n--- a/").map_or("", |start| &patch[start + 1..])
}

/// A name for `inputs`. The stored text decides whether a folder fits, so a collision costs a build and nothing else.
fn key(inputs: &str) -> String {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Whether `folder` holds a finished build of exactly `inputs`.
fn is_for(folder: &Path, inputs: &str) -> bool {
    folder.join("Image").exists() && fs::read_to_string(folder.join("inputs")).is_ok_and(|stored| stored == inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_reads_as_it_prints() {
        for text in ["by-line", "upton", "shan", "none", "by-line+16k", "none+64k"] {
            let spec: Spec = text.parse().expect(text);
            assert_eq!(spec.to_string(), text);
        }
        assert_eq!("upton+4k".parse::<Spec>().expect("4k may be said").to_string(), "upton");
        for text in ["", "byline", "upton+", "upton+32k", "+16k", "UPTON"] {
            assert!(matches!(text.parse::<Spec>(), Err(Error::Spec(bad)) if bad == text), "{text}");
        }
    }

    #[test]
    fn every_policy_and_page_size_has_its_own_key() {
        let mut keys: Vec<_> = Policy::ALL
            .into_iter()
            .flat_map(|policy| {
                [PageSize::Size4K, PageSize::Size16K, PageSize::Size64K].map(|page| Spec { policy, page })
            })
            .map(|spec| key(&inputs(spec, "debian 1", "cc 1")))
            .collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 12);
    }

    #[test]
    fn words_for_people_are_not_part_of_a_key() {
        let spec = Spec { policy: Policy::ByLine, page: PageSize::Size64K };
        let text = inputs(spec, "debian 1", "cc 1");
        assert!(
            text.contains("== patch\n--- a/arch/arm64/") && text.contains("\nCONFIG_ARM64_64K_PAGES=y\n"),
            "{text}"
        );
        assert!(text.contains("# CONFIG_LOCALVERSION_AUTO is not set") && !text.contains("Checked on"), "{text}");
        assert_eq!(diff(""), "");
    }

    #[test]
    fn a_folder_fits_only_its_own_inputs() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("inputs"), "a").expect("written");
        assert!(!is_for(folder.path(), "a"), "no Image");
        fs::write(folder.path().join("Image"), "").expect("written");
        assert!(is_for(folder.path(), "a"));
        assert!(!is_for(folder.path(), "b"));
    }
}
