//! Kernel modules that the lab's init loads: found in a package, kept in the cache beside the kernel's Image.
//!
//! Debian's packages hold no modules.dep, which is made where they are installed; each module says itself what it needs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The block device in memory that the lab swaps to.
pub const ZRAM: &str = "zram";

const FOLDER: &str = "modules";
const RECORD: &str = "modules.json";
const DEPENDS: &[u8] = b"\0depends=";

/// One module, as `finit_module` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` where the file name may have `-`.
    pub name: String,
    /// The ELF file, uncompressed.
    pub contents: Vec<u8>,
}

/// A module as a package holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// How.
    pub packing: Packing,
    /// The file.
    pub file: Vec<u8>,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all: 6.1.
    Plain,
    /// By xz: 6.12.
    Xz,
}

impl Packed {
    fn unpack(&self) -> Result<Vec<u8>, lzma_rs::error::Error> {
        let mut contents = Vec::new();
        match self.packing {
            Packing::Plain => contents.extend(&self.file),
            Packing::Xz => lzma_rs::xz_decompress(&mut self.file.as_slice(), &mut contents)?,
        }
        Ok(contents)
    }
}

/// Modules for the guest, or why there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supply {
    /// These, in the order in which they load.
    Loadable(Vec<Module>),
    /// None, and why.
    Nothing(String),
}

/// Why a module cannot be loaded.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("its package has no module {0}")]
    Absent(String),
    #[error("the module {name} does not unpack: {error:?}")]
    Packing { name: String, error: lzma_rs::error::Error },
}

impl Supply {
    /// Picks the module called `wanted` with all that it depends on, each behind what it needs.
    pub fn of(wanted: &str, all: &BTreeMap<String, Packed>) -> Self {
        let mut order = Vec::new();
        match add(wanted, all, &mut order) {
            Ok(()) => Self::Loadable(order),
            Err(why) => Self::Nothing(why.to_string()),
        }
    }
}

fn add(name: &str, all: &BTreeMap<String, Packed>, order: &mut Vec<Module>) -> Result<(), Unusable> {
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let packed = all.get(name).ok_or_else(|| Unusable::Absent(name.into()))?;
    let contents = packed.unpack().map_err(|error| Unusable::Packing { name: name.into(), error })?;
    for other in dependencies(&contents) {
        add(&other, all, order)?;
    }
    order.push(Module { name: name.into(), contents });
    Ok(())
}

/// Reads `depends=` among the NUL-terminated strings of a module's .modinfo section. The kernel allows no cycles.
fn dependencies(contents: &[u8]) -> Vec<String> {
    let Some(start) = contents.windows(DEPENDS.len()).position(|window| window == DEPENDS) else { return Vec::new() };
    let list: Vec<u8> = contents[start + DEPENDS.len()..].iter().copied().take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&list).split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

/// Returns a module's name as the kernel knows it.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// What the cache knows of a supply.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Loadable(Vec<Stored>),
    Nothing(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    name: String,
    sha256: String,
}

fn sha256(contents: &[u8]) -> String {
    Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file_name(name: &str) -> String {
    format!("{name}.ko")
}

/// Stores a supply below `entry`, a kernel's directory in the cache, in place of what was there.
///
/// # Errors
///
/// If a file cannot be written.
pub fn store(entry: &Path, supply: &Supply) -> io::Result<()> {
    let fresh = tempfile::Builder::new().prefix(".modules-").tempdir_in(entry)?;
    let record = match supply {
        Supply::Nothing(why) => Record::Nothing(why.clone()),
        Supply::Loadable(modules) => {
            for module in modules {
                fs::write(fresh.path().join(file_name(&module.name)), &module.contents)?;
            }
            let stored = |module: &Module| Stored { name: module.name.clone(), sha256: sha256(&module.contents) };
            Record::Loadable(modules.iter().map(stored).collect())
        }
    };
    fs::write(fresh.path().join(RECORD), serde_json::to_vec_pretty(&record)?)?;
    let target = entry.join(FOLDER);
    match fs::remove_dir_all(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(fresh.path(), &target)?;
    // The directory has moved; what is left to delete under the old name is nothing.
    let _ = fresh.keep();
    Ok(())
}

/// Returns the supply below `entry`; none if nobody looked for modules yet, or they are not whole.
pub fn find(entry: &Path) -> Option<Supply> {
    let folder = entry.join(FOLDER);
    let stored = match serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()? {
        Record::Nothing(why) => return Some(Supply::Nothing(why)),
        Record::Loadable(stored) => stored,
    };
    let module = |stored: Stored| {
        let contents = fs::read(folder.join(file_name(&stored.name))).ok()?;
        (sha256(&contents) == stored.sha256).then_some(Module { name: stored.name, contents })
    };
    stored.into_iter().map(module).collect::<Option<_>>().map(Supply::Loadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a .modinfo like that of Debian's modules.
    fn file(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0intree=Y\0name=x\0").into_bytes()
    }

    fn package(modules: &[(&str, &str)]) -> BTreeMap<String, Packed> {
        let packed = |depends: &str| Packed { packing: Packing::Plain, file: file(depends) };
        modules.iter().map(|(name, depends)| ((*name).to_owned(), packed(depends))).collect()
    }

    fn loadable(supply: &Supply) -> Vec<&str> {
        let Supply::Loadable(modules) = supply else { panic!("not {supply:?}") };
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn what_is_needed_loads_first_and_once() {
        let all =
            package(&[("zram", "lz4hc,lz4-compress"), ("lz4_compress", ""), ("lz4hc", "lz4_compress"), ("x", "")]);
        assert_eq!(loadable(&Supply::of(ZRAM, &all)), ["lz4_compress", "lz4hc", "zram"]);
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut file("").as_slice(), &mut packed).expect("memory can be written to");
        let all = |file| BTreeMap::from([(ZRAM.to_owned(), Packed { packing: Packing::Xz, file })]);
        let module = Module { name: ZRAM.into(), contents: file("") };
        assert_eq!(Supply::of(ZRAM, &all(packed.clone())), Supply::Loadable(vec![module]));
        let Supply::Nothing(why) = Supply::of(ZRAM, &all(packed[1..].to_vec())) else { panic!("it is damaged") };
        assert!(why.contains("zram does not unpack"), "{why}");
    }

    #[test]
    fn what_is_absent_is_named() {
        for (all, absent) in [(&[("zram", "zsmalloc")], "zsmalloc"), (&[("zsmalloc", "")], "zram")] {
            let expected = Supply::Nothing(format!("its package has no module {absent}"));
            assert_eq!(Supply::of(ZRAM, &package(all)), expected);
        }
    }

    #[test]
    fn a_supply_is_found_while_it_is_whole() {
        let entry = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(find(entry.path()), None, "nobody looked yet");
        let supply = Supply::of(ZRAM, &package(&[("zram", "zsmalloc"), ("zsmalloc", "")]));
        store(entry.path(), &supply).expect("the directory is writable");
        assert_eq!(find(entry.path()), Some(supply));
        fs::write(entry.path().join("modules/zsmalloc.ko"), "ELF").expect("it can be overwritten");
        assert_eq!(find(entry.path()), None, "damaged");
        let nothing = Supply::Nothing("its package has no module zram".into());
        store(entry.path(), &nothing).expect("the directory is writable");
        assert_eq!(find(entry.path()), Some(nothing));
    }
}
