//! Finds the QEMU that the user chose.

use std::path::Path;

use crate::context::Context;
use crate::error::Error;
use crate::qemu::backport;
use crate::qemu::choice::{OWN_QEMU, QemuChoice};
use crate::qemu::emulator::Emulator;

/// Returns the chosen QEMU. If a version is wanted that neither the machine nor the cache has, it is fetched.
///
/// # Errors
///
/// [`Error::MissingProgram`], [`Error::Start`], [`Error::NoQemu`] or [`Error::Interrupted`].
pub fn find(choice: &QemuChoice, context: Context<'_>) -> Result<Emulator, Error> {
    match choice {
        QemuChoice::Program(program) => Emulator::at(program, Vec::new()),
        QemuChoice::AtLeast(wanted) => match Emulator::at(Path::new(OWN_QEMU), Vec::new()) {
            Ok(own) if own.major() >= *wanted => Ok(own),
            _ => backport::get(*wanted, context),
        },
    }
}
