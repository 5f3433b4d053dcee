//! QEMU: the program, its command line, and its supervision.

mod backport;
pub mod choice;
pub mod command_line;
pub mod emulator;
pub mod find;
pub mod supervise;
