//! `faultline restore`: settings back as they were before a run that died.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::answer::{Failure, Outcome, emit, emit_json};
use hostfacts::guard::{self, Recovery};
use hostfacts::trace;

/// How to print.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A setting that is back.
#[derive(Serialize)]
struct Setting {
    path: PathBuf,
    /// What it is now; none if it is gone.
    value: Option<String>,
}

/// Puts the settings back and says which.
///
/// # Errors
///
/// If a run is still alive, or a setting cannot be put back.
pub fn run(args: &Args) -> Outcome {
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

/// Says what a setting is now that it is back.
fn describe(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(value) => format!("{} = {}", path.display(), value.trim()),
        Err(error) => format!("{} is gone ({error})", path.display()),
    }
}

/// Does the same before any other command, where a dead run left something and this user may. Says so on stderr.
pub fn quietly() {
    trace::clean_up();
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
