//! Policy kernels: arm64 Linux Images from one source tree that differ only in their I-cache maintenance at stage 2.
//!
//! ```text
//! CACHE/linux/<source>/src         the unpacked tree, with the patch of one policy
//! CACHE/linux/<source>/pristine    the original of every file that a patch has ever changed
//! CACHE/linux/<source>/build-4k    objects, shared by the policies of a page size
//! CACHE/policy/<key>/              Image, System.map, config, build.log, and the inputs that the key is made of
//! ```
//!
//! Policies share their objects, so a second policy compiles only the files that include a patched one. Three rules
//! keep the policies apart:
//!
//! - A lock allows one build at a time for each source.
//! - Every build first writes the exact contents under its policy to every file that any patch changes.
//! - A file whose contents change gets a new time, and make compiles by the times of files.

mod build;
mod config;
pub mod error;
pub mod faults;
pub mod image;
pub mod source;
pub mod spec;
mod toolchain;
mod tree;
