//! `faultline generate DIR`: writes man pages and shell completions, for packagers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::failure::{CommandResult, Failure};
use crate::output::emit;

/// Arguments of `faultline generate`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory that receives man/ and completions/
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Shells that get completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes a man page for each command and a completion for each shell.
///
/// # Errors
///
/// If a file cannot be written.
pub fn run(args: &Args, command: clap::Command) -> CommandResult {
    let failed = |error: io::Error| Failure::harness(format!("cannot write to {}: {error}", args.directory.display()));
    generate(&args.directory, command).map_err(failed)?;
    emit(&format!("{}\n", args.directory.display()))?;
    Ok(0)
}

fn generate(directory: &Path, mut command: clap::Command) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(command.clone(), &man)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command, "faultline", &completions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_for_every_command_and_a_completion_for_every_shell() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let command = <crate::commands::Cli as clap::CommandFactory>::command();
        generate(directory.path(), command.clone()).expect("writable");
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).expect(name);
        assert!(read("man/faultline.1").contains("faultline\\-run(1)"));
        for shown in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(read(&format!("man/faultline-{}.1", shown.get_name())).contains(".SH SYNOPSIS"));
        }
        assert!(read("man/faultline-run-relax.1").contains("watchdog\\-thresh"));
        assert!(!directory.path().join("man/faultline-generate.1").exists(), "the command is for packagers");
        for file in ["faultline.bash", "_faultline", "faultline.fish"] {
            assert!(read(&format!("completions/{file}")).contains("watchdog-thresh"), "{file}");
        }
    }
}
