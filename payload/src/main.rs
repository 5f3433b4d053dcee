//! The faultline guest. It boots on one CPU at EL1, maps the memory that the device tree announces, starts the other
//! CPUs and runs a program on each: a program of the host if the device tree has a channel, otherwise the built-in
//! program.
//!
//! Each module uses only modules of the lines below its own:
//!
//! ```text
//! boot                           entry code; enters guest
//! vectors, guest                 exceptions; the main functions
//! fatal, cpu                     report of unexpected exceptions and panics; the interpreter's CPU
//! job, access                    which programs to run; timed accesses under test
//! channel, tables, smp           programs and records; stage 1; secondary CPUs
//! console, psci, per_cpu         the UART; PSCI; data for the vectors
//! platform, layout, mair, asm    the device tree; linker symbols; memory attributes; instructions
//! ```
//!
//! The parts that need no hardware are in the library beside this binary, so that host tests can run them.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod access;
#[cfg(target_os = "none")]
mod asm;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod channel;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod fatal;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod job;
#[cfg(target_os = "none")]
mod layout;
#[cfg(target_os = "none")]
mod mair;
#[cfg(target_os = "none")]
mod per_cpu;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod psci;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod tables;
#[cfg(target_os = "none")]
mod vectors;

#[cfg(not(target_os = "none"))]
#[expect(clippy::print_stderr, reason = "nothing can be lost with this line")]
fn main() {
    eprintln!("faultline-payload runs on bare metal: build it for aarch64-unknown-none-softfloat (make payload)");
    std::process::exit(64);
}
