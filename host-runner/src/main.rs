//! The `faultline` command. See the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // As process 1 of an emulated machine there is no command line to parse.
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    if lab::init::is_init() {
        lab::init::run();
    }
    host_runner::commands::main()
}
