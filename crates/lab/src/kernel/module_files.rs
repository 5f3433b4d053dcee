//! The modules of a kernel in the cache: a directory beside the kernel's Image.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::sum;
use crate::kernel::modules::{Module, SwapModules};

const FOLDER: &str = "modules";
const INDEX: &str = "modules.json";

/// The contents of [`INDEX`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Index {
    Loadable(Vec<Entry>),
    Nothing(String),
}

/// One module file.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    sha256: String,
}

impl Entry {
    fn new(module: &Module) -> io::Result<Self> {
        Ok(Self { name: module.name.clone(), sha256: sum(module.contents.as_slice())?.sha256 })
    }
}

fn file_name(module: &str) -> String {
    format!("{module}.ko")
}

/// Stores `modules` in `entry`, a kernel's directory in the cache, and replaces modules that are there.
///
/// # Errors
///
/// An error if a file cannot be written.
pub fn store(entry: &Path, modules: &SwapModules) -> io::Result<()> {
    let fresh = tempfile::Builder::new().prefix(".modules-").tempdir_in(entry)?;
    let index = match modules {
        SwapModules::Unavailable(why) => Index::Nothing(why.clone()),
        SwapModules::Found(modules) => {
            for module in modules {
                fs::write(fresh.path().join(file_name(&module.name)), &module.contents)?;
            }
            Index::Loadable(modules.iter().map(Entry::new).collect::<io::Result<_>>()?)
        }
    };
    fs::write(fresh.path().join(INDEX), serde_json::to_vec_pretty(&index)?)?;
    let target = entry.join(FOLDER);
    match fs::remove_dir_all(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(fresh.path(), &target)?;
    // The directory has a new name, so there is nothing to delete under the old one.
    let _ = fresh.keep();
    Ok(())
}

/// Returns the modules in `entry`, or none if they were never stored or a file is damaged.
pub fn find(entry: &Path) -> Option<SwapModules> {
    let folder = entry.join(FOLDER);
    let entries = match serde_json::from_slice(&fs::read(folder.join(INDEX)).ok()?).ok()? {
        Index::Nothing(why) => return Some(SwapModules::Unavailable(why)),
        Index::Loadable(entries) => entries,
    };
    let module = |entry: Entry| {
        let contents = fs::read(folder.join(file_name(&entry.name))).ok()?;
        (sum(contents.as_slice()).ok()?.sha256 == entry.sha256).then_some(Module { name: entry.name, contents })
    };
    entries.into_iter().map(module).collect::<Option<_>>().map(SwapModules::Found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::modules::ZRAM;
    use crate::kernel::modules::tests::package;

    #[test]
    fn modules_are_found_unless_a_file_is_damaged() {
        let entry = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(find(entry.path()), None, "nothing is stored yet");
        let modules = SwapModules::select(ZRAM, &package(&[("zram", "zsmalloc"), ("zsmalloc", "")]));
        store(entry.path(), &modules).expect("the directory is writable");
        assert_eq!(find(entry.path()), Some(modules));
        fs::write(entry.path().join("modules/zsmalloc.ko"), "ELF").expect("it can be overwritten");
        assert_eq!(find(entry.path()), None, "damaged");
        let nothing = SwapModules::Unavailable("its package has no module zram".into());
        store(entry.path(), &nothing).expect("the directory is writable");
        assert_eq!(find(entry.path()), Some(nothing));
    }
}
