//! Small readers of `/proc` and `/sys` files, below a root that tests can replace.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the trimmed content of `root/path`; `None` when it is absent, unreadable or empty.
pub fn read(root: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(under(root, path)).ok()?;
    let text = text.trim_end_matches(['\n', '\0']).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the number in `root/path`.
pub fn read_number<T: std::str::FromStr>(root: &Path, path: &str) -> Option<T> {
    read(root, path)?.parse().ok()
}

/// Returns the kernel's id of this boot.
pub fn boot_id() -> Option<String> {
    read(Path::new("/"), "/proc/sys/kernel/random/boot_id")
}

/// Returns `path`, which may be absolute, below `root`.
pub fn under(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Parses a CPU list such as `0-3,8,10-11`. Returns `None` when it is malformed; an empty list is valid.
pub fn cpu_list(text: &str) -> Option<Vec<usize>> {
    // No machine has more: a corrupt list must not fill memory.
    const MAX_CPU: usize = 1 << 16;
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last >= MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Returns the word in brackets of `always [madvise] never`, or the whole text when there are none.
pub fn selected(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(text, |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(cpu_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpu_list(""), Some(vec![]));
        for bad in ["a", "3-1", "0-99999999"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn selection() {
        assert_eq!(selected("always [madvise] never"), "madvise");
        assert_eq!(selected("10"), "10");
    }
}
