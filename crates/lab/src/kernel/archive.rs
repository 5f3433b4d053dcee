//! The kernels in Debian's archive, from its package lists.

use std::collections::BTreeMap;

use debversion::Version;

use crate::apt::Package;
use crate::kernel::name::{DebianName, Flavour};

/// Size in bytes below which a package holds no kernel: it only depends on the one that does.
const LEAST_BYTES: u64 = 1 << 20;
/// Beginnings of the names of packages with kernels, in the order in which they are taken. Since 6.19,
/// `linux-binary-RELEASE` holds the kernel, and `linux-modules-RELEASE` the modules.
const PREFIXES: [&str; 3] = ["linux-binary-unsigned-", "linux-binary-", "linux-image-"];
/// End of the names of some of them.
const UNSIGNED: &str = "-unsigned";
/// Beginning of the names of packages with modules alone.
const MODULES: &str = "linux-modules-";

/// A kernel in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveKernel {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// The package that holds it.
    pub package: Package,
}

impl ArchiveKernel {
    /// Returns the kernel in a package, if it holds one.
    fn in_package(package: &Package) -> Option<Self> {
        let release = release_of(&package.name)?;
        let is_kernel = package.bytes >= LEAST_BYTES && Flavour::of_release(release).is_some();
        is_kernel.then(|| Self { release: release.to_owned(), package: package.clone() })
    }

    fn version(&self) -> Option<Version> {
        self.package.version.parse().ok()
    }
}

/// Returns whether a package may hold a kernel, by its name.
pub fn may_hold_kernel(package: &str) -> bool {
    release_of(package).is_some_and(|release| Flavour::of_release(release).is_some())
}

/// Returns the release in the name of a package.
fn release_of(package: &str) -> Option<&str> {
    let release = PREFIXES.iter().find_map(|prefix| package.strip_prefix(prefix))?;
    let release = release.strip_suffix(UNSIGNED).unwrap_or(release);
    release.starts_with(|c: char| c.is_ascii_digit()).then_some(release)
}

/// Returns the package with the modules of the kernel that `package` holds.
pub fn modules_package(package: &str, release: &str) -> String {
    if package.starts_with("linux-binary") { format!("{MODULES}{release}") } else { package.to_owned() }
}

/// Returns the kernels in `packages`, newest first, each once for each suite. Of several packages with one kernel, the
/// unsigned one is taken.
pub fn kernels(packages: &[Package]) -> Vec<ArchiveKernel> {
    let mut best: BTreeMap<(String, String), ArchiveKernel> = BTreeMap::new();
    for kernel in packages.iter().filter_map(ArchiveKernel::in_package) {
        let key = (kernel.release.clone(), kernel.package.suite.clone());
        match best.get(&key) {
            Some(known) if rank(known) >= rank(&kernel) => (),
            _ => drop(best.insert(key, kernel)),
        }
    }
    let mut kernels: Vec<_> = best.into_values().collect();
    kernels.sort_by(|a, b| b.version().cmp(&a.version()).then_with(|| a.release.cmp(&b.release)));
    kernels
}

/// Orders packages with the same kernel.
fn rank(kernel: &ArchiveKernel) -> (Option<Version>, bool) {
    (kernel.version(), kernel.package.name.contains(UNSIGNED))
}

/// Returns the kernels that `name` may mean, the best first.
pub fn meant<'a>(name: &DebianName, kernels: &'a [ArchiveKernel]) -> Vec<&'a ArchiveKernel> {
    let matches =
        |kernel: &&ArchiveKernel| name.matches(&kernel.release, &kernel.package.version, &kernel.package.suite);
    kernels.iter().filter(matches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, suite: &str, bytes: u64) -> Package {
        Package { name: name.into(), version: version.into(), suite: suite.into(), bytes }
    }

    fn archive() -> Vec<ArchiveKernel> {
        let big = 1 << 24;
        kernels(&[
            package("linux-image-6.1.0-9-arm64-unsigned", "6.1.27-1", "bookworm", big),
            package("linux-image-6.1.0-56-arm64", "6.1.180-1", "bookworm-security", big),
            package("linux-image-6.1.0-56-arm64-unsigned", "6.1.180-1", "bookworm-security", big),
            package("linux-image-6.1.0-56-rt-arm64-unsigned", "6.1.180-1", "bookworm-security", big),
            package("linux-image-6.1-arm64", "6.1.180-1~deb11u1", "bullseye-security", 1500),
            package("linux-image-7.3.4+deb13-arm64", "7.3.4-1~bpo13+1", "trixie-backports", 1500),
            package("linux-binary-7.3.4+deb13-arm64", "7.3.4-1~bpo13+1", "trixie-backports", big),
            package("linux-binary-7.3-arm64", "7.3~rc7-1~exp1", "experimental", big),
            package("linux-binary-7.2.13+deb13-arm64-16k", "7.2.13-1~bpo13+1", "trixie-backports", big),
            package("linux-image-arm64-signed-template", "6.1.180-1", "bookworm", big),
            package("linux-image-6.1.0-56-arm64-dbg", "6.1.180-1", "bookworm", big),
        ])
    }

    fn best(text: &str) -> Option<String> {
        let name = text.parse().unwrap_or_else(|_| panic!("{text} is a name"));
        meant(&name, &archive()).first().map(|kernel| kernel.package.name.clone())
    }

    #[test]
    fn names_select_the_newest_kernel_of_their_flavour() {
        for (text, package) in [
            ("6.1", Some("linux-image-6.1.0-56-arm64-unsigned")),
            ("6.1-rt", Some("linux-image-6.1.0-56-rt-arm64-unsigned")),
            ("7.3", Some("linux-binary-7.3.4+deb13-arm64")),
            ("latest", Some("linux-binary-7.3.4+deb13-arm64")),
            ("latest-16k", Some("linux-binary-7.2.13+deb13-arm64-16k")),
            ("experimental", Some("linux-binary-7.3-arm64")),
            ("bookworm", Some("linux-image-6.1.0-56-arm64-unsigned")),
            ("6.1.0-9-arm64", Some("linux-image-6.1.0-9-arm64-unsigned")),
            ("5.10", None),
            ("bullseye", None),
        ] {
            assert_eq!(best(text).as_deref(), package, "{text}");
        }
    }

    #[test]
    fn newer_packages_have_their_modules_apart() {
        let release = "7.3.4+deb13-arm64";
        let modules = "linux-modules-7.3.4+deb13-arm64";
        assert_eq!(modules_package("linux-binary-unsigned-7.3.4+deb13-arm64", release), modules);
        assert_eq!(modules_package("linux-image-6.1.0-9-arm64", "6.1.0-9-arm64"), "linux-image-6.1.0-9-arm64");
    }
}
