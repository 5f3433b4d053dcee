//! Debian's arm64 kernels, by an apt of our own.
//!
//! The mirrors are those the machine is configured for. Lists, cache and package state are private, so nothing of the
//! machine's own changes, and apt verifies every signature against Debian's keyring.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;
use super::cache::Cache;
use super::process::{Finished, Interrupt, Unfinished, finish};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MAIN_FALLBACK: &str = "https://deb.debian.org/debian/";
const SECURITY_FALLBACK: &str = "https://deb.debian.org/debian-security/";
const MAIN_SUITES: &[&str] = &["bookworm", "bookworm-updates", "bookworm-backports", "trixie"];
const SECURITY_SUITES: &[&str] = &["bookworm-security", "trixie-security"];
const SUITES: &str = "bookworm, bookworm-security, bookworm-backports, trixie and trixie-security";

/// A line of Debian kernels that the lab follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// 6.1, before the fix.
    V6_1,
    /// 6.12, after the fix.
    V6_12,
    /// 6.12 with 16 KiB pages.
    V6_12Pages16K,
}

impl Series {
    /// Returns the series of a name as in `debian:NAME`.
    pub fn named(name: &str) -> Option<Self> {
        [Self::V6_1, Self::V6_12, Self::V6_12Pages16K].into_iter().find(|series| series.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_12Pages16K => "6.12-16k",
        }
    }

    /// Returns the beginning and the end of the package names.
    fn package(self) -> (&'static str, &'static str) {
        match self {
            Self::V6_1 => ("linux-image-6.1.0-", "-arm64-unsigned"),
            Self::V6_12 => ("linux-image-6.12.", "-arm64-unsigned"),
            Self::V6_12Pages16K => ("linux-image-6.12.", "-arm64-16k-unsigned"),
        }
    }

    /// Says whether `package` is a kernel of this series; other flavours (`cloud`, `rt`) are not.
    fn owns(self, package: &str) -> bool {
        let (head, tail) = self.package();
        package
            .strip_prefix(head)
            .and_then(|rest| rest.strip_suffix(tail))
            .is_some_and(|middle| !middle.is_empty() && !middle.contains('-'))
    }
}

/// Returns the Image of the newest kernel of a series, from the cache when there is one.
///
/// # Errors
///
/// Any step's; see [`Error`].
pub fn fetch_series(
    series: Series,
    cache: &Cache,
    interrupt: &Interrupt,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, Error> {
    let key = format!("debian-{}", series.name());
    if let Some(image) = cache.find(&key, progress) {
        return Ok(image);
    }
    let apt = Apt::prepare(cache, interrupt)?;
    let update = apt.update(progress)?;
    let (head, tail) = series.package();
    let names = apt.package_names(head)?;
    let newest = names.iter().filter(|name| series.owns(name)).max_by(|a, b| natural_order(a, b));
    let package = newest.ok_or_else(|| update.no_package(format!("{head}*{tail}")))?;
    apt.store(cache, &key, package, progress)
}

/// Returns the Image of one exact release, from the cache when it is there.
///
/// # Errors
///
/// Any step's; see [`Error`].
pub fn fetch_release(
    release: &str,
    cache: &Cache,
    interrupt: &Interrupt,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, Error> {
    let key = cache.key_of_release(release).unwrap_or_else(|| release.to_string());
    if let Some(image) = cache.find(&key, progress) {
        return Ok(image);
    }
    let apt = Apt::prepare(cache, interrupt)?;
    let update = apt.update(progress)?;
    let package = format!("linux-image-{release}-unsigned");
    if !apt.package_names(&package)?.contains(&package) {
        return Err(update.no_package(package));
    }
    apt.store(cache, &key, &package, progress)
}

/// What `apt-get update` said.
struct Update {
    complaint: Option<String>,
}

impl Update {
    fn no_package(&self, pattern: String) -> Error {
        match &self.complaint {
            Some(reason) => Error::Fetch { what: "Debian's package lists".into(), reason: reason.clone() },
            None => Error::NoPackage {
                pattern,
                suites: SUITES,
                hint: "Debian keeps only the latest releases; take debian:6.1 or debian:6.12, or a path".into(),
            },
        }
    }
}

/// An apt with its own lists, cache and package state.
struct Apt<'a> {
    directory: PathBuf,
    interrupt: &'a Interrupt,
}

impl<'a> Apt<'a> {
    fn prepare(cache: &Cache, interrupt: &'a Interrupt) -> Result<Self, Error> {
        if !Path::new(KEYRING).exists() {
            return Err(Error::MissingKeyring { path: KEYRING.into(), package: "debian-archive-keyring" });
        }
        let directory = cache.tool_directory("apt");
        let failed = |error| Error::Cache { path: directory.clone(), error };
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(name)).map_err(failed)?;
        }
        File::create(directory.join("status")).map_err(failed)?;
        let apt = Self { directory: directory.clone(), interrupt };
        fs::write(directory.join("sources.list"), sources(&apt.mirrors()?)).map_err(failed)?;
        Ok(apt)
    }

    /// Asks the machine's own apt where its packages come from.
    fn mirrors(&self) -> Result<Mirrors, Error> {
        let mut command = Command::new("apt-get");
        command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
        Ok(Mirrors::among(&self.run(&mut command, "apt")?.stdout))
    }

    fn options(&self) -> Vec<OsString> {
        let path = |key: &str, name: &str| {
            let mut option = OsString::from(format!("{key}="));
            option.push(self.directory.join(name));
            option
        };
        let settings = [
            path("Dir::Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            path("Dir::State::Lists", "lists"),
            path("Dir::State::status", "status"),
            path("Dir::Cache", "cache"),
            "APT::Architecture=arm64".into(),
            "APT::Architectures=arm64".into(),
            "APT::Get::AllowUnauthenticated=false".into(),
            "Acquire::AllowInsecureRepositories=false".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".into(),
        ];
        settings.into_iter().flat_map(|setting| ["-o".into(), setting]).collect()
    }

    fn run(&self, command: &mut Command, package: &'static str) -> Result<Finished, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        finish(command.env("LC_ALL", "C"), self.interrupt).map_err(|unfinished| match unfinished {
            Unfinished::Interrupted => Error::Interrupted,
            Unfinished::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Error::MissingProgram { program, package }
            }
            Unfinished::Io(error) => Error::Start { program, error },
        })
    }

    /// Updates the lists. A suite that a mirror lacks is no failure until a package is missed.
    fn update(&self, progress: &dyn Fn(&str)) -> Result<Update, Error> {
        progress("fetching Debian's package lists");
        let done = self.run(Command::new("apt-get").args(self.options()).arg("update"), "apt")?;
        Ok(Update { complaint: complaint(&done) })
    }

    fn package_names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let done = self.run(Command::new("apt-cache").args(self.options()).args(["pkgnames", prefix]), "apt")?;
        Ok(done.stdout.lines().map(String::from).collect())
    }

    /// Downloads a package and stores its kernel.
    fn store(&self, cache: &Cache, key: &str, package: &str, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
        let release = package.trim_start_matches("linux-image-").trim_end_matches("-unsigned");
        progress(&format!("fetching {package}"));
        let fetched = tempfile::tempdir_in(&self.directory)
            .map_err(|error| Error::Cache { path: self.directory.clone(), error })?;
        let mut command = Command::new("apt-get");
        command.args(self.options()).args(["download", package]).current_dir(fetched.path());
        let done = self.run(&mut command, "apt")?;
        let deb = fs::read_dir(fetched.path()).ok().and_then(|mut entries| entries.find_map(Result::ok));
        let Some(deb) = deb.filter(|_| done.status.success()) else {
            let reason = complaint(&done).unwrap_or_else(|| format!("apt-get download: {}", done.status));
            return Err(Error::Fetch { what: package.to_string(), reason });
        };
        progress(&format!("unpacking {package}"));
        cache.store(key, release, package, &mut |image| unpack_kernel(&deb.path(), release, image))
    }
}

/// Writes `/boot/vmlinuz-<release>` of a package to `image`.
fn unpack_kernel(deb: &Path, release: &str, image: &Path) -> Result<(), Error> {
    let failed = |reason: String| Error::Unpack { what: deb.display().to_string(), reason };
    let start = |command: &mut Command, program: &str, package| {
        command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::MissingProgram { program: program.into(), package },
            _ => Error::Start { program: program.into(), error },
        })
    };
    let output = File::create(image).map_err(|error| Error::Cache { path: image.to_path_buf(), error })?;
    let mut archive = start(
        Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(deb)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
        "dpkg-deb",
        "dpkg",
    )?;
    let pipe = archive.stdout.take().expect("stdout was set to a pipe");
    let member = format!("./boot/vmlinuz-{release}");
    let tar = start(
        Command::new("tar").args(["-xO", "-f", "-", &member]).stdin(pipe).stdout(output).stderr(Stdio::piped()),
        "tar",
        "tar",
    )?;
    let done = tar.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let unpacked = archive.wait().map_err(|error| failed(error.to_string()))?;
    if done.status.success() && unpacked.success() {
        Ok(())
    } else {
        let reason = String::from_utf8_lossy(&done.stderr).lines().next().unwrap_or("dpkg-deb failed").to_string();
        Err(failed(reason))
    }
}

/// Returns apt's first error line, or its first warning about an index.
fn complaint(done: &Finished) -> Option<String> {
    let find = |head: &str| done.stderr.lines().find(|line| line.starts_with(head));
    find("E: ").or_else(|| find("W: Failed")).map(|line| line[3..].trim().to_string())
}

/// Where Debian's packages come from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    fn among(uris: &str) -> Self {
        let ending = |name: &str| {
            uris.lines().map(str::trim).find(|uri| uri.trim_end_matches('/').ends_with(name)).map(String::from)
        };
        Self {
            main: ending("/debian").unwrap_or_else(|| MAIN_FALLBACK.into()),
            security: ending("/debian-security").unwrap_or_else(|| SECURITY_FALLBACK.into()),
        }
    }
}

fn sources(mirrors: &Mirrors) -> String {
    let line = |uri: &str, suite: &&str| format!("deb [arch=arm64 signed-by={KEYRING}] {uri} {suite} main\n");
    let main = MAIN_SUITES.iter().map(|suite| line(&mirrors.main, suite));
    main.chain(SECURITY_SUITES.iter().map(|suite| line(&mirrors.security, suite))).collect()
}

/// Compares names with their runs of digits as numbers: 6.12.9 comes before 6.12.10.
fn natural_order(a: &str, b: &str) -> Ordering {
    fn next(text: &str) -> (Option<u64>, &str, &str) {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        if digits > 0 {
            return (text[..digits].parse().ok(), &text[..digits], &text[digits..]);
        }
        let letters = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
        (None, &text[..letters], &text[letters..])
    }
    let (mut a, mut b) = (a, b);
    while !a.is_empty() || !b.is_empty() {
        let ((number_a, text_a, rest_a), (number_b, text_b, rest_b)) = (next(a), next(b));
        let order = number_a.cmp(&number_b).then_with(|| text_a.cmp(text_b));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_flavours_belong_to_a_series() {
        assert!(Series::V6_1.owns("linux-image-6.1.0-56-arm64-unsigned"));
        assert!(Series::V6_12.owns("linux-image-6.12.117+deb12-arm64-unsigned"));
        assert!(Series::V6_12Pages16K.owns("linux-image-6.12.117+deb12-arm64-16k-unsigned"));
        for other in [
            "linux-image-6.1.0-56-rt-arm64-unsigned",
            "linux-image-6.1.0-56-arm64",
            "linux-image-6.1.0--arm64-unsigned",
        ] {
            assert!(!Series::V6_1.owns(other), "{other}");
        }
        assert!(!Series::V6_12.owns("linux-image-6.12.117+deb12-arm64-16k-unsigned"));
        assert!(!Series::V6_12.owns("linux-image-6.12.117+deb12-cloud-arm64-unsigned"));
    }

    #[test]
    fn newest_is_by_number() {
        assert_eq!(natural_order("6.1.0-9-arm64", "6.1.0-38-arm64"), Ordering::Less);
        assert_eq!(natural_order("6.12.95+deb12", "6.12.117+deb12"), Ordering::Less);
        assert_eq!(natural_order("6.12.115+deb13.1", "6.12.115+deb13"), Ordering::Greater);
        assert_eq!(natural_order("6.12.117", "6.12.117"), Ordering::Equal);
    }

    #[test]
    fn mirrors_are_the_machines_own_or_debians() {
        let own =
            "http://mirror.example/debian-security/\nhttp://mirror.example/debian/\nhttp://other.example/nodejs/\n";
        let expected = Mirrors {
            main: "http://mirror.example/debian/".into(),
            security: "http://mirror.example/debian-security/".into(),
        };
        assert_eq!(Mirrors::among(own), expected);
        assert_eq!(Mirrors::among("").main, MAIN_FALLBACK);
        assert_eq!(Mirrors::among("").security, SECURITY_FALLBACK);
    }

    #[test]
    fn every_source_is_signed_by_debian() {
        let text = sources(&Mirrors::among(""));
        assert_eq!(text.lines().count(), MAIN_SUITES.len() + SECURITY_SUITES.len());
        assert!(text.lines().all(|line| line.contains("signed-by=/usr/share/keyrings/debian-archive-keyring.gpg")));
    }
}
