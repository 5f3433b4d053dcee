//! `faultline run FILE`, where the file holds one program (see `programs::file`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Parser;
use programs::file::{ProgramFile, is_program};
use programs::legal::Limits;
use record::exit::USAGE;
use scenarios::options::Common;

use crate::answer::Failure;

/// Run the program in a file: one that failed in `run random`, or one of your own.
#[derive(Parser)]
#[command(name = "faultline run FILE", no_binary_name = true, args_override_self = true)]
struct Options {
    #[command(flatten)]
    common: Common,
}

/// A program to be run, and how.
#[cfg_attr(not(all(target_os = "linux", target_arch = "aarch64")), expect(dead_code, reason = "only runs need it"))]
pub struct Request {
    /// The program.
    pub file: ProgramFile,
    /// Options of every scenario.
    pub common: Common,
}

/// What is legal anywhere; the machine's own limits are known once it runs.
const ANYWHERE: Limits = Limits { region_bytes: 1 << 40, line_bytes: abi::slot::BYTES };

impl Request {
    /// Reads the words after `run`, if they name a program's file.
    ///
    /// # Errors
    ///
    /// If the program or the options are wrong. Also the text of `--help`, with exit code 0.
    pub fn of(words: &[OsString]) -> Result<Option<Self>, Failure> {
        let Some((name, rest)) = words.split_first() else { return Ok(None) };
        let Some(text) = program_in(name) else { return Ok(None) };
        let usage = |error: &dyn std::fmt::Display| Failure::new(USAGE, error);
        let file = ProgramFile::parse(&name.to_string_lossy(), &text, ANYWHERE).map_err(|error| usage(&error))?;
        let options = Options::try_parse_from(rest).map_err(|error| Failure::clap(&error))?;
        Ok(Some(Self { file, common: options.common }))
    }
}

fn program_in(name: &OsStr) -> Option<String> {
    std::fs::read_to_string(name).ok().filter(|text| is_program(text))
}

/// Returns the words after `lab … --` as they are to be inside, and the file that they name, if it is a program.
///
/// # Errors
///
/// As [`Request::of`]: before anything boots.
pub fn for_lab(argv: &[OsString]) -> Result<Option<(Vec<OsString>, PathBuf)>, Failure> {
    let [run, name, rest @ ..] = argv else { return Ok(None) };
    if run != "run" || Request::of(&argv[1..])?.is_none() {
        return Ok(None);
    }
    let path = Path::new(name);
    let inside = [run.clone(), path.file_name().unwrap_or(name).to_owned()].into_iter().chain(rest.iter().cloned());
    Ok(Some((inside.collect(), path.to_owned())))
}
