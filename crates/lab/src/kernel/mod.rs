//! Kernels for emulated hosts: the user's name for one, and the way from the name to a checked Image.

pub mod choice;
pub mod config;
mod debian;
pub mod image;
mod module_files;
pub mod modules;
mod package;
pub mod resolve;
mod series;
pub mod store;
mod unpack;
