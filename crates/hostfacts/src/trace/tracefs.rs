//! The tracefs file system: its mount point, its control files, and the reasons why a trace is impossible.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Tracepoint of stage-2 faults.
const GUEST_FAULT: &str = "kvm_guest_fault";

const MOUNT_POINT: &str = "/sys/kernel/tracing";
const OLD_MOUNT_POINT: &str = "/sys/kernel/debug/tracing";

/// Reason why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum Absent {
    /// tracefs is not mounted, or the kernel does not have it.
    #[error("no tracing: tracefs is not mounted at {0}; mount it with `mount -t tracefs tracefs {0}`")]
    NoTracefs(&'static str),
    /// The user is not root.
    #[error("no tracing: {0} needs root")]
    NoPermission(PathBuf),
    /// KVM does not have this tracepoint: the machine is not arm64, or has no KVM.
    #[error("no tracing: this kernel has no tracepoint kvm:{0}")]
    NoTracepoint(&'static str),
    /// A control file could not be read or written.
    #[error("no tracing: cannot use {path} ({source})")]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
}

/// Returns the directory where tracefs is mounted and may be used.
///
/// # Errors
///
/// [`Absent::NoTracefs`], [`Absent::NoPermission`].
pub fn root() -> Result<PathBuf, Absent> {
    for place in [MOUNT_POINT, OLD_MOUNT_POINT].map(Path::new) {
        match fs::read_dir(place.join("instances")) {
            Ok(_) => return Ok(place.to_owned()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(Absent::NoPermission(place.to_owned()));
            }
            Err(_) => {}
        }
    }
    Err(Absent::NoTracefs(MOUNT_POINT))
}

/// Checks that the kernel has the tracepoint of stage-2 faults.
///
/// # Errors
///
/// [`Absent::NoTracepoint`].
pub fn require_guest_fault(root: &Path) -> Result<(), Absent> {
    let found = root.join("events/kvm").join(GUEST_FAULT).exists();
    if found { Ok(()) } else { Err(Absent::NoTracepoint(GUEST_FAULT)) }
}

/// Writes to a control file, which must exist. It appends, because truncation clears some of these files.
pub fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(value.as_bytes())
}
