//! The static arm64 runner that becomes /init of the emulated host.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use object::LittleEndian;
use object::elf::{EM_AARCH64, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::error::Error;

/// Returns the runner.
///
/// It is the file `chosen`, or else $FAULTLINE_GUEST_RUNNER, or else this program if it is a static arm64 program, or
/// else the runner that was built or installed with this program.
///
/// # Errors
///
/// [`Error::NoRunner`] or [`Error::RunnerKind`].
pub fn find(chosen: Option<&Path>) -> Result<Vec<u8>, Error> {
    let named = chosen.map(Path::to_path_buf).or_else(from_environment);
    let own = env::current_exe().unwrap_or_default();
    if named.is_none()
        && cfg!(target_arch = "aarch64")
        && let Some(program) = fs::read(&own).ok().filter(|program| is_static_arm64(program))
    {
        return Ok(program);
    }
    let path = named.unwrap_or_else(|| beside(&own));
    let program = fs::read(&path).map_err(|_| Error::NoRunner(path.clone()))?;
    if is_static_arm64(&program) { Ok(program) } else { Err(Error::RunnerKind(path)) }
}

fn from_environment() -> Option<PathBuf> {
    env::var_os("FAULTLINE_GUEST_RUNNER").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns the path of the runner that was installed, released or built together with the program at `own`.
fn beside(own: &Path) -> PathBuf {
    let here = own.parent().unwrap_or(Path::new("."));
    let above = here.parent().unwrap_or(here);
    let places = [
        above.join("lib/faultline/faultline-aarch64"),
        here.join("faultline-aarch64"),
        above.join("aarch64-unknown-linux-musl/release/faultline"),
    ];
    // If there is none, the error names the last place, because `make build` can fill it.
    let found = places.iter().find(|path| path.is_file()).or(places.last());
    found.cloned().unwrap_or_default()
}

/// Returns whether `program` is an arm64 ELF file that needs no dynamic loader.
fn is_static_arm64(program: &[u8]) -> bool {
    let machine_and_loader = || {
        let header = FileHeader64::<LittleEndian>::parse(program)?;
        let endian = header.endian()?;
        let mut segments = header.program_headers(endian, program)?.iter();
        Ok::<_, object::Error>((header.e_machine(endian), segments.any(|segment| segment.p_type(endian) == PT_INTERP)))
    };
    machine_and_loader().is_ok_and(|found| found == (EM_AARCH64, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::elf::{EM_X86_64, Machine, PT_LOAD, ProgramType};

    /// Returns an ELF file with one segment of this type.
    fn elf(machine: Machine, segment: ProgramType) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[18..20].copy_from_slice(&machine.0.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&segment.0.to_le_bytes());
        bytes
    }

    #[test]
    fn only_static_arm64_programs_are_runners() {
        assert!(is_static_arm64(&elf(EM_AARCH64, PT_LOAD)));
        assert!(!is_static_arm64(&elf(EM_AARCH64, PT_INTERP)));
        assert!(!is_static_arm64(&elf(EM_X86_64, PT_LOAD)));
        assert!(!is_static_arm64(b"#!/bin/sh"));
        assert!(!is_static_arm64(&elf(EM_AARCH64, PT_LOAD)[..40]));
        assert!(!is_static_arm64(&elf(EM_AARCH64, PT_LOAD)[..100]), "a truncated table");
    }

    #[test]
    fn the_runner_is_found_if_it_was_built_released_or_installed() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let own = root.path().join("bin/faultline");
        // Each new file has precedence over those before it.
        for place in
            ["aarch64-unknown-linux-musl/release/faultline", "bin/faultline-aarch64", "lib/faultline/faultline-aarch64"]
        {
            let path = root.path().join(place);
            assert!(place.starts_with("aarch64") == (beside(&own) == path), "{place}");
            fs::create_dir_all(path.parent().expect("a file")).expect("writable");
            fs::write(&path, "").expect("writable");
            assert_eq!(beside(&own), path);
        }
    }
}
