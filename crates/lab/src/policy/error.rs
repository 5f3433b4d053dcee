//! Errors of fetching, configuring and building a policy kernel.

use std::io;
use std::path::{Path, PathBuf};

use crate::policy::spec::{PolicyKernel, SourceVersion, UnknownPolicy};

/// Reasons why there is no policy kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is unknown.
    #[error("{0}")]
    Unknown(#[from] UnknownPolicy),
    /// Programs that a build needs are not installed.
    #[error("building a policy kernel needs {}; install: apt-get install {}", .missing.join(", "), .packages.join(" "))]
    Tools {
        /// The missing programs.
        missing: Vec<&'static str>,
        /// The Debian packages of all programs.
        packages: &'static [&'static str],
    },
    /// apt could not fetch the kernel source.
    #[error("cannot fetch {package}: {reason}; with a kernel tree at hand use --linux DIR")]
    Fetch {
        /// The Debian package.
        package: String,
        /// apt's or the system's error message.
        reason: String,
    },
    /// The package or the tree could not be copied into the cache.
    #[error("cannot unpack the kernel source into {}: {reason}", .into.display())]
    Unpack {
        /// The target.
        into: PathBuf,
        /// The program that failed, with its error message.
        reason: String,
    },
    /// `--linux` does not name a kernel tree.
    #[error("{} is no Linux source tree: it has no arch/arm64/kvm/mmu.c", .0.display())]
    NotLinux(PathBuf),
    /// The tree differs from the one that the patch was made for.
    #[error(
        "{policy}.patch does not apply to this source of Linux {version}: {reason}; docs/policy-kernels.md names the sources that it fits"
    )]
    Patch {
        /// Version of the source.
        version: SourceVersion,
        /// The policy.
        policy: &'static str,
        /// The error message of patch(1).
        reason: String,
    },
    /// The resulting configuration lacks options that the lab depends on.
    #[error("this kernel source drops options that the lab needs: {} (in {})", .missing.join(", "), .config.display())]
    Config {
        /// The options.
        missing: Vec<String>,
        /// The resulting configuration.
        config: PathBuf,
    },
    /// make failed.
    #[error("building the {kernel} kernel failed: {line} (whole log: {})", .log.display())]
    Build {
        /// The kernel.
        kernel: PolicyKernel,
        /// The first line of the log that looks like the cause.
        line: String,
        /// The log, with everything that make printed.
        log: PathBuf,
    },
    /// A file of the cache could not be used.
    #[error("cannot {what} {}: {error}", .path.display())]
    Io {
        /// The attempted step.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// Returns a function that adds the step and the path to an `io::Error`.
pub fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| Error::Io { what, path: path.to_owned(), error }
}
