//! The part of the guest that knows no machine: the op interpreter and the built-in plan.
//!
//! Both run on the host in `cargo test`, over a fake CPU. Nothing here may touch a system register, a device or the
//! device tree; that is the business of the binary beside it.

#![cfg_attr(not(test), no_std)]

pub mod builtin;
pub mod interpreter;
