// SPDX-License-Identifier: GPL-2.0-or-later
//! Shadow of the machine's caches: events in, reports out.
//!
//! The module is pure. It has no I/O and no unsafe code, and knows nothing of QEMU. `docs/sanitizer.md` has the model.
//!
//! - `state`: the shadow and its stores; `page`, `pe`, `stage2` and `report` hold its parts.
//! - `maintenance`, `mapping`, `access` and `entry`: the other events, and what is judged at each.
//! - `readiness`: what a line lacks. `tables`, `stage1`, `features` and `text` decode.

#![forbid(unsafe_code)]

mod access;
mod entry;
mod features;
mod maintenance;
mod mapping;
mod page;
mod pe;
#[cfg(test)]
mod property;
mod readiness;
mod report;
#[cfg(test)]
mod rig;
mod stage1;
mod stage2;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use access::Suspect;
pub(crate) use entry::Context;
pub(crate) use features::Features;
pub(crate) use report::{WrittenMachine, WrittenSection};
pub(crate) use stage1::Stage1;
pub(crate) use state::{MOST_PES, Place, Ram, Shadow, Store};
