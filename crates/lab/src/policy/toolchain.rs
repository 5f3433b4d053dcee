//! The programs that build a kernel.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::policy::error::{Error, io_error};

/// Debian packages that building a kernel needs, beyond those that every installation has.
#[cfg(not(target_arch = "aarch64"))]
const PACKAGES: [&str; 9] =
    ["bc", "bison", "flex", "gcc", "gcc-aarch64-linux-gnu", "libc6-dev", "make", "patch", "xz-utils"];
/// Debian packages that building a kernel needs, beyond those that every installation has.
#[cfg(target_arch = "aarch64")]
const PACKAGES: [&str; 8] = ["bc", "bison", "flex", "gcc", "libc6-dev", "make", "patch", "xz-utils"];

/// Prefix of the names of the compiler and its tools. An arm64 machine uses its native ones.
pub const CROSS: &str = if cfg!(target_arch = "aarch64") { "" } else { "aarch64-linux-gnu-" };

/// The compiler that compiles the kernel.
const COMPILER: &str = if cfg!(target_arch = "aarch64") { "gcc" } else { "aarch64-linux-gnu-gcc" };

/// Checks that all programs are installed.
///
/// # Errors
///
/// [`Error::Tools`], with all missing programs.
pub fn check() -> Result<(), Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = env::split_paths(&path).collect();
    let tools = ["bc", "bison", "flex", "gcc", "make", "patch", "tar", "xz", COMPILER];
    let missing: Vec<_> =
        tools.into_iter().filter(|tool| !folders.iter().any(|folder| folder.join(tool).exists())).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Tools { missing, packages: &PACKAGES }) }
}

/// Returns the first line that the compiler prints for `--version`.
///
/// # Errors
///
/// [`Error::Io`].
pub fn compiler_version() -> Result<String, Error> {
    let output = Command::new(COMPILER).arg("--version").env("LC_ALL", "C").output();
    let output = output.map_err(io_error("run", Path::new(COMPILER)))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Returns a make that the environment of this process cannot influence, such as the settings of a make that runs us.
pub fn make() -> Command {
    let mut command = Command::new("make");
    for name in
        ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "KCFLAGS", "KAFLAGS", "KBUILD_OUTPUT", "LOCALVERSION"]
    {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}
