//! The `faultline` command. The library beside it has all of its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // As process 1 of an emulated host, the program has no command line.
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    if lab::init::is_init() {
        lab::init::run();
    }
    host_runner::commands::main()
}
