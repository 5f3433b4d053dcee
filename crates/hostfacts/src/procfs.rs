//! Readers of small `/proc` and `/sys` files. Their first argument is the root directory, which tests replace.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the trimmed content of `root/path`, or `None` if the file is absent, unreadable or empty.
pub fn read(root: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(under(root, path)).ok()?;
    let text = text.trim_end_matches(['\n', '\0']).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the number in `root/path`.
pub fn read_number<T: std::str::FromStr>(root: &Path, path: &str) -> Option<T> {
    read(root, path)?.parse().ok()
}

/// Returns the CPU or node list in `root/path`, empty if there is none.
pub fn read_list(root: &Path, path: &str) -> Vec<usize> {
    read(root, path).and_then(|text| parse_list(&text)).unwrap_or_default()
}

/// Returns the value of the line `name: value` in `root/path`.
pub fn read_field(root: &Path, path: &str, name: &str) -> Option<String> {
    let text = read(root, path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// Returns the value in KiB of the line `name: value kB` in `root/path`.
pub fn read_kib(root: &Path, path: &str, name: &str) -> Option<u64> {
    read_field(root, path, name)?.strip_suffix(" kB")?.parse().ok()
}

/// Returns the names of the files in the directory `root/path`.
pub fn file_names(root: &Path, path: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(under(root, path)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Returns `path`, which may be absolute, below `root`.
pub fn under(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Parses a list such as `0-3,8,10-11`. Returns `None` if it is malformed; an empty list is valid.
pub fn parse_list(text: &str) -> Option<Vec<usize>> {
    // No machine has more CPUs. The limit keeps a corrupt list from filling memory.
    const MAX: usize = 1 << 16;
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last >= MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Returns the word in brackets of `always [madvise] never`, or the whole text if it has no brackets.
pub fn selected(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(text, |(word, _)| word)
}

/// Makes a root directory with these files.
#[cfg(test)]
pub fn fake_root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    for (path, text) in files {
        let path = under(root.path(), path);
        fs::create_dir_all(path.parent().expect("files are in directories")).expect("directory");
        fs::write(path, text).expect("file");
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list(""), Some(vec![]));
        for bad in ["a", "3-1", "0-99999999"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn fields() {
        let root = fake_root(&[("/proc/self/status", "Name:\tx\nVmHWM:\t    1234 kB\n")]);
        let kib = |name| read_kib(root.path(), "/proc/self/status", name);
        assert_eq!((kib("VmHWM"), kib("Vm"), kib("Name")), (Some(1234), None, None));
    }

    #[test]
    fn selection() {
        assert_eq!(selected("always [madvise] never"), "madvise");
        assert_eq!(selected("10"), "10");
    }
}
