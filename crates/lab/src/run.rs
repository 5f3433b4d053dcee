//! Runs the runner in every kernel that the user named.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use hostfacts::interrupt::Interrupt;

use crate::boot::{Boot, Lab};
use crate::cmo;
use crate::collect::CloseRun;
use crate::context::Context;
use crate::error::Error;
use crate::kernel::choice::KernelChoice;
use crate::options::Options;
use crate::prepare::{Contents, Preparation};
use crate::progress::{Progress, Verbosity};
use crate::qemu::choice::QemuChoice;
use crate::qemu::emulator::Emulator;
use crate::qemu::{command_line, find};
use crate::rescue::rescue;
use crate::sanitizer;

/// Boots every kernel of `options`, and runs the runner with the arguments `argv` in it.
///
/// The result has the boots in the order of [`Options::kernel`]. `close_run` writes the result of a run that died.
///
/// # Errors
///
/// The obstacle that keeps the lab itself from working, see [`Error`]. After [`Error::Interrupted`] and
/// [`Error::DiskFull`], run directories have the files that had left the emulated hosts.
pub fn run(options: &Options, argv: &[OsString], close_run: CloseRun<'_>) -> Result<Vec<Boot>, Error> {
    let choices = options.check()?;
    let options = &with_plugin(options)?;
    if options.dry_run {
        return Ok(dry_run(options, &choices));
    }
    let interrupt = &Interrupt::catch()?;
    let boots = boot_all(options, argv, &choices, interrupt, close_run);
    // Whatever a step makes of an interrupt, the user asked for the end.
    boots.map_err(|error| if interrupt.is_set() { Error::Interrupted } else { error })
}

/// Prepares and boots the kernels.
fn boot_all(
    options: &Options,
    argv: &[OsString],
    choices: &[KernelChoice],
    interrupt: &Interrupt,
    close_run: CloseRun<'_>,
) -> Result<Vec<Boot>, Error> {
    let contents = &Contents::read(options, argv)?;
    let progress = Progress::new(options.verbosity, options.kernel.iter().map(String::as_str));
    let emulator = &find_emulator(&options.qemu, interrupt, &progress)?;
    let major = emulator.version().split('.').next().and_then(|major| major.parse::<u32>().ok());
    if options.sanitize && major.is_some_and(|major| major < SANITIZING_QEMU) {
        return Err(Error::OldQemu(emulator.version().to_owned()));
    }
    let model = options.cpu().split(',').next().unwrap_or_default();
    if !emulator.has_cpu(model) {
        return Err(Error::UnknownCpu { cpu: model.to_owned(), emulator: emulator.name() });
    }
    fs::create_dir_all(&options.results).map_err(|error| Error::results(&options.results, error))?;
    let results = &options.results.canonicalize().map_err(|error| Error::results(&options.results, error))?;
    for path in rescue(results) {
        units::note!("faultline: {} is from a lab that was killed; faultline recover closes it", path.display());
    }
    let preparation = Preparation { options, results, emulator, interrupt, contents };
    let (mut prepared, mut absent) = (Vec::new(), Vec::new());
    for (index, (name, choice)) in options.kernel.iter().zip(choices).enumerate() {
        match preparation.prepare(name, choice, &progress.line(name)) {
            Ok(boot) => prepared.push(boot),
            Err(error) if options.keep_going && error.is_about_kernel() => {
                absent.push((index, Boot::absent(name, &error)));
            }
            Err(error) => return Err(error),
        }
    }
    let lab = Lab { options, results, emulator, interrupt, close_run, contents };
    let mut boots = lab.boot_all(&prepared, &progress)?;
    for (index, boot) in absent {
        boots.insert(index, boot);
    }
    Ok(boots)
}

/// Returns the QEMU that the user chose. If a version is wanted that neither the machine nor the cache has, it is
/// fetched.
///
/// # Errors
///
/// [`Error::MissingProgram`], [`Error::Start`], [`Error::NoQemu`] or [`Error::Interrupted`].
pub fn emulator(choice: &QemuChoice, verbosity: Verbosity) -> Result<Emulator, Error> {
    let interrupt = Interrupt::catch()?;
    find_emulator(choice, &interrupt, &Progress::new(verbosity, std::iter::empty()))
}

fn find_emulator(choice: &QemuChoice, interrupt: &Interrupt, progress: &Progress) -> Result<Emulator, Error> {
    let line = progress.line("QEMU");
    let found = find::find(choice, Context { interrupt, progress: &|text| line.show(text) });
    line.finish();
    found
}

/// File name of the plugin. It is built beside the program, and a package has it in lib/faultline.
const PLUGIN: &str = "libcmo_plugin.so";

/// The oldest QEMU whose plugins can read registers, as the sanitizer does.
const SANITIZING_QEMU: u32 = 10;

/// Adds the plugin to QEMU's arguments if the user asked for it. Its output becomes a file of the run. The sanitizer
/// takes a QEMU that has what it needs, unless the user chose one.
fn with_plugin(options: &Options) -> Result<Options, Error> {
    let mut options = options.clone();
    if options.sanitize && options.qemu == QemuChoice::default() {
        options.qemu = QemuChoice::AtLeast(SANITIZING_QEMU);
    }
    if options.count || options.sanitize {
        let own = env::current_exe().unwrap_or_default();
        let beside = own.with_file_name(PLUGIN);
        let packaged = own.with_file_name("../lib/faultline").join(PLUGIN);
        let path = if beside.exists() { beside } else { packaged.canonicalize().unwrap_or(beside) };
        // QEMU splits the argument at commas.
        if !path.exists() || path.to_string_lossy().contains(',') {
            return Err(Error::NoPlugin(path));
        }
        let (mode, out) = if options.count { ("count", cmo::COUNTS) } else { ("sanitize", sanitizer::REPORTS) };
        let argument = format!("{},mode={mode},out={out}", path.display());
        options.qemu_args.extend(["-plugin".into(), argument]);
    }
    Ok(options)
}

/// Prints the command line of QEMU for each kernel.
fn dry_run(options: &Options, choices: &[KernelChoice]) -> Vec<Boot> {
    let emulator = Emulator::named(&options.qemu);
    let boot = |(name, choice): (&String, &KernelChoice)| {
        let image = match choice {
            KernelChoice::Path(path) => path.clone(),
            _ => PathBuf::from(format!("<Image of {name}>")),
        };
        let argument = match choice {
            KernelChoice::Fault(fault) => Some(fault.argument()),
            _ => None,
        };
        let line = emulator.shell_line(&command_line::arguments(options, &image, argument.as_deref()));
        // A reader may close the pipe.
        let _ = writeln!(io::stdout(), "{line}");
        Boot::dry(name)
    };
    options.kernel.iter().zip(choices).map(boot).collect()
}
