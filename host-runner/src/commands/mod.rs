//! The command line, with one file for each command.

mod baseline;
mod check;
mod compare;
mod dmesg;
#[cfg(test)]
mod docs;
mod doctor;
mod generate;
mod kernels;
mod lab;
mod list;
mod matrix;
mod project;
mod prune;
mod recover;
mod repeat;
mod report;
mod reproduce;
mod reproduce_patch;
mod restore;
mod run;
mod sanitize;
mod show;
mod sweep;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use klog::quiet::quiet_lines;
use record::exit::{INTERRUPTED, USAGE};

use crate::failure::Failure;

/// Reproduce KVM/arm64's I-cache soft lockup, and check the cache maintenance of stage 2
///
/// Exit codes: 0 pass, 1 fail, 4 skip, 64 wrong usage, 70 failure of the tool or its surroundings, 124 time limit, 130
/// interrupted.
#[derive(Parser)]
#[command(name = "faultline", version, long_version = LONG_VERSION, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("FAULTLINE_COMMIT"), ")");

#[derive(Subcommand)]
enum Command {
    /// Answer whether this kernel on this machine has the I-side lockup: AFFECTED (exit code 1), NOT AFFECTED (0), BROKEN
    /// (1), or CANNOT TELL (4)
    Check(check::Args),
    /// Run a scenario or a plan on this machine's KVM (arm64; needs root for full evidence)
    Run(run::Args),
    /// Run a scenario or a plan on arm64 kernels under QEMU
    Lab(lab::Args),
    /// Show the lockup on one kernel and its absence on another, in the emulated lab
    Reproduce(reproduce::Args),
    /// Show that the patch alone removes the lockup: run the storm on kernels that differ by nothing else
    ReproducePatch(reproduce_patch::Args),
    /// Compute the stall and the headroom of a storm from the cost of one cache line
    Project(project::Args),
    /// Find lockups, stalls and crashes in a saved kernel log
    Dmesg(dmesg::Args),
    /// Check if this machine can show the lockup, and name what it lacks
    Doctor(doctor::Args),
    /// Restore settings that a dead run left changed
    Restore(restore::Args),
    /// Write the results of runs that died, from the files that they left
    Recover(recover::Args),
    /// Count the maintenance of several kernels on many kinds of emulated host, and compare it with the predictions
    Matrix(matrix::Args),
    /// List the kernels that the lab can have by name, and those in the cache
    Kernels(kernels::Args),
    /// Run a scenario on a row of kernels, and name the kernels at which its cases change
    Sweep(sweep::Args),
    /// Try the sanitizer on kernels with one maintenance fault each, and on the kernel without
    Sanitize(sanitize::Args),
    /// List stored runs
    List(list::Args),
    /// Print stored runs again, as a table or in another format
    Show(show::Args),
    /// Run a stored run again, and compare both: EQUAL or SAME (exit code 0), or the headlines of `compare`
    Repeat(repeat::Args),
    /// Compare two sets of runs: FIXED, BETTER or SAME (exit code 0), REGRESSED or WORSE (1), or INCONCLUSIVE (4)
    Compare(compare::Args),
    /// Write an HTML page about one or more runs
    Report(report::Args),
    /// Store runs with which later runs are compared
    Baseline(baseline::Args),
    /// Remove old runs
    Prune(prune::Args),
    /// Write man pages and shell completions
    #[command(hide = true)]
    Generate(generate::Args),
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = Failure::clap(&error).code;
            return ExitCode::from(if asks_to_bisect(std::env::args_os()) { for_bisect(code) } else { code });
        }
    };
    let bisect = match &cli.command {
        Command::Check(args) => args.bisect(),
        Command::Run(args) => args.bisect(),
        Command::Lab(args) => args.bisect(),
        _ => false,
    };
    // A run restores settings itself, and notes that in its result.
    if !matches!(cli.command, Command::Restore(_) | Command::Check(_) | Command::Run(_)) {
        restore::before_command();
    }
    let outcome = match cli.command {
        Command::Check(args) => check::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Reproduce(args) => reproduce::run(&args),
        Command::ReproducePatch(args) => reproduce_patch::run(&args),
        Command::Project(args) => project::run(&args),
        Command::Dmesg(args) => dmesg::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Sanitize(args) => sanitize::run(&args),
        Command::List(args) => list::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Repeat(args) => repeat::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Baseline(args) => baseline::run(&args),
        Command::Prune(args) => prune::run(&args),
        Command::Generate(args) => generate::run(&args, Cli::command()),
    };
    let code = match outcome {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                units::note!("faultline: {}", quiet_lines(&failure.message));
            }
            failure.code
        }
    };
    ExitCode::from(if bisect { for_bisect(code) } else { code })
}

/// Returns true if a command line that cannot be parsed is meant for `git bisect run`.
fn asks_to_bisect(mut words: impl Iterator<Item = OsString>) -> bool {
    words.any(|word| word == "--bisect")
}

/// Returns the exit code for `git bisect run`: good, bad, or untestable. Wrong usage and an interrupt end the bisection,
/// because testing another commit would not help. Git does that for codes from 128 on.
fn for_bisect(code: u8) -> u8 {
    const UNTESTABLE: u8 = 125;
    match code {
        0 | 1 | INTERRUPTED => code,
        USAGE => 128 + USAGE,
        _ => UNTESTABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_command_line() {
        Cli::command().debug_assert();
    }

    /// Returns the commands without subcommands, with their full names.
    fn leaves(command: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
        let inner = command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help");
        let named = |inner: &clap::Command| format!("{name} {}", inner.get_name()).trim().to_owned();
        let below: Vec<_> = inner.flat_map(|inner| leaves(inner, &named(inner))).collect();
        if below.is_empty() { vec![(name.to_owned(), command.clone())] } else { below }
    }

    #[test]
    fn every_command_but_report_prints_json() {
        let without = |command: &clap::Command| command.get_arguments().all(|argument| argument.get_id() != "json");
        let leaves = leaves(&Cli::command(), "");
        let without: Vec<_> = leaves.iter().filter(|(_, command)| without(command)).map(|(name, _)| name).collect();
        assert_eq!(without, ["report"], "which writes a page");
    }

    #[test]
    fn exit_codes_for_bisecting() {
        let codes = [0, 1, 4, record::exit::HARNESS, 124, USAGE, INTERRUPTED].map(for_bisect);
        assert_eq!(codes, [0, 1, 125, 125, 125, 192, 130]);
    }
}
