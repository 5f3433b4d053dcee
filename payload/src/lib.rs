//! The parts of the faultline guest that need no hardware: the interpreter of programs, and the built-in program.
//!
//! `cargo test` runs both on the host, over a fake CPU. The library contains no access to system registers, devices or
//! the device tree: those belong to the binary beside it, which implements [`interpreter::Cpu`] on a real CPU.

#![cfg_attr(not(test), no_std)]

pub mod builtin;
pub mod interpreter;
