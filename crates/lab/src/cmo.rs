//! Cache maintenance as the TCG plugin (cmo-plugin) counted it, and the marker that tells it the phase of the run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Output of the plugin in a run directory.
pub const COUNTS: &str = "cmo.json";

/// Why the plugin's output is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no file: the plugin was not loaded, or QEMU did not even start.
    #[error("cannot read the plugin's counts {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not what the plugin writes.
    #[error("{} does not hold the counts of cmo-plugin: {error}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where it went wrong.
        error: serde_json::Error,
    },
    /// A pc is not a hexadecimal number.
    #[error("{} does not hold the counts of cmo-plugin: pc `{pc}`", .path.display())]
    Pc {
        /// The file.
        path: PathBuf,
        /// The text found.
        pc: String,
    },
}

/// How often one operation started to execute in one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// The instruction as the plugin names it: `ic_ivau`, `ic_iallu`, `ic_ialluis`, `dc_civac`, `dc_cvac`, `dc_cvau`, …
    pub op: String,
    /// The kernel function it is in; `None` outside the kernel image, or without a symbol map.
    pub symbol: Option<String>,
    /// Executions.
    pub count: u64,
}

/// The counts of one phase, by function and operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Phase {
    /// The phase's number; 0 is everything before the first marker.
    pub phase: u8,
    /// Sorted; no operation occurs twice in one function.
    pub ops: Vec<Count>,
}

/// What the plugin counted in one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Whether QEMU came to its end. If not, everything since the last marker is missing.
    pub ended: bool,
    /// By number.
    pub phases: Vec<Phase>,
}

impl Phase {
    /// Returns how often `op` ran, wherever it was.
    pub fn total(&self, op: &str) -> u64 {
        self.ops.iter().filter(|count| count.op == op).map(|count| count.count).sum()
    }

    /// Returns how often `op` ran in the kernel function `symbol`.
    pub fn in_function(&self, op: &str, symbol: &str) -> u64 {
        let here = |count: &&Count| count.op == op && count.symbol.as_deref() == Some(symbol);
        self.ops.iter().filter(here).map(|count| count.count).sum()
    }
}

impl Counts {
    /// Returns the counts of `phase`: empty, not absent, if nothing ran in it.
    pub fn phase(&self, phase: u8) -> Phase {
        let found = self.phases.iter().find(|entry| entry.phase == phase);
        found.cloned().unwrap_or(Phase { phase, ops: Vec::new() })
    }

    /// Returns how often `op` ran in the whole run.
    pub fn total(&self, op: &str) -> u64 {
        self.phases.iter().map(|phase| phase.total(op)).sum()
    }
}

/// The functions of a kernel by address: System.map, or /proc/kallsyms read as root.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// Where a function starts; an empty name is where text ends.
    starts: BTreeMap<u64, String>,
}

impl Symbols {
    /// Reads `ADDRESS TYPE NAME [MODULE]` lines. Lines of another form and data symbols are skipped.
    ///
    /// The addresses hold for the running kernel only if it was booted with `nokaslr` or the text is its own kallsyms.
    pub fn parse(text: &str) -> Self {
        let mut starts = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            // kallsyms shows zeroes to users who may not see addresses. `$x` and `$d` mark code and data, not functions.
            if address == 0 || name.starts_with('$') {
                continue;
            }
            if matches!(kind, "t" | "T" | "w" | "W") {
                prefer(starts.entry(address).or_default(), name);
            } else {
                // The first thing that is no function ends the one before.
                starts.entry(address).or_default();
            }
        }
        Self { starts }
    }

    /// Returns the function that holds `pc`.
    pub fn function(&self, pc: u64) -> Option<&str> {
        self.starts.range(..=pc).next_back().map(|(_, name)| name.as_str()).filter(|name| !name.is_empty())
    }
}

/// Of several names for one address keeps the one callers use: `icache_inval_pou`, not `__pi_icache_inval_pou`.
fn prefer(kept: &mut String, name: &str) {
    let underscores = |name: &str| name.len() - name.trim_start_matches('_').len();
    if kept.is_empty() || (underscores(name), name.len(), name) < (underscores(kept), kept.len(), kept.as_str()) {
        name.clone_into(kept);
    }
}

/// The plugin's file as it is.
#[derive(Deserialize)]
struct Written {
    ended: bool,
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

/// Reads what the plugin wrote to `path` and sums it by operation and, with a symbol map, by kernel function.
///
/// # Errors
///
/// The file is missing or is not the plugin's. A run that was cut short is not an error: see [`Counts::ended`].
pub fn read(path: &Path, symbols: Option<&Symbols>) -> Result<Counts, Error> {
    let text = fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })?;
    let written: Written =
        serde_json::from_slice(&text).map_err(|error| Error::Format { path: path.to_owned(), error })?;
    let mut phases = Vec::new();
    for phase in written.phases {
        let mut sums: BTreeMap<(Option<String>, String), u64> = BTreeMap::new();
        for WrittenOp { op, pc, count } in phase.ops {
            let address = pc.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let address = address.ok_or_else(|| Error::Pc { path: path.to_owned(), pc })?;
            let symbol = symbols.and_then(|symbols| symbols.function(address)).map(str::to_owned);
            *sums.entry((symbol, op)).or_default() += count;
        }
        let ops = sums.into_iter().map(|((symbol, op), count)| Count { op, symbol, count }).collect();
        phases.push(Phase { phase: phase.phase, ops });
    }
    Ok(Counts { ended: written.ended, phases })
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
        assert_eq!(symbols.function(0xffff_8000_8001_0060), None, "behind the text");
        assert_eq!(symbols.function(0x40_0000), None, "a user's address");
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
        assert_eq!(phase.in_function("ic_ivau", "icache_inval_pou"), 7);
        assert_eq!(phase.in_function("ic_ivau", "other"), 5);
        assert_eq!(phase.total("ic_ivau"), 18);
        assert_eq!(phase.ops.len(), 4);
        assert_eq!(counts.total("dc_civac"), 7);
        assert_eq!(counts.phase(9).total("ic_ivau"), 0);
        let without = read_text(text, None).expect("the plugin's format");
        assert_eq!(without.phase(2).ops.len(), 2);
        assert_eq!(without.phase(2).total("ic_ivau"), 18);
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        assert!(matches!(read(Path::new("/nonexistent"), None), Err(Error::Read { .. })));
        assert!(matches!(read_text("{}", None), Err(Error::Format { .. })));
        let pc = r#"{"ended":false,"phases":[{"phase":0,"ops":[{"op":"x","pc":"12","count":1}]}]}"#;
        assert!(matches!(read_text(pc, None), Err(Error::Pc { pc, .. }) if pc == "12"));
    }
}
