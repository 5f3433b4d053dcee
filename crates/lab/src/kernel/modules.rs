//! Kernel modules that init of the emulated host loads.
//!
//! Debian's packages have no modules.dep, because depmod writes it on the machine where they are installed. The modules
//! themselves name the modules that they depend on.

use std::collections::BTreeMap;
use std::io;

use object::LittleEndian;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

use crate::kernel::compression::Compression;

/// The block device in compressed memory that the emulated host swaps to.
pub const ZRAM: &str = "zram";

/// The section with facts about a module: strings of the form `key=value`, each with a NUL after it.
const INFO_SECTION: &str = ".modinfo";
/// The key of the list of modules that a module depends on.
const DEPENDS: &[u8] = b"depends=";

/// A module that finit_module(2) can load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name, with `_` for each `-` of the file name.
    pub name: String,
    /// The ELF file, uncompressed.
    pub contents: Vec<u8>,
}

/// A module as a package contains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedModule {
    /// Compression of the file: none in the packages of 6.1, xz in later ones.
    pub compression: Option<Compression>,
    /// The file.
    pub file: Vec<u8>,
}

impl PackedModule {
    fn unpack(&self) -> io::Result<Vec<u8>> {
        self.compression.map_or_else(|| Ok(self.file.clone()), |format| format.unpack(&self.file))
    }
}

/// The modules of one kernel that swap needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapModules {
    /// All modules, in the order in which they must be loaded.
    Found(Vec<Module>),
    /// No modules, for this reason.
    Unavailable(String),
}

/// Reasons why a module cannot be loaded.
#[derive(Debug, thiserror::Error)]
enum ModuleError {
    #[error("its package has no module {0}")]
    Absent(String),
    #[error("the module {name} does not unpack: {error}")]
    Packed { name: String, error: io::Error },
    #[error("the module {name} is damaged: {error}")]
    Elf { name: String, error: object::Error },
}

impl SwapModules {
    /// Selects the module `wanted` from `all`, with the modules that it depends on.
    pub fn select(wanted: &str, all: &BTreeMap<String, PackedModule>) -> Self {
        let mut order = Vec::new();
        match add(wanted, all, &mut order) {
            Ok(()) => Self::Found(order),
            Err(why) => Self::Unavailable(why.to_string()),
        }
    }
}

/// Appends the module `name` to `order`, after the modules that it depends on.
fn add(name: &str, all: &BTreeMap<String, PackedModule>, order: &mut Vec<Module>) -> Result<(), ModuleError> {
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let packed = all.get(name).ok_or_else(|| ModuleError::Absent(name.into()))?;
    let contents = packed.unpack().map_err(|error| ModuleError::Packed { name: name.into(), error })?;
    let needed = dependencies(&contents).map_err(|error| ModuleError::Elf { name: name.into(), error })?;
    for other in needed {
        add(&other, all, order)?;
    }
    order.push(Module { name: name.into(), contents });
    Ok(())
}

/// Returns the names of the modules that the module with these contents depends on. The kernel allows no cycles.
fn dependencies(contents: &[u8]) -> Result<Vec<String>, object::Error> {
    let file = ElfFile64::<LittleEndian>::parse(contents)?;
    let info = file.section_by_name(INFO_SECTION).map_or(Ok(&[][..]), |section| section.data())?;
    let list = info.split(|&byte| byte == 0).find_map(|string| string.strip_prefix(DEPENDS)).unwrap_or_default();
    let names = String::from_utf8_lossy(list);
    Ok(names.split(',').filter(|name| !name.is_empty()).map(canonical).collect())
}

/// Returns the kernel's form of a module's name.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use object::write::{Object, SectionKind};
    use object::{Architecture, BinaryFormat, Endianness};

    /// Returns an ELF file whose .modinfo is like that of Debian's modules.
    fn file(depends: &str) -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Aarch64, Endianness::Little);
        let section = object.add_section(Vec::new(), INFO_SECTION.into(), SectionKind::ReadOnlyData);
        let info = format!("license=GPL\0depends={depends}\0intree=Y\0name=x\0");
        object.append_section_data(section, info.as_bytes(), 1);
        object.write().expect("a small object")
    }

    /// Returns a package with these modules, each with the list that it depends on.
    pub fn package(modules: &[(&str, &str)]) -> BTreeMap<String, PackedModule> {
        let packed = |depends: &str| PackedModule { compression: None, file: file(depends) };
        modules.iter().map(|(name, depends)| ((*name).to_owned(), packed(depends))).collect()
    }

    #[test]
    fn dependencies_load_first_and_once() {
        let all =
            package(&[("zram", "lz4hc,lz4-compress"), ("lz4_compress", ""), ("lz4hc", "lz4_compress"), ("x", "")]);
        let SwapModules::Found(modules) = SwapModules::select(ZRAM, &all) else { panic!("all are there") };
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["lz4_compress", "lz4hc", "zram"]);
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let packed = Compression::Xz.pack(&file(""));
        let all = |file| BTreeMap::from([(ZRAM.to_owned(), PackedModule { compression: Some(Compression::Xz), file })]);
        let module = Module { name: ZRAM.into(), contents: file("") };
        assert_eq!(SwapModules::select(ZRAM, &all(packed.clone())), SwapModules::Found(vec![module]));
        let damaged = SwapModules::select(ZRAM, &all(packed[1..].to_vec()));
        let SwapModules::Unavailable(why) = damaged else { panic!("it is damaged") };
        assert!(why.contains("zram does not unpack"), "{why}");
    }

    #[test]
    fn damaged_and_absent_modules_are_named() {
        let mut all = package(&[("zram", "zsmalloc")]);
        for (module, why) in [("zram", "its package has no module zsmalloc"), ("x", "its package has no module x")] {
            assert_eq!(SwapModules::select(module, &all), SwapModules::Unavailable(why.into()));
        }
        all.insert("zsmalloc".into(), PackedModule { compression: None, file: b"no ELF".to_vec() });
        let damaged = SwapModules::select(ZRAM, &all);
        let SwapModules::Unavailable(why) = damaged else { panic!("it is damaged") };
        assert!(why.starts_with("the module zsmalloc is damaged"), "{why}");
    }
}
