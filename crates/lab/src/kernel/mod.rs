//! Kernels for emulated hosts: the user's name for one, and the way from the name to a checked Image.

mod archive;
pub mod choice;
mod compression;
pub mod config;
mod debian;
pub mod image;
pub mod list;
mod module_files;
pub mod modules;
mod name;
mod package;
pub mod resolve;
mod rpm;
pub mod store;
pub mod suites;
mod unpack;
