//! `faultline restore`: restores settings that a run changed before it died.

use std::path::{Path, PathBuf};

use hostfacts::guard::{self, Recovery};
use hostfacts::trace;
use serde::Serialize;

use crate::failure::{CommandResult, Failure};
use crate::output::{emit, emit_json};

/// Arguments of `faultline restore`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A restored setting.
#[derive(Serialize)]
struct Setting {
    path: PathBuf,
    /// Current value. `None` if the setting no longer exists.
    value: Option<String>,
}

/// Restores the settings and lists them.
///
/// # Errors
///
/// If a run is still alive, or a setting cannot be restored.
pub fn run(args: &Args) -> CommandResult {
    trace::clean_up();
    let state = guard::default_state_dir();
    let (paths, nothing) = match guard::recover(&state).map_err(Failure::harness)? {
        Recovery::Nothing => (Vec::new(), "no run has left settings changed"),
        Recovery::OtherBoot => (Vec::new(), "the machine was booted anew since, which did it"),
        Recovery::Restored(paths) => (paths, ""),
    };
    if args.json {
        let value = |path: &PathBuf| std::fs::read_to_string(path).ok().map(|value| value.trim().to_owned());
        let settings = paths.iter().map(|path| Setting { path: path.clone(), value: value(path) });
        emit_json(&serde_json::json!({ "restored": settings.collect::<Vec<_>>(), "nothing": nothing }))?;
    } else if paths.is_empty() {
        emit(&format!("nothing to restore: {nothing}\n"))?;
    } else {
        emit(&paths.iter().map(|path| describe(path) + "\n").collect::<String>())?;
    }
    Ok(0)
}

/// Describes a restored setting with its current value.
fn describe(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(value) => format!("{} = {}", path.display(), value.trim()),
        Err(error) => format!("{} is gone ({error})", path.display()),
    }
}

/// Restores settings before another command, if a dead run left any changed and the user is permitted. Reports that on
/// standard error.
pub fn before_command() {
    trace::clean_up();
    match guard::recover(&guard::default_state_dir()) {
        Ok(Recovery::Restored(paths)) => {
            for path in paths {
                units::note!("faultline: put back what a dead run had changed: {}", describe(&path));
            }
        }
        Err(error @ guard::GuardError::Restore(_)) => units::note!("faultline: {error}"),
        // Nothing to restore, a run that is alive, or no permission. None of them concerns the other command.
        _ => {}
    }
}
