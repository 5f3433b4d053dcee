//! Reads the dumps of the kernel log that survive a reboot: in pstore, and in the directory to which systemd moves them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Directories with dumps. After a boot, systemd-pstore.service moves them from the first to the second.
pub const PLACES: [&str; 2] = ["/sys/fs/pstore", "/var/lib/systemd/pstore"];

/// Depth of the directories in which systemd stores dumps.
const MAX_DEPTH: usize = 3;

/// Dumps that may be from the death of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dumps {
    /// Text of each log or console, with its parts in the order in which they were printed.
    pub texts: Vec<Vec<u8>>,
    /// Number of files that were read.
    pub files: usize,
    /// Directories that could not be read, each with the reason.
    pub unreadable: Vec<String>,
}

/// Identity of a dump that has several parts: its directory, and the kernel's reason with its count since boot.
type Dump = (PathBuf, String);

/// Reads the dumps that are no older than `since`.
pub fn read(places: &[&Path], since: SystemTime) -> Dumps {
    let mut dumps = Dumps::default();
    let mut paths = Vec::new();
    for place in places {
        match fs::read_dir(place) {
            Ok(_) => walk(place, MAX_DEPTH, &mut paths),
            Err(error) => dumps.unreadable.push(format!("{}: {error}", place.display())),
        }
    }
    paths.retain(|path| is_kernel_log(path) && modified(path).is_some_and(|time| time >= since));
    paths.sort();
    let mut parts: BTreeMap<Dump, Vec<(u32, Vec<u8>)>> = BTreeMap::new();
    for path in paths {
        let Ok(bytes) = fs::read(&path) else { continue };
        dumps.files += 1;
        match part(&bytes) {
            Some((reason, part)) => {
                let directory = path.parent().unwrap_or(Path::new("")).to_owned();
                parts.entry((directory, reason.to_owned())).or_default().push((part, bytes));
            }
            None => dumps.texts.push(bytes),
        }
    }
    dumps.texts.extend(parts.into_values().map(|mut parts| {
        // The first part was printed last.
        parts.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        parts.into_iter().flat_map(|(_, bytes)| without_header(bytes)).collect()
    }));
    dumps
}

fn walk(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if !path.is_dir() {
            found.push(path);
        } else if depth > 1 {
            walk(&path, depth - 1, found);
        }
    }
}

/// Returns true if a file holds messages of the kernel. `pmsg` is written by user space and cannot be trusted.
fn is_kernel_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["dmesg", "console"].iter().any(|kind| name.starts_with(kind)) && !name.ends_with(".enc.z")
}

/// Parses the first line of a part, such as `Panic#1 Part2`: the reason with its count, and the number of the part.
fn part(bytes: &[u8]) -> Option<(&str, u32)> {
    let line = std::str::from_utf8(bytes.split(|byte| *byte == b'\n').next()?).ok()?;
    let (reason, part) = line.split_once(" Part")?;
    let (_, count) = reason.split_once('#')?;
    count.parse::<u32>().ok()?;
    Some((reason, part.trim().parse().ok()?))
}

fn without_header(bytes: Vec<u8>) -> Vec<u8> {
    let mut bytes = bytes.into_iter().skip_while(|byte| *byte != b'\n').skip(1).collect::<Vec<_>>();
    // A part consists of whole lines, but the last one may lack its line break.
    if bytes.last().is_some_and(|byte| *byte != b'\n') {
        bytes.push(b'\n');
    }
    bytes
}

/// Returns the time at which a file last changed.
pub fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    #[test]
    fn parts_are_put_together_in_the_order_of_printing() {
        let place = tempfile::tempdir().expect("a temporary directory");
        put(place.path(), "dmesg-efi_pstore-170000000001001", "Panic#1 Part1\n<0>third\n");
        put(place.path(), "dmesg-efi_pstore-170000000002001", "Panic#1 Part2\n<4>first\n<4>second");
        put(place.path(), "systemd/170000000/dmesg.txt", "<4>moved\n");
        put(place.path(), "console-ramoops-0", "console\n");
        put(place.path(), "pmsg-ramoops-0", "[ 1.0] watchdog: BUG: soft lockup - CPU#1 stuck for 3s! [a:1]\n");
        put(place.path(), "dmesg-ramoops-0.enc.z", "compressed");
        let dumps = read(&[place.path(), Path::new("/nonexistent")], SystemTime::UNIX_EPOCH);
        let texts: Vec<_> = dumps.texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        assert_eq!(texts, ["console\n", "<4>moved\n", "<4>first\n<4>second\n<0>third\n"]);
        assert_eq!((dumps.files, dumps.unreadable.len()), (4, 1));
    }

    #[test]
    fn dumps_older_than_the_run_are_left_out() {
        let place = tempfile::tempdir().expect("a temporary directory");
        put(place.path(), "dmesg-ramoops-0", "Panic#1 Part1\n<0>old\n");
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        assert_eq!(read(&[place.path()], later), Dumps::default());
    }

    #[test]
    fn headers() {
        assert_eq!(part(b"Oops#2 Part13\n<4>text"), Some(("Oops#2", 13)));
        for text in ["", "Panic", "<4>[ 1.0] Panic#1 Part", "Panic#x Part1\n", "Panic#1 Part1 and more\n"] {
            assert_eq!(part(text.as_bytes()), None, "{text}");
        }
    }
}
