//! Fetches one package with an apt whose state is all its own, from the mirrors the machine already uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Error, io_error};

/// Suites that have had linux-source-6.12, and the archive they are in.
const SUITES: [(&str, Archive); 3] =
    [("bookworm-security", Archive::Security), ("bookworm-backports", Archive::Main), ("trixie", Archive::Main)];

/// Debian's archive keys, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's two archives, which every mirror keeps under these folders.
#[derive(Clone, Copy)]
enum Archive {
    Main,
    Security,
}

impl Archive {
    fn folder(self) -> &'static str {
        match self {
            Self::Main => "/debian/",
            Self::Security => "/debian-security/",
        }
    }

    /// Returns the mirror among `configured`, or Debian's own.
    fn uri(self, configured: &str) -> String {
        let found = configured.lines().map(str::trim).find(|uri| uri.ends_with(self.folder()));
        found.map_or_else(|| format!("https://deb.debian.org{}", self.folder()), str::to_owned)
    }
}

/// A package on disk, checked by apt against the signed lists.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Its version.
    pub version: String,
    /// The .deb.
    pub file: PathBuf,
}

/// Downloads the newest version of `package` that the suites have. `state` keeps lists and configuration.
pub(super) fn fetch(package: &'static str, state: &Path, progress: &dyn Fn(&str)) -> Result<Fetched, Error> {
    let failed = |reason: String| Error::Fetch { package, reason };
    for folder in ["lists/partial", "cache/archives/partial"] {
        let folder = state.join(folder);
        fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
    }
    let sources = state.join("sources.list");
    fs::write(&sources, sources_list(&configured())).map_err(io_error("write", &sources))?;
    let status = state.join("status");
    fs::write(&status, "").map_err(io_error("write", &status))?;

    progress("reading Debian's package lists");
    let update = run(state, &["update"]).map_err(failed)?;
    // A suite that is gone fails the update but not the others: what counts is whether the package is there.
    let uris = run(state, &["download", "--print-uris", package]).map_err(failed)?;
    let listed = String::from_utf8_lossy(&uris.stdout).into_owned();
    let (file, version) = file_and_version(&listed)
        .ok_or_else(|| failed(complaint(&update).or(complaint(&uris)).unwrap_or(listed.clone())))?;
    progress(&format!("fetching {package} {version}"));
    let download = run(state, &["download", package]).map_err(failed)?;
    let path = state.join(&file);
    if !download.status.success() || !path.exists() {
        return Err(failed(complaint(&download).unwrap_or_else(|| format!("apt-get left no {file}"))));
    }
    Ok(Fetched { version, file: path })
}

/// Returns the archive URIs this machine uses, one a line; nothing where it has no apt.
fn configured() -> String {
    let output =
        Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn sources_list(configured: &str) -> String {
    // A derivative's own apt does not trust Debian's keys unless told to.
    let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    SUITES.iter().map(|(suite, archive)| format!("deb {signed}{} {suite} main\n", archive.uri(configured))).collect()
}

/// Runs apt-get in `state` with everything it reads and writes kept there.
fn run(state: &Path, arguments: &[&str]) -> Result<Output, String> {
    let mut command = Command::new("apt-get");
    let own = [
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::State::Lists", "lists"),
        ("Dir::State::status", "status"),
        ("Dir::Cache", "cache"),
        ("Dir::Cache::archives", "cache/archives"),
    ];
    for (option, file) in own {
        command.arg("-o").arg(format!("{option}={}", state.join(file).display()));
    }
    // Descriptions are never read; the download stays with our own user, who alone can be sure to reach the cache.
    let fixed = [
        "Dir::Etc::sourceparts=/dev/null",
        "APT::Get::AllowUnauthenticated=false",
        "Acquire::AllowInsecureRepositories=false",
        "Acquire::Languages=none",
        "APT::Sandbox::User=",
    ];
    for option in fixed {
        command.args(["-o", option]);
    }
    command.arg("-q").args(arguments).env("LC_ALL", "C").current_dir(state);
    command.output().map_err(|error| format!("apt-get: {error}"))
}

/// Reads `'URI' FILE SIZE HASH`; the version is the file name's middle part.
fn file_and_version(listed: &str) -> Option<(String, String)> {
    let line = listed.lines().find(|line| line.starts_with('\''))?;
    let file = line.split(' ').nth(1)?;
    let version = file.split('_').nth(1)?;
    Some((file.to_owned(), version.replace("%3a", ":")))
}

/// Returns apt's first error, without its mark.
fn complaint(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().find_map(|line| line.strip_prefix("E: ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_the_mirrors_of_the_machine_and_debian_otherwise() {
        let list = sources_list("http://mirror.example/debian/\nhttp://mirror.example/debian-security/\n");
        assert!(list.contains("http://mirror.example/debian/ trixie main\n"), "{list}");
        assert!(list.contains("http://mirror.example/debian-security/ bookworm-security main\n"), "{list}");
        assert!(sources_list("").contains("https://deb.debian.org/debian-security/ bookworm-security main\n"));
    }

    #[test]
    fn reads_what_print_uris_prints() {
        let line = "'http://m/pool/l/linux-source-6.12_6.12.1-1%7edeb12u1_all.deb' linux-source-6.12_6.12.1-1~deb12u1_all.deb 1 SHA256:0";
        let expected = ("linux-source-6.12_6.12.1-1~deb12u1_all.deb".to_owned(), "6.12.1-1~deb12u1".to_owned());
        assert_eq!(file_and_version(&format!("Reading package lists...\n{line}\n")), Some(expected));
        assert_eq!(file_and_version("E: Unable to locate package\n"), None);
    }
}
