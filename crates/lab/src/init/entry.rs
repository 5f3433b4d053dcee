//! Entry into init.

use std::path::Path;

use crate::init::protocol::MANIFEST_PATH;

/// Returns whether this process is process 1 of an emulated host.
pub fn is_init() -> bool {
    cfg!(all(target_os = "linux", target_arch = "aarch64"))
        && std::process::id() == 1
        && Path::new(MANIFEST_PATH).exists()
}

/// Runs init and ends the emulator. Call it only if [`is_init`] returns true.
pub fn run() -> ! {
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    crate::init::process_one::run();
    #[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
    unreachable!("is_init() is true only in arm64 Linux")
}
