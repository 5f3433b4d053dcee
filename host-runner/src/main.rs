//! The `faultline` command. See the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // As process 1 of an emulated machine there is no command line to parse.
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    if lab::guest::is_init() {
        lab::guest::init();
    }
    host_runner::commands::main()
}
