//! Settings of the emulated lab with which a lockup can be shown, unless the user chose others.

use std::ffi::OsString;

use lab::{QemuChoice, Verbosity};

use crate::failure::Failure;
use crate::lab_runs::failure;

/// The time of an instruction with which a lockup can be shown in a minute, as an exponent of two, in ns.
pub const TIME_SCALE: u8 = 6;

/// Returns the options and the words for `check` in an emulated host; none if the words are another command.
///
/// The settings are those that show the lockup, unless the user chose others: exact time, a CPU without DIC, and a low
/// threshold of the watchdog. Nothing is lost if the emulated host panics.
///
/// # Errors
///
/// An error if the QEMU is not found and cannot be fetched.
pub fn for_check(options: &lab::Options, argv: &[OsString]) -> Result<Option<(lab::Options, Vec<OsString>)>, Failure> {
    let [first, rest @ ..] = argv else { return Ok(None) };
    let rest = match (first.to_str(), rest) {
        (Some("check"), rest) => rest,
        (Some("run"), [word, rest @ ..]) if word == "check" => rest,
        _ => return Ok(None),
    };
    let mut options = options.clone();
    options.cpu = Some(cpu(options.cpu.as_deref(), &options.qemu, options.verbosity)?);
    options.time_scale = options.time_scale.or(Some(TIME_SCALE));
    let words = ["run", "check", "--may-panic", "--watchdog-thresh=1"].map(OsString::from);
    Ok(Some((options, words.into_iter().chain(rest.iter().cloned()).collect())))
}

/// Returns the CPU model that the user asked for, or else the one with which the chosen QEMU shows the I side best.
///
/// # Errors
///
/// An error if the QEMU is not found and cannot be fetched.
pub fn cpu(asked: Option<&str>, qemu: &QemuChoice, verbosity: Verbosity) -> Result<String, Failure> {
    match asked {
        Some(model) => Ok(model.to_owned()),
        None => Ok(lab::emulator(qemu, verbosity).map_err(failure)?.cpu_without_dic().to_owned()),
    }
}
