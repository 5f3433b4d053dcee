//! Data formats on which the faultline guest and its host agree: programs, records, code slots, the channel that holds
//! them in shared memory, and the line protocol of the console.
//!
//! The crate holds formats and their arithmetic only. It does no I/O, allocates nothing, and depends on `core` alone.
//! An address that both sides need does not belong here: the guest reads it from the device tree.
//!
//! # Example
//!
//! The host writes a program. The guest runs it and writes records, which the host decodes:
//!
//! ```
//! use faultline_abi::op::{CHECK, Op, OpCode};
//! use faultline_abi::record::{Body, Mismatch, Outcome, Place, Record};
//! use faultline_abi::slot;
//!
//! // Host: write code of generation 1 to sixteen cache lines, call each slot, and compare its token.
//! let ipa = 0x8000_0000;
//! let program = [
//!     Op::range(OpCode::WriteCode, ipa, 1024, 64, 1),
//!     Op::range(OpCode::Fetch, ipa, 1024, 64, 1).with_flags(CHECK),
//!     Op::end(),
//! ];
//!
//! // Guest: the first slot of op 1 still returned the token of generation 0.
//! let mismatch = Mismatch { ipa, value: slot::token(ipa, 0), expected: slot::token(ipa, 1), ..Mismatch::default() };
//! let place = Place { op: 1, ..Place::default() };
//! let words = Record::new(place, Outcome::Wrong, Body::Mismatch(mismatch)).to_words();
//!
//! // Host: find the op and the code that ran.
//! let record = Record::from_words(words);
//! let mismatch = record.mismatch().expect("it is a mismatch record");
//! assert_eq!(program[record.op as usize].code, OpCode::Fetch as u16);
//! assert_eq!(slot::decode(mismatch.value), (ipa, 0));
//! ```

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
pub use record::{Outcome, Record};
