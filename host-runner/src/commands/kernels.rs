//! `faultline kernels`: lists the kernels that the lab can have by name, and prunes the cache.

use lab::Verbosity;
use lab::kernels::{self, KernelList, ListedKernel, Prune};
use units::size::Size;

use crate::failure::CommandResult;
use crate::lab_runs::failure;
use crate::output::{emit, emit_json};

/// Arguments of `faultline kernels`.
#[derive(clap::Args)]
pub struct Args {
    /// Only the kernels that this name may mean: a version, a suite or a release, as after `debian:`
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only the kernels in the cache; needs no network
    #[arg(long)]
    cached: bool,
    /// Remove Debian's kernels that no name means any more from the cache, or all kernels and sources
    #[arg(long, value_name = "unused|all", num_args = 0..=1, default_missing_value = "unused", require_equals = true)]
    prune: Option<What>,
    /// With --prune: print what would be removed, and remove nothing
    #[arg(long, requires = "prune")]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    Unused,
    All,
}

/// Lists or prunes.
///
/// # Errors
///
/// If the cache cannot be used, or the name has no known form.
pub fn run(args: &Args) -> CommandResult {
    if let Some(what) = args.prune {
        let what = match what {
            What::Unused => Prune::Unused,
            What::All => Prune::All,
        };
        let removed = kernels::prune(what, args.dry_run).map_err(failure)?;
        if args.json {
            emit_json(&serde_json::json!({ "dry_run": args.dry_run, "removed": removed }))?;
        } else {
            let line = |(path, bytes): &(std::path::PathBuf, u64)| format!("{} {}\n", path.display(), rounded(*bytes));
            emit(&removed.iter().map(line).collect::<String>())?;
        }
        return Ok(0);
    }
    let list = kernels::list(args.name.as_deref(), args.cached, args.verbosity).map_err(failure)?;
    if args.json {
        emit_json(&list)?;
    } else {
        emit(&text(&list))?;
    }
    Ok(0)
}

/// Returns a size in whole MiB, or in KiB if it is below one.
fn rounded(bytes: u64) -> String {
    if bytes >= 1 << 20 { Size(bytes >> 20 << 20).to_string() } else { Size(bytes >> 10 << 10).to_string() }
}

fn text(list: &KernelList) -> String {
    let mut rows = vec![["release", "suite", "download", "cached", "last meant by"].map(str::to_owned)];
    rows.extend(list.kernels.iter().map(row));
    let widths: Vec<usize> = (0..5).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out += cells.join("  ").trim_end();
        out += "\n";
    }
    out += &format!(
        "\ncache: {}; {} kernels built from source, {}; sources {}\n",
        list.cache.display(),
        list.built,
        rounded(list.built_bytes),
        rounded(list.source_bytes)
    );
    if let Some(why) = &list.offline {
        out += &format!("only the cache: {why}\n");
    }
    out
}

fn row(kernel: &ListedKernel) -> [String; 5] {
    let dash = || "-".to_owned();
    let names: Vec<_> = kernel.names.iter().map(|name| format!("debian:{name}")).collect();
    [
        kernel.release.clone(),
        kernel.suites.join(", "),
        kernel.download_bytes.map_or_else(dash, rounded),
        kernel.cached_bytes.map_or_else(dash, rounded),
        names.join(" "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_what_to_type() {
        let kernel = ListedKernel {
            release: "6.1.0-9-arm64".into(),
            version: Some("6.1.27-1".into()),
            suites: vec!["bookworm".into()],
            download_bytes: Some(60 << 20),
            cached_bytes: Some(31 << 20),
            names: vec!["6.1".into()],
        };
        let list = KernelList {
            kernels: vec![kernel],
            offline: Some("no network".into()),
            cache: "/cache".into(),
            built: 2,
            built_bytes: 3 << 20,
            source_bytes: 900,
        };
        let text = text(&list);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["6.1.0-9-arm64", "bookworm", "60M", "31M", "debian:6.1"]
        );
        assert!(
            text.contains("2 kernels built from source, 3M") && text.ends_with("only the cache: no network\n"),
            "{text}"
        );
    }
}
