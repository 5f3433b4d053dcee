//! What the faultline guest and its host agree on: the channel, programs, records, code slots and the line protocol.
//!
//! Only formats and their arithmetic live here: no I/O, no allocation, no dependency but `core`. An address that both
//! sides need reaches the guest through the device tree, never by being written down twice.

#![cfg_attr(not(test), no_std)]

pub mod channel;
pub mod ctr;
pub mod line;
pub mod op;
pub mod race;
pub mod record;
pub mod slot;

pub use channel::{Header, Region, Vcpu};
pub use ctr::Ctr;
pub use op::{Op, OpCode};
pub use record::{Kind, Outcome, Record};
