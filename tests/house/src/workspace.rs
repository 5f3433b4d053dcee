//! The crates of the workspace, as cargo knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A crate of the workspace.
#[derive(Clone, Debug)]
pub struct Crate {
    /// Name by which other crates use it: `klog` for the package `faultline-klog`.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Crates of the workspace that it depends on, without the dependencies of its tests.
    pub dependencies: BTreeSet<String>,
}

/// Returns the top of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the short name of a package.
fn short(package: &str) -> String {
    package.strip_prefix("faultline-").unwrap_or(package).to_owned()
}

/// Asks cargo for the crates of the workspace.
///
/// # Panics
///
/// If cargo fails.
pub fn crates() -> Vec<Crate> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root());
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let of = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("a list").iter();
        let real = dependencies.filter(|dependency| dependency["kind"] != "dev");
        let known = real.filter_map(|dependency| dependency["name"].as_str()).filter(|name| names.contains(name));
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        Crate {
            name: short(package["name"].as_str().expect("a name")),
            directory: manifest.parent().expect("a file in a directory").to_owned(),
            dependencies: known.map(short).collect(),
        }
    };
    packages.iter().map(of).collect()
}

/// Reads the arrows that ARCHITECTURE.md allows, from its lines `name → other, other`. `nothing` stands for no crate.
///
/// # Panics
///
/// If the document has no such lines.
pub fn allowed_arrows() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the architecture is written down");
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        let Some((from, to)) = line.split_once('→') else { continue };
        let from = from.split_whitespace().next().unwrap_or_default().trim_matches('`').to_owned();
        let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let to =
            to.split(',').map(|name| name.trim().trim_matches('`')).filter(is_name).filter(|name| *name != "nothing");
        if is_name(&&*from) {
            allowed.insert(from, to.map(str::to_owned).collect());
        }
    }
    assert!(!allowed.is_empty(), "ARCHITECTURE.md draws no arrows");
    allowed
}
