//! `faultline run FILE` with the file of a guest program: reads the program and its options.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Parser;
use programs::file::{ProgramFile, is_program};
use programs::legal::Limits;
use scenarios::options::Common;

use crate::failure::Failure;

/// Run the program in a file: one that failed in `run random`, or your own
#[derive(Parser)]
#[command(name = "faultline run FILE", no_binary_name = true, args_override_self = true)]
struct Options {
    #[command(flatten)]
    common: Common,
}

/// A program to be run, with its options.
#[cfg_attr(not(all(target_os = "linux", target_arch = "aarch64")), expect(dead_code, reason = "only runs need it"))]
pub struct ProgramRequest {
    /// The program.
    pub file: ProgramFile,
    /// Options that every scenario has.
    pub common: Common,
}

/// Limits that hold on every machine. Those of the machine are checked when the program runs.
const ANY_MACHINE: Limits = Limits { region_bytes: 1 << 40, line_bytes: abi::slot::BYTES };

impl ProgramRequest {
    /// Parses the words after `run`. Returns none if they do not begin with the file of a program.
    ///
    /// # Errors
    ///
    /// If the program or the options are wrong. `--help` is an error with exit code 0.
    pub fn parse(words: &[OsString]) -> Result<Option<Self>, Failure> {
        let Some((name, rest)) = words.split_first() else { return Ok(None) };
        let Some(text) = read_program(name) else { return Ok(None) };
        let file = ProgramFile::parse(&name.to_string_lossy(), &text, ANY_MACHINE).map_err(Failure::usage)?;
        let options = Options::try_parse_from(rest).map_err(|error| Failure::clap(&error))?;
        Ok(Some(Self { file, common: options.common }))
    }
}

/// Returns the text of a file if it is a program.
fn read_program(name: &OsStr) -> Option<String> {
    std::fs::read_to_string(name).ok().filter(|text| is_program(text))
}

/// The program in a file, for the emulated host.
pub struct InLab {
    /// Words for the runner, which finds the file in its directory.
    pub argv: Vec<OsString>,
    /// The file that has to be put there.
    pub file: PathBuf,
    /// Options that every scenario has.
    pub common: Common,
}

impl InLab {
    /// Parses the words after `lab … --`. Returns none if they do not name the file of a program.
    ///
    /// # Errors
    ///
    /// As [`ProgramRequest::parse`].
    pub fn parse(argv: &[OsString]) -> Result<Option<Self>, Failure> {
        let [run, name, rest @ ..] = argv else { return Ok(None) };
        if run != "run" {
            return Ok(None);
        }
        let Some(ProgramRequest { common, .. }) = ProgramRequest::parse(&argv[1..])? else { return Ok(None) };
        let path = Path::new(name);
        let own = path.file_name().unwrap_or(name).to_owned();
        let argv = [run.clone(), own].into_iter().chain(rest.iter().cloned()).collect();
        Ok(Some(Self { argv, file: path.to_owned(), common }))
    }
}
