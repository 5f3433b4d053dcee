//! `faultline report RUN…`.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::answer::{Failure, Outcome};
use record::exit::USAGE;
use record::runs::{self, StoredRun};
use record::store;
use report::html::fleet::{Entry, fleet};
use report::html::{Source, number_namesakes, pictures, report};

/// Which runs, and where to.
#[derive(clap::Args)]
pub struct Args {
    /// Run directories, results, directories of plans or of runs, or patterns in quotes; of two, first before, then after
    #[arg(required_unless_present = "fleet", value_name = "RUN")]
    runs: Vec<String>,
    /// One page over all runs in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "runs")]
    fleet: Option<PathBuf>,
    /// Write the pictures alone, each an SVG file of its own in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["fleet", "output"])]
    svg: Option<PathBuf>,
    /// The file to write; - for standard output
    #[arg(short, long, default_value = "report.html", value_name = "FILE")]
    output: PathBuf,
}

/// Writes one HTML file, or the pictures.
///
/// # Errors
///
/// If no run can be read, or the file cannot be written.
pub fn run(args: &Args) -> Outcome {
    if let Some(directory) = &args.svg {
        return write_pictures(directory, &args.runs);
    }
    let page = match &args.fleet {
        Some(directory) => fleet_page(directory, &args.output)?,
        None => with_sources(&args.runs, report)?,
    };
    if args.output.as_os_str() == "-" {
        crate::answer::emit(&page)?;
        return Ok(0);
    }
    store::replace(&args.output, page.as_bytes()).map_err(|error| {
        Failure::harness(format!("cannot write {}: {error}: name another file with -o", args.output.display()))
    })?;
    crate::answer::emit(&format!("{}\n", args.output.display()))?;
    Ok(0)
}

fn write_pictures(directory: &Path, names: &[String]) -> Outcome {
    let pictures = with_sources(names, pictures)?;
    if pictures.is_empty() {
        return Err(Failure::new(USAGE, "these runs have nothing to show in a picture: no case of them was timed"));
    }
    let failed = |path: &Path, error| Failure::harness(format!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    for (name, text) in pictures {
        let path = directory.join(name);
        store::replace(&path, text.as_bytes()).map_err(|error| failed(&path, error))?;
        crate::answer::emit(&format!("{}\n", path.display()))?;
    }
    Ok(0)
}

/// Reads the runs and makes something of them.
fn with_sources<T>(names: &[String], make: impl FnOnce(&[Source<'_>]) -> T) -> Result<T, Failure> {
    let mut stored: Vec<StoredRun> = Vec::new();
    for name in names {
        stored.extend(runs::load(name).map_err(|error| Failure::new(USAGE, error))?);
    }
    let mut sources: Vec<_> = stored
        .iter()
        .map(|run| {
            let read = |name: &str| fs::read(run.dir.join(name)).map(|b| String::from_utf8_lossy(&b).into_owned());
            // A result alone, as out of an archive, makes a report too.
            let (samples, kmsg) = (read("samples.csv").unwrap_or_default(), read("kmsg.raw").unwrap_or_default());
            Source::new(scenarios::viewed(&run.result), &samples, &kmsg)
        })
        .collect();
    number_namesakes(&mut sources);
    Ok(make(&sources))
}

fn fleet_page(directory: &Path, output: &Path) -> Result<String, Failure> {
    if let Err(error) = fs::read_dir(directory) {
        return Err(Failure::new(USAGE, format!("cannot read {}: {error}", directory.display())));
    }
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    for path in runs::directories(directory) {
        if !path.join(store::RESULT).is_file() {
            unreadable.push(format!("{}: no result, the run died", path.display()));
            continue;
        }
        match store::read(&path) {
            Ok(result) => read.push((link(&path, output), result)),
            Err(error) => unreadable.push(error.to_string()),
        }
    }
    let entries: Vec<_> = read.iter().map(|(link, result)| Entry { link: link.clone(), result }).collect();
    Ok(fleet(&entries, &unreadable))
}

/// Returns the run's directory as seen from where the page will lie, so that both can be moved or served together.
fn link(run: &Path, output: &Path) -> String {
    let absolute = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let from = absolute(output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    let to = absolute(run);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let relative: PathBuf = up.chain(to.components().skip(shared)).collect();
    relative.to_string_lossy().replace('%', "%25").replace('#', "%23").replace('?', "%3F") + "/"
}
