//! `faultline restore`: settings back as they were before a run that died.

use super::{Failure, Outcome};
use crate::evidence::guard::{self, Recovery};

/// No arguments.
#[derive(clap::Args)]
pub struct Args {}

/// Puts the settings back and says which.
///
/// # Errors
///
/// If a run is still alive, or a setting cannot be put back.
pub fn run(_: &Args) -> Outcome {
    let state = guard::default_state_dir();
    match guard::recover(&state).map_err(Failure::harness)? {
        Recovery::Nothing => println!("nothing to restore: no run has left settings changed"),
        Recovery::OtherBoot => println!("nothing to restore: the machine was booted anew since, which did it"),
        Recovery::Restored(paths) => paths.iter().for_each(|path| println!("{}", describe(path))),
    }
    Ok(0)
}

/// Says what a setting is now that it is back.
fn describe(path: &std::path::Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(value) => format!("{} = {}", path.display(), value.trim()),
        Err(error) => format!("{} is gone ({error})", path.display()),
    }
}

/// Does the same before any other command, where a dead run left something and this user may. Says so on stderr.
pub fn quietly() {
    match guard::recover(&guard::default_state_dir()) {
        Ok(Recovery::Restored(paths)) => {
            for path in paths {
                eprintln!("faultline: put back what a dead run had changed: {}", describe(&path));
            }
        }
        Err(error @ guard::GuardError::Restore(_)) => eprintln!("faultline: {error}"),
        // Nothing to do, a run that is alive, or no permission: not this command's business.
        _ => {}
    }
}
