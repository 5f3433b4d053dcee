//! A private apt, which changes nothing on the machine and does not need root.
//!
//! It has its own package lists and cache. Its list of installed packages is empty, or the machine's, which
//! it only reads. It uses the mirrors that the machine is configured for, and verifies every signature against Debian's
//! keyring.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::context::Context;
use crate::error::Error;
use crate::process::{Finished, Unfinished, finish};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// apt's program for other programs.
const HELPER: &str = "/usr/lib/apt/apt-helper";
/// dpkg's list of the installed packages. It is only read.
const MACHINE_STATUS: &str = "/var/lib/dpkg/status";

/// One of Debian's two archives. Every mirror keeps them under the same two folder names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// The folder `debian`.
    Main,
    /// The folder `debian-security`.
    Security,
}

impl Archive {
    fn folder(self) -> &'static str {
        match self {
            Self::Main => "/debian",
            Self::Security => "/debian-security",
        }
    }

    /// Returns the first URI of this archive in `configured`, which has one URI a line, or else Debian's own server.
    fn uri(self, configured: &str) -> String {
        let folder = self.folder();
        let found = configured.lines().map(str::trim).find(|uri| uri.trim_end_matches('/').ends_with(folder));
        found.map_or_else(|| format!("https://deb.debian.org{folder}/"), String::from)
    }
}

/// The part of Debian that one private apt sees.
#[derive(Debug)]
pub struct Scope {
    /// Suites, each with its archive.
    pub suites: &'static [(&'static str, Archive)],
    /// Debian's name of the architecture, or none for the machine's own.
    pub architecture: Option<&'static str>,
    /// The packages that count as installed.
    pub installed: Installed,
}

/// The packages that an apt takes as installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// No package.
    Nothing,
    /// The packages of this machine.
    Machine,
}

impl Scope {
    fn sources(&self, configured: &str) -> String {
        let architecture = self.architecture.map(|name| format!("arch={name} ")).unwrap_or_default();
        let line = |(suite, archive): &(&str, Archive)| {
            format!("deb [{architecture}signed-by={KEYRING}] {} {suite} main\n", archive.uri(configured))
        };
        self.suites.iter().map(line).collect()
    }
}

/// The result of `apt-get update`.
///
/// An error here is not final: a mirror may lack a suite that no package is taken from.
#[derive(Debug)]
pub struct Update {
    /// The first error message, if there was one.
    pub first_error: Option<String>,
}

/// A package in a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Suite.
    pub suite: String,
    /// Size of the .deb in bytes.
    pub bytes: u64,
}

/// A private apt.
pub struct Apt<'a> {
    directory: PathBuf,
    scope: &'static Scope,
    context: Context<'a>,
}

impl<'a> Apt<'a> {
    /// Prepares an apt that keeps its files in `directory`.
    ///
    /// # Errors
    ///
    /// [`Error::MissingKeyring`], [`Error::Cache`], or [`Error::MissingProgram`] if apt is not installed.
    pub fn prepare(directory: &Path, scope: &'static Scope, context: Context<'a>) -> Result<Self, Error> {
        if !Path::new(KEYRING).exists() {
            return Err(Error::MissingKeyring { path: KEYRING.into(), package: "debian-archive-keyring" });
        }
        let failed = |error| Error::Cache { path: directory.to_owned(), error };
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(name)).map_err(failed)?;
        }
        // apt-get changes its working directory, so a relative path would fail there.
        let directory = directory.canonicalize().map_err(failed)?;
        File::create(directory.join("status")).map_err(failed)?;
        let apt = Self { directory, scope, context };
        let sources = apt.directory.join("sources.list");
        fs::write(&sources, scope.sources(&apt.mirrors()?)).map_err(failed)?;
        Ok(apt)
    }

    /// Returns the URIs of the archives that the machine's own apt uses, one a line.
    fn mirrors(&self) -> Result<String, Error> {
        let mut command = Command::new("apt-get");
        command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
        Ok(self.run(&mut command)?.stdout)
    }

    fn options(&self) -> Vec<OsString> {
        let path = |key: &str, path: &OsStr| {
            let mut option = OsString::from(format!("{key}="));
            option.push(self.directory.join(path));
            option
        };
        let status = match self.scope.installed {
            Installed::Nothing => "status",
            // `join` below drops the directory before an absolute path.
            Installed::Machine => MACHINE_STATUS,
        };
        let own = [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State", "."),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::status", status),
            ("Dir::Cache", "cache"),
            ("Dir::Cache::archives", "cache/archives"),
        ];
        let own = own.into_iter().map(|(key, name)| path(key, name.as_ref()));
        let architecture = self.scope.architecture.into_iter();
        let architecture = architecture.flat_map(|name| [("Architecture", name), ("Architectures", name)]);
        let architecture = architecture.map(|(key, name)| format!("APT::{key}={name}").into());
        let fixed = [
            "Dir::Etc::sourceparts=/dev/null",
            "APT::Get::AllowUnauthenticated=false",
            "Acquire::AllowInsecureRepositories=false",
            // The lab reads neither descriptions nor lists of files.
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
            // Another user, such as _apt, might have no right to write to the cache.
            "APT::Sandbox::User=",
            // apt's own locks guard installations. Here nothing is installed, and the cache has a lock of its own.
            "Debug::NoLocking=true",
        ];
        let settings = own.chain(architecture).chain(fixed.map(OsString::from));
        settings.flat_map(|setting| ["-o".into(), setting]).collect()
    }

    fn run(&self, command: &mut Command) -> Result<Finished, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        finish(command.env("LC_ALL", "C"), self.context.interrupt).map_err(|unfinished| match unfinished {
            Unfinished::Interrupted => Error::Interrupted,
            Unfinished::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Error::MissingProgram { program, package: "apt" }
            }
            Unfinished::Io(error) => Error::Start { program, error },
        })
    }

    /// Fetches the package lists.
    ///
    /// # Errors
    ///
    /// An error if apt cannot be run. A list that cannot be fetched is in the result.
    pub fn update(&self) -> Result<Update, Error> {
        self.context.show("fetching Debian's package lists");
        let done = self.run(Command::new("apt-get").args(self.options()).arg("update"))?;
        Ok(Update { first_error: first_error(&done) })
    }

    /// Returns the packages whose names are `wanted`, from the lists of all suites.
    ///
    /// # Errors
    ///
    /// An error if apt cannot be run.
    pub fn packages(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Package>, Error> {
        let mut command = Command::new("apt-get");
        command.args(self.options()).args(["indextargets", "--format", "$(RELEASE) $(FILENAME)"]);
        let lists = self.run(command.arg("Created-By: Packages"))?.stdout;
        let mut found = Vec::new();
        for (suite, file) in lists.lines().filter_map(|line| line.split_once(' ')) {
            // The lists may be compressed, in any way that apt is configured for.
            let list = self.run(Command::new(HELPER).args(self.options()).arg("cat-file").arg(file))?.stdout;
            found.extend(in_list(&list, suite, &wanted));
        }
        Ok(found)
    }

    /// Downloads `package` into the empty directory `into` and returns the .deb.
    ///
    /// # Errors
    ///
    /// [`Error::Fetch`].
    pub fn download(&self, package: &str, into: &Path) -> Result<PathBuf, Error> {
        let mut command = Command::new("apt-get");
        command.args(self.options()).args(["download", package]).current_dir(into);
        let done = self.run(&mut command)?;
        archives(into).pop().filter(|_| done.status.success()).ok_or_else(|| not_fetched(package, &done))
    }

    /// Downloads `package` of `suite` into the empty directory `into` and returns the .debs.
    ///
    /// The packages that it depends on are downloaded too, unless this machine has them in a version that is new
    /// enough.
    ///
    /// # Errors
    ///
    /// [`Error::Fetch`].
    pub fn download_with_missing(&self, package: &str, suite: &str, into: &Path) -> Result<Vec<PathBuf>, Error> {
        let mut command = Command::new("apt-get");
        command.args(self.options()).args(["-y", "--no-install-recommends", "--download-only", "-t", suite]);
        let mut archive = OsString::from("Dir::Cache::archives=");
        archive.push(into);
        fs::create_dir_all(into.join("partial")).map_err(|error| Error::Cache { path: into.to_owned(), error })?;
        let done = self.run(command.arg("-o").arg(archive).args(["install", package]))?;
        let found = archives(into);
        if done.status.success() && !found.is_empty() { Ok(found) } else { Err(not_fetched(package, &done)) }
    }
}

/// Returns the packages of one list whose names are `wanted`.
fn in_list(list: &str, suite: &str, wanted: impl Fn(&str) -> bool) -> Vec<Package> {
    let paragraphs = list.split("\n\n");
    let package = |text: &str| {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let name = field("Package").filter(|name| wanted(name))?.to_owned();
        let version = field("Version")?.to_owned();
        Some(Package { name, version, suite: suite.to_owned(), bytes: field("Size")?.parse().ok()? })
    };
    paragraphs.filter_map(package).collect()
}

/// Returns the .debs in `directory`.
fn archives(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect()
}

fn not_fetched(what: &str, done: &Finished) -> Error {
    let reason = first_error(done).unwrap_or_else(|| format!("apt-get: {}", done.status));
    Error::Fetch { what: what.to_owned(), reason }
}

/// Returns the first error that apt printed, or else its first warning about a list that it could not fetch.
fn first_error(done: &Finished) -> Option<String> {
    let find = |head: &str| done.stderr.lines().find(|line| line.starts_with(head));
    find("E: ").or_else(|| find("W: Failed")).map(|line| line[3..].trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope = Scope {
        suites: &[("trixie", Archive::Main), ("trixie-security", Archive::Security)],
        architecture: Some("arm64"),
        installed: Installed::Nothing,
    };

    #[test]
    fn the_mirror_is_a_configured_one_or_debian() {
        let own =
            "http://mirror.example/debian-security/\nhttp://mirror.example/debian/\nhttp://other.example/nodejs/\n";
        assert_eq!(Archive::Main.uri(own), "http://mirror.example/debian/");
        assert_eq!(Archive::Security.uri(own), "http://mirror.example/debian-security/");
        assert_eq!(Archive::Main.uri(""), "https://deb.debian.org/debian/");
        assert_eq!(Archive::Security.uri(""), "https://deb.debian.org/debian-security/");
    }

    #[test]
    fn every_source_is_signed_by_debian() {
        let text = SCOPE.sources("");
        assert_eq!(text.lines().count(), SCOPE.suites.len());
        let signed =
            "deb [arch=arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://deb.debian.org/";
        assert!(text.lines().all(|line| line.starts_with(signed)), "{text}");
    }

    #[test]
    fn a_list_gives_the_wanted_packages() {
        let list = "Package: linux-image-6.1.0-9-arm64\nVersion: 6.1.27-1\nDescription: x\n Package: y\nSize: 70\n\n\
                    Package: bash\nVersion: 5\nSize: 1\n\nPackage: linux-image-cut\nVersion: 6\n";
        let found = in_list(list, "bookworm", |name| name.starts_with("linux-"));
        let [package] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((package.version.as_str(), package.suite.as_str(), package.bytes), ("6.1.27-1", "bookworm", 70));
    }
}
