//! The counts of cache-maintenance instructions that the TCG plugin (cmo-plugin) writes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Name of the plugin's output file in a run directory.
pub const COUNTS: &str = "cmo.json";

/// Errors in the plugin's output.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read. It is absent if the plugin was not loaded or QEMU did not start.
    #[error("cannot read the plugin's file {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The file does not have the plugin's format.
    #[error("{} does not have the format of cmo-plugin: {error}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The position of the error.
        error: serde_json::Error,
    },
    /// A pc is not a hexadecimal number.
    #[error("{} does not have the format of cmo-plugin: pc `{pc}`", .path.display())]
    Pc {
        /// The file.
        path: PathBuf,
        /// The text in its place.
        pc: String,
    },
}

/// The number of executions of one operation in one kernel function.
#[derive(Clone, Debug)]
struct Count {
    /// The plugin's name of the instruction: `ic_ivau`, `ic_iallu`, `ic_ialluis`, `dc_civac`, `dc_cvac`, `dc_cvau`, …
    op: String,
    /// The kernel function; none outside the kernel image, or without a symbol map.
    symbol: Option<String>,
    /// Executions that began.
    count: u64,
}

/// The counts of one phase of a run.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    ops: Vec<Count>,
}

/// The counts of one run.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Counts by the number of the phase. Phase 0 is everything before the first marker.
    phases: BTreeMap<u8, Phase>,
}

impl Phase {
    /// Returns the number of executions of `op` in all functions.
    pub fn total(&self, op: &str) -> u64 {
        self.ops.iter().filter(|count| count.op == op).map(|count| count.count).sum()
    }

    /// Returns the number of executions of `op` in the kernel functions `symbols`.
    pub fn in_functions(&self, op: &str, symbols: &[&str]) -> u64 {
        let holds = |name: &str| symbols.contains(&name);
        let here = |count: &&Count| count.op == op && count.symbol.as_deref().is_some_and(holds);
        self.ops.iter().filter(here).map(|count| count.count).sum()
    }
}

impl Counts {
    /// Returns the counts of `phase`, which are empty if nothing was counted in it.
    pub fn phase(&self, phase: u8) -> Phase {
        self.phases.get(&phase).cloned().unwrap_or_default()
    }
}

/// The functions of a kernel by address, from System.map or from /proc/kallsyms as root reads it.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// Start addresses of functions. An empty name stands where a function ends and none begins.
    starts: BTreeMap<u64, String>,
    /// First and last address and name of each function of the hypervisor at EL2 (nVHE and protected mode).
    hypervisor: Vec<(u64, u64, String)>,
}

/// Prefix of the names of the hypervisor's functions (the kernel's `image-vars.h`).
const HYPERVISOR: &str = "__kvm_nvhe_";

/// Alignment to which the hypervisor's address of a function equals the kernel's: the kernel's image begins at a
/// multiple of 2 MiB (`MIN_KIMG_ALIGN`), and `__kern_hyp_va` changes only higher bits.
const HYPERVISOR_ALIGNMENT: u64 = 1 << 21;

/// Lowest address of the hypervisor's functions: `kvm_compute_layout` sets the highest bit of an address, which is
/// bit 38 at least. Guests and static programs run below it.
const HYPERVISOR_BASE: u64 = 1 << 38;

impl Symbols {
    /// Reads lines of the form `ADDRESS TYPE NAME [MODULE]`, and skips lines of another form.
    ///
    /// The addresses are right for a kernel that was booted with `nokaslr`, or if `text` is that kernel's own kallsyms.
    pub fn parse(text: &str) -> Self {
        let mut starts = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            // kallsyms shows zeroes to a user who may not see addresses. `$x` and `$d` mark code and data.
            if address == 0 || name.starts_with('$') {
                continue;
            }
            if matches!(kind, "t" | "T" | "w" | "W") {
                prefer(starts.entry(address).or_default(), name);
            } else {
                // The first symbol that is no function ends the function before it.
                starts.entry(address).or_default();
            }
        }
        let ends = starts.keys().skip(1).map(|next| next - 1);
        let spans = starts.iter().zip(ends).map(|((first, name), last)| (*first, last, name));
        let hypervisor = spans.filter_map(|(first, last, name)| {
            Some((first, last, name.strip_prefix(HYPERVISOR)?.trim_start_matches("__pi_").to_owned()))
        });
        let hypervisor = hypervisor.collect();
        Self { starts, hypervisor }
    }

    /// Returns the function that holds `pc`. A function of the hypervisor has the name that it has in the kernel.
    pub fn function(&self, pc: u64) -> Option<&str> {
        // EL2 has one range of addresses, which begins at 0. The kernel's addresses have bit 63.
        if pc >> 63 == 0 {
            if pc < HYPERVISOR_BASE {
                return None;
            }
            let low = |address: u64| address % HYPERVISOR_ALIGNMENT;
            let holds = |first: u64, last: u64| (low(first)..=low(first) + (last - first)).contains(&low(pc));
            let here = self.hypervisor.iter().filter(|(first, last, _)| holds(*first, *last));
            // In an excerpt of kallsyms, the function before a gap seems to reach over it.
            return here.min_by_key(|(first, last, _)| last - first).map(|(.., name)| name.as_str());
        }
        self.starts.range(..=pc).next_back().map(|(_, name)| name.as_str()).filter(|name| !name.is_empty())
    }
}

/// Keeps, of two names for one address, the name that callers use: `icache_inval_pou`, not `__pi_icache_inval_pou`.
fn prefer(kept: &mut String, name: &str) {
    let underscores = |name: &str| name.len() - name.trim_start_matches('_').len();
    if kept.is_empty() || (underscores(name), name.len(), name) < (underscores(kept), kept.len(), kept.as_str()) {
        name.clone_into(kept);
    }
}

/// The plugin's file.
#[derive(Deserialize)]
struct Written {
    phases: Vec<WrittenPhase>,
}

#[derive(Deserialize)]
struct WrittenPhase {
    phase: u8,
    ops: Vec<WrittenOp>,
}

#[derive(Deserialize)]
struct WrittenOp {
    op: String,
    pc: String,
    count: u64,
}

/// Reads the plugin's file at `path` and sums its counts by operation and, with a symbol map, by kernel function.
///
/// # Errors
///
/// The step that failed, see [`Error`]. A run that was cut short is no error.
pub fn read(path: &Path, symbols: Option<&Symbols>) -> Result<Counts, Error> {
    let text = fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })?;
    let written: Written =
        serde_json::from_slice(&text).map_err(|error| Error::Format { path: path.to_owned(), error })?;
    let mut phases = BTreeMap::new();
    for phase in written.phases {
        let mut sums: BTreeMap<(Option<String>, String), u64> = BTreeMap::new();
        for WrittenOp { op, pc, count } in phase.ops {
            let address = pc.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let address = address.ok_or_else(|| Error::Pc { path: path.to_owned(), pc })?;
            let symbol = symbols.and_then(|symbols| symbols.function(address)).map(str::to_owned);
            *sums.entry((symbol, op)).or_default() += count;
        }
        let ops = sums.into_iter().map(|((symbol, op), count)| Count { op, symbol, count }).collect();
        phases.insert(phase.phase, Phase { ops });
    }
    Ok(Counts { phases })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
ffff800080010000 T _stext
ffff800080010000 T __pi_icache_inval_pou
ffff800080010000 T icache_inval_pou
ffff800080010000 t $x
ffff800080010040 t other
ffff800080010060 D _etext
ffff800080020000 D data
not a symbol
";

    fn read_text(text: &str, symbols: Option<&Symbols>) -> Result<Counts, Error> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), text).expect("written");
        read(file.path(), symbols)
    }

    #[test]
    fn a_pc_belongs_to_the_function_that_starts_before_it() {
        let symbols = Symbols::parse(MAP);
        assert_eq!(symbols.function(0xffff_8000_8001_0000), Some("icache_inval_pou"));
        assert_eq!(symbols.function(0xffff_8000_8001_003c), Some("icache_inval_pou"));
        assert_eq!(symbols.function(0xffff_8000_8001_0040), Some("other"));
        assert_eq!(symbols.function(0xffff_8000_8001_0060), None, "after the text");
        assert_eq!(symbols.function(0x40_0000), None, "an address of user space");
    }

    #[test]
    fn a_hypervisor_runs_its_own_copy_at_its_own_address() {
        let symbols = Symbols::parse(
            "ffff8000814c8150 t __kvm_nvhe_dcache_clean_inval_poc\nffff8000814c8188 t __kvm_nvhe_icache_inval_pou\n\
             ffff8000814c81c0 t __kvm_nvhe_other\n",
        );
        assert_eq!(symbols.function(0x000a_7e73_014c_81ac), Some("icache_inval_pou"), "7.3.4 in protected mode");
        assert_eq!(symbols.function(0x000a_7e73_014c_8150), Some("dcache_clean_inval_poc"));
        assert_eq!(symbols.function(0x000a_7e73_014c_81c0), None);
        assert_eq!(symbols.function(0x414c_81ac), None, "a guest, at the same offset");
    }

    #[test]
    fn sums_by_function_and_phase() {
        let text = r#"{"ended":true,"phases":[{"phase":0,"ops":[]},{"phase":2,"ops":[
            {"op":"ic_ivau","pc":"0xffff800080010004","count":3},
            {"op":"ic_ivau","pc":"0xffff800080010008","count":4},
            {"op":"ic_ivau","pc":"0xffff800080010044","count":5},
            {"op":"ic_ivau","pc":"0x400000","count":6},
            {"op":"dc_civac","pc":"0xffff800080010048","count":7}]}]}"#;
        let counts = read_text(text, Some(&Symbols::parse(MAP))).expect("the plugin's format");
        let phase = counts.phase(2);
        assert_eq!(phase.in_functions("ic_ivau", &["icache_inval_pou"]), 7);
        assert_eq!(phase.in_functions("ic_ivau", &["other", "icache_inval_all"]), 5);
        assert_eq!(phase.total("ic_ivau"), 18);
        assert_eq!(phase.ops.len(), 4);
        assert_eq!(phase.total("dc_civac"), 7);
        assert_eq!(counts.phase(9).total("ic_ivau"), 0);
        let without = read_text(text, None).expect("the plugin's format");
        assert_eq!(without.phase(2).ops.len(), 2);
        assert_eq!(without.phase(2).total("ic_ivau"), 18);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(read(Path::new("/nonexistent"), None), Err(Error::Read { .. })));
        assert!(matches!(read_text("{}", None), Err(Error::Format { .. })));
        let pc = r#"{"ended":false,"phases":[{"phase":0,"ops":[{"op":"x","pc":"12","count":1}]}]}"#;
        assert!(matches!(read_text(pc, None), Err(Error::Pc { pc, .. }) if pc == "12"));
    }
}
