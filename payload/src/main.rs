//! The faultline guest: boots at EL1 on one CPU, maps what the device tree announces, starts the other CPUs and runs
//! a program on each: the host's, where the tree has a channel, else the built-in plan.
//!
//! `main → interpreter → {tables, channel, smp, clock, console} → {asm, exceptions, layout} → abi`.

#![cfg_attr(target_os = "none", no_std, no_main)]

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
mod exceptions;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod layout;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod psci;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod tables;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("faultline-payload runs on bare metal: build it for aarch64-unknown-none-softfloat (make payload)");
    std::process::exit(64);
}
