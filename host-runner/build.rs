//! Puts the guest's image and the commit into the program.
//!
//! `make payload` builds the image, which is for another target. Without an image the program still builds, for lints and
//! unit tests, and reports the missing image when it runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Files and directories of the repository that the programs are built from.
const SOURCES: [&str; 8] =
    ["Cargo.lock", "Cargo.toml", "abi", "crates", "host-runner/src", "payload", "plans", "cmo-plugin/src"];

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let image = env::var_os("FAULTLINE_PAYLOAD")
        .map_or_else(|| manifest.join("../target/faultline-payload.img"), PathBuf::from);
    println!("cargo::rerun-if-env-changed=FAULTLINE_PAYLOAD");
    println!("cargo::rerun-if-changed={}", image.display());
    let bytes = fs::read(&image).unwrap_or_default();
    fs::write(out.join("payload.img"), bytes).expect("cargo's OUT_DIR can be written to");
    println!("cargo::rustc-env=FAULTLINE_COMMIT={}", commit(&manifest).unwrap_or_else(|| "unknown".into()));
    println!("cargo::rerun-if-env-changed=FAULTLINE_COMMIT_ID");
    for name in SOURCES {
        println!("cargo::rerun-if-changed=../{name}");
    }
    // HEAD may only name a branch, but its log grows with every commit.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&manifest, &["rev-parse", "--git-path", name]).map(|path| manifest.join(path));
        // Cargo would run this script every time for a file that does not exist.
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}

fn commit(directory: &Path) -> Option<String> {
    if let Ok(id) = env::var("FAULTLINE_COMMIT_ID") {
        return Some(id);
    }
    let head = git(directory, &["rev-parse", "--short=12", "HEAD"])?;
    let sources = SOURCES.map(|name| format!("../{name}"));
    let changed = [&["status", "--porcelain", "--"][..], &sources.each_ref().map(String::as_str)].concat();
    let dirty = git(directory, &changed).is_some_and(|lines| !lines.is_empty());
    Some(if dirty { head + "-dirty" } else { head })
}

fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(directory).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
