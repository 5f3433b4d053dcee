//! The build of faultline that runs: its version, its commit, and the guest's image inside it.

use record::result::Tool;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use scenarios::runner::session::Build;

/// This build, as scenarios need it.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub const BUILD: Build = Build { version: VERSION, commit: COMMIT, payload: PAYLOAD };

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = env!("FAULTLINE_COMMIT");
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
const PAYLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/payload.img"));

/// Returns this build as the tool of a stored run.
pub fn tool() -> Tool {
    Tool { version: VERSION.into(), commit: COMMIT.into(), peak_resident_kib: None }
}
