//! What can keep the lab from giving an answer, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::MIN_SWAP;
use units::size::Size;

/// An error of the lab itself; what happened to a guest kernel is an [`Outcome`](crate::Outcome).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel was named in no way the lab knows.
    #[error(
        "unknown kernel '{0}': give debian:6.1, debian:6.12, debian:6.12-16k, an exact Debian release such as 6.1.0-38-arm64, \
         policy:NAME, or the path of an arm64 Image"
    )]
    UnknownKernel(String),
    /// The kernel file cannot be read.
    #[error("cannot read the kernel {path}: {error}")]
    KernelFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel file is not an arm64 Image, or not all of one.
    #[error("{path} {problem}")]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: crate::image::ImageError,
    },
    /// A policy kernel could not be built.
    #[error("{0}")]
    Policy(#[from] crate::policy::Error),
    /// A program that the lab calls is not installed.
    #[error("{program} is not installed: apt-get install {package}")]
    MissingProgram {
        /// The program.
        program: String,
        /// Debian's package that holds it.
        package: &'static str,
    },
    /// A file that a Debian package installs is absent.
    #[error("{path} is absent, so nothing can be verified: apt-get install {package}")]
    MissingKeyring {
        /// The file.
        path: PathBuf,
        /// Debian's package that holds it.
        package: &'static str,
    },
    /// apt could not fetch the list of packages or a package.
    #[error("cannot fetch {what}: {reason}; check the network, or give a path instead")]
    Fetch {
        /// What was to be fetched.
        what: String,
        /// apt's last word.
        reason: String,
    },
    /// There is no QEMU of the version asked for.
    #[error("no QEMU {wanted} or newer: {reason}")]
    NoQemu {
        /// The major version asked for.
        wanted: u32,
        /// Why not.
        reason: String,
    },
    /// No package of that name in any suite.
    #[error("no package {pattern} in the suites {suites}: {hint}")]
    NoPackage {
        /// The package name, with `*` for what was left open.
        pattern: String,
        /// The suites searched.
        suites: String,
        /// What else is known.
        hint: String,
    },
    /// A downloaded package did not unpack.
    #[error("cannot unpack {what}: {reason}")]
    Unpack {
        /// The package or file.
        what: String,
        /// Why.
        reason: String,
    },
    /// The cache directory cannot be used.
    #[error("cannot use the kernel cache {path}: {error}; set FAULTLINE_CACHE to a writable directory")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Neither $FAULTLINE_CACHE nor $XDG_CACHE_HOME nor $HOME is set.
    #[error("no place for the kernel cache: set FAULTLINE_CACHE to a writable directory")]
    NoCache,
    /// There is no runner to put into the guest.
    #[error("no arm64 runner at {0}: run `make build`, or set FAULTLINE_GUEST_RUNNER")]
    NoGuestRunner(PathBuf),
    /// The file is there, but the guest could not execute it.
    #[error("{0} is not a static arm64 program: run `make build`, or correct FAULTLINE_GUEST_RUNNER")]
    GuestRunnerKind(PathBuf),
    /// The counting plugin was not built.
    #[error(
        "no counting plugin at {0}: run `make build` in faultline's source tree, and what it puts into target/release"
    )]
    NoPlugin(PathBuf),
    /// A file for the guest cannot be had.
    #[error("cannot put {path} into the guest: {error}")]
    GuestFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// An argument for the runner is not Unicode.
    #[error("the argument {0:?} for the runner is not valid UTF-8")]
    Argument(std::ffi::OsString),
    /// An option has a value that QEMU would misread.
    #[error("--cpu {0} is not a CPU name: letters, digits and any of . _ - , = only")]
    Cpu(String),
    /// A size of swap that no kernel takes.
    #[error("--swap {0} is too small: give at least {MIN_SWAP}")]
    Swap(Size),
    /// The results directory cannot be written.
    #[error("cannot write results to {path}: {error}")]
    Results {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No space left for the results.
    #[error("the disk that holds {0} is full: what came out before is kept there; free some space and run again")]
    DiskFull(PathBuf),
    /// The emulator could not be started.
    #[error("cannot start {program}: {error}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// SIGINT or SIGTERM. What the guests had written is kept.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Turns a failed write below the results directory into the error that says what to do.
    pub fn results(path: impl Into<PathBuf>, error: io::Error) -> Self {
        let path = path.into();
        if error.kind() == io::ErrorKind::StorageFull { Self::DiskFull(path) } else { Self::Results { path, error } }
    }
}
