//! Errors of the lab, each with the user's next step.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use hostfacts::interrupt;
use units::size::Size;

use crate::kernel::image::ImageError;
use crate::policy::error::Error as PolicyError;
use crate::policy::faults::UnknownFault;

/// An error of the lab itself. The end of an emulated host is not an error but an outcome of the boot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the kernel has none of the forms that the lab knows.
    #[error(
        "unknown kernel '{0}': give debian:VERSION (6.12, 7.1.13), debian:SUITE (trixie, sid, latest), both with -rt, \
         -cloud or -16k if wanted, an exact Debian release such as 6.1.0-38-arm64, policy:NAME, fault:NAME, or a path; \
         `faultline kernels` lists Debian's"
    )]
    UnknownKernel(String),
    /// A text names no row of kernels.
    #[error(
        "no kernels are called `{0}`: give FROM..TO with versions such as 5.10..latest, a suite, or a list of kernels"
    )]
    Kernels(String),
    /// The kernel file cannot be read.
    #[error("cannot read the kernel {path}: {error}")]
    KernelFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The kernel file is not an arm64 Image, or only a part of one.
    #[error("{path} {problem}")]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// The defect.
        problem: ImageError,
    },
    /// A policy kernel could not be built.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The name of the kernel is none of a fault.
    #[error("{0}")]
    Fault(UnknownFault),
    /// A program that the lab calls is not installed.
    #[error("{program} is not installed: apt-get install {package}")]
    MissingProgram {
        /// The program.
        program: String,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// A file that a Debian package installs is absent.
    #[error("{path} is absent, so nothing can be verified: apt-get install {package}")]
    MissingKeyring {
        /// The file.
        path: PathBuf,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// apt could not fetch the list of packages or a package.
    #[error("cannot fetch {what}: {reason}; check the network, or give a path instead")]
    Fetch {
        /// The list or the package.
        what: String,
        /// apt's error message.
        reason: String,
    },
    /// There is no QEMU of the requested version.
    #[error("no QEMU {wanted} or newer: {reason}")]
    NoQemu {
        /// The requested major version.
        wanted: u32,
        /// The failed attempt to get one.
        reason: String,
    },
    /// No suite has a kernel of that name.
    #[error("Debian has no kernel {name}; it has {known}: `faultline kernels` lists them, and a path may be given")]
    NoKernel {
        /// The name.
        name: String,
        /// Versions of kernels in the archive.
        known: String,
    },
    /// A downloaded package could not be unpacked.
    #[error("cannot unpack {what}: {reason}")]
    Unpack {
        /// The package or file.
        what: String,
        /// The error message.
        reason: String,
    },
    /// The cache directory cannot be used.
    #[error("cannot use the kernel cache {path}: {error}; set FAULTLINE_CACHE to a writable directory")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// None of $FAULTLINE_CACHE, $XDG_CACHE_HOME and $HOME is set.
    #[error("no place for the kernel cache: set FAULTLINE_CACHE to a writable directory")]
    NoCache,
    /// There is no runner for the emulated host.
    #[error("no arm64 runner at {0}: run `make build`, or set FAULTLINE_GUEST_RUNNER")]
    NoRunner(PathBuf),
    /// The runner is a program that the emulated host could not execute.
    #[error("{0} is not a static arm64 program: run `make build`, or correct FAULTLINE_GUEST_RUNNER")]
    RunnerKind(PathBuf),
    /// The user chose a QEMU whose plugins cannot do what the sanitizer needs.
    #[error("--sanitize needs QEMU 10 or newer, and this is version {0}: leave out --qemu, or give --qemu 10")]
    OldQemu(String),
    /// The counting plugin was not built.
    #[error(
        "no counting plugin at {0}: run `make build` in faultline's source tree, and use the program in target/release"
    )]
    NoPlugin(PathBuf),
    /// A file for the emulated host cannot be read, or its name is taken.
    #[error("cannot put {path} into the emulated host: {error}")]
    AddedFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// An argument for the runner is not Unicode.
    #[error("the argument {0:?} for the runner is not valid UTF-8")]
    Argument(OsString),
    /// QEMU would misread the name of the CPU model.
    #[error("--cpu {0} is not a CPU name: letters, digits and any of . _ - , = only")]
    Cpu(String),
    /// This QEMU has no such CPU model.
    #[error("{emulator} has no CPU {cpu}: `-cpu help` of QEMU lists those it has, and --qemu 10 has more")]
    UnknownCpu {
        /// The model.
        cpu: String,
        /// QEMU and its version.
        emulator: String,
    },
    /// The CPU model does not have the kernel's page size.
    #[error("{kernel} has pages of {page}, which the CPU {cpu} lacks: take another --cpu, such as neoverse-n1")]
    NoPageSize {
        /// The user's name for the kernel.
        kernel: String,
        /// The page size.
        page: Size,
        /// The model.
        cpu: String,
    },
    /// The swap is too small for any kernel.
    #[error("--swap {size} is too small: give at least {least}")]
    Swap {
        /// The requested size.
        size: Size,
        /// The smallest size that works.
        least: Size,
    },
    /// The results directory cannot be written.
    #[error("cannot write results to {path}: {error}")]
    Results {
        /// The directory or file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// No space is left for the results.
    #[error("the disk that holds {0} is full: what came out before is kept there; free some space and run again")]
    DiskFull(PathBuf),
    /// A program could not be started.
    #[error("cannot start {program}: {error}")]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        error: io::Error,
    },
    /// Signals cannot be caught.
    #[error("{0}")]
    Signals(#[from] interrupt::NotCaught),
    /// SIGINT, SIGTERM or SIGHUP arrived. The files that left the emulated hosts before are kept.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Returns whether only one kernel cannot be had, and others may boot.
    pub(crate) fn is_about_kernel(&self) -> bool {
        matches!(
            self,
            Self::KernelFile { .. }
                | Self::NotAnImage { .. }
                | Self::NoPageSize { .. }
                | Self::Policy(_)
                | Self::Fetch { .. }
                | Self::NoKernel { .. }
                | Self::Unpack { .. }
        )
    }

    /// Returns whether the command line is wrong. A file that is no kernel is not wrong usage: a build may have failed, which
    /// a bisection skips.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::UnknownKernel(_)
            | Self::Kernels(_)
            | Self::NoKernel { .. }
            | Self::KernelFile { .. }
            | Self::Fault(_)
            | Self::Argument(_)
            | Self::Cpu(_)
            | Self::UnknownCpu { .. }
            | Self::NoPageSize { .. }
            | Self::Swap { .. }
            | Self::OldQemu(_) => true,
            Self::Policy(error) => matches!(error, PolicyError::Unknown(_) | PolicyError::NotLinux(_)),
            _ => false,
        }
    }

    /// Returns the error for a failed write below the results directory.
    pub(crate) fn results(path: impl Into<PathBuf>, error: io::Error) -> Self {
        let path = path.into();
        if error.kind() == io::ErrorKind::StorageFull { Self::DiskFull(path) } else { Self::Results { path, error } }
    }
}

impl From<interrupt::Interrupted> for Error {
    fn from(_: interrupt::Interrupted) -> Self {
        Self::Interrupted
    }
}
