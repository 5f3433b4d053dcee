//! Puts what the TCG plugin counted beside what was predicted, in the result of a run in the emulated lab.
//!
//! The runner marks each case's traced round as a phase of its own (see [`phase_of`]); the plugin's file and the kernel's
//! symbols come out of the lab in the run directory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::cmo::{self, Counts, Symbols};
use crate::result::{CaseResult, Counted, RunResult};
use crate::store;
use crate::verdict::{
    self,
    policy::{self, Geometry},
};

/// The plugin's output in a run directory.
pub const COUNTS: &str = "cmo.json";
/// Addresses of the kernel's maintenance functions in a run directory, as in /proc/kallsyms.
pub const SYMBOLS: &str = "symbols";

/// Why there are no counts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin's file is of no use.
    #[error("{0}")]
    Counts(#[from] cmo::Error),
    /// The result could not be read or written.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// The symbols are not there.
    #[error("cannot read {0}: {1}")]
    Symbols(PathBuf, std::io::Error),
}

/// Returns the phase in which case `index` is counted; none is left for cases beyond the plugin's last.
pub fn phase_of(index: usize) -> Option<u8> {
    u8::try_from(index + 1).ok().filter(|phase| *phase < cmo::PHASES)
}

/// Returns the lines of kallsyms that tell where maintenance functions begin and end, where they are readable.
///
/// All else in kallsyms, several megabytes, would have to leave the emulated machine with every run.
pub fn excerpt(kallsyms: &str) -> String {
    const WANTED: [&str; 4] = ["icache_inval_", "dcache_", "caches_clean_", "invalidate_icache_"];
    let mut lines: Vec<(u64, &str)> = kallsyms
        .lines()
        .filter_map(|line| Some((u64::from_str_radix(line.split(' ').next()?, 16).ok()?, line)))
        .collect();
    lines.sort_unstable();
    let wanted = |line: &str| {
        let name = line.split(' ').nth(2).unwrap_or_default().trim_start_matches("__pi_").trim_start_matches('_');
        WANTED.iter().any(|prefix| name.starts_with(prefix))
    };
    // The line after a wanted one is kept as well: it is where the function ends.
    let kept = |n: usize| wanted(lines[n].1) || (n > 0 && wanted(lines[n - 1].1));
    (0..lines.len()).filter(|n| kept(*n)).map(|n| format!("{}\n", lines[n].1)).collect()
}

/// Reads the counts of a run directory into its result; a run without counts stays as it is.
///
/// # Errors
///
/// If counts are there and cannot be used.
pub fn complete(run_dir: &Path) -> Result<(), Error> {
    if !run_dir.join(COUNTS).exists() || !run_dir.join(store::RESULT).exists() {
        return Ok(());
    }
    let path = run_dir.join(SYMBOLS);
    let text = fs::read_to_string(&path).map_err(|error| Error::Symbols(path, error))?;
    let counts = cmo::read(&run_dir.join(COUNTS), Some(&Symbols::parse(&text)))?;
    let mut result = store::read(run_dir)?;
    apply(&mut result, &counts);
    store::write_result(run_dir, &result)?;
    Ok(())
}

/// Notes in each case what was counted in its traced round, and infers the policy again where the run asked for it.
fn apply(result: &mut RunResult, counts: &Counts) {
    for (index, case) in result.cases.iter_mut().enumerate() {
        let Some(phase) = phase_of(index).filter(|_| case.host.is_some()) else { continue };
        let ops = counts.phase(phase);
        let host = case.host.iter().flat_map(|host| &host.faults);
        let faults = host.filter(|fault| fault.access == "fetch").map(|fault| fault.count).sum();
        let counted = Counted {
            faults,
            ic_ivau: ops.in_function("ic_ivau", "icache_inval_pou"),
            ic_ialluis: ops.total("ic_ialluis"),
            dc_civac: ops.in_function("dc_civac", "dcache_clean_inval_poc"),
            agrees_with: Vec::new(),
        };
        let Counted { ic_ivau, ic_ialluis, .. } = counted;
        if let Some(point) = &mut case.policy {
            point.counted = Some(policy::Counted { blocks: faults, ic_ivau, ic_ialluis });
        }
        case.counted = Some(Counted { agrees_with: agreement(case, &counted), ..counted });
    }
    if result.policy.is_some() {
        let points: Vec<_> = result.cases.iter().filter_map(|case| case.policy).collect();
        let geometry = Geometry::new(&result.machine, result.vcpus.first(), result.machine.page_bytes);
        result.policy = Some(policy::infer(&points, &geometry));
        result.verdict = verdict::with_policy(verdict::run(&result.cases), result.policy.as_ref());
    }
}

/// Returns the policies whose prediction is what was counted, to the last operation.
fn agreement(case: &CaseResult, counted: &Counted) -> Vec<String> {
    // One operation for a whole block of several lines can only be IC IALLUIS.
    let expected = |per_fault: u64| {
        if per_fault == 1 { (0, counted.faults) } else { (counted.faults * per_fault, 0) }
    };
    let policies =
        [("by line", expected(case.predicted.by_line)), ("capped", expected(case.predicted.capped)), ("none", (0, 0))];
    let seen = (counted.ic_ivau, counted.ic_ialluis);
    policies.into_iter().filter(|(_, wanted)| *wanted == seen).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::blocks::Block;
    use crate::plan::relax::Sharing;
    use crate::result::Predicted;

    #[test]
    fn an_excerpt_keeps_where_functions_end() {
        let all = "ffff800080000040 t icache_inval_pou\nffff800080000000 T a\nffff800080000040 t __pi_icache_inval_pou\n\
                   ffff800080000084 t b\nffff800080000100 t c\n";
        let symbols = Symbols::parse(&excerpt(all));
        let function = |pc| symbols.function(pc).map(str::to_owned);
        assert_eq!(function(0xffff_8000_8000_0080).as_deref(), Some("icache_inval_pou"));
        assert_eq!(function(0xffff_8000_8000_0084).as_deref(), Some("b"));
        assert!(!excerpt(all).contains(" c"));
    }

    #[test]
    fn agreement_is_exact() {
        let mut case = CaseResult::not_run(Block::Thp, 1, Sharing::Distinct);
        case.predicted = Predicted { by_line: 32_768, capped: 1 };
        let counted = |faults, ic_ivau, ic_ialluis| Counted { faults, ic_ivau, ic_ialluis, ..Counted::default() };
        assert_eq!(agreement(&case, &counted(3, 98_304, 0)), ["by line"]);
        assert_eq!(agreement(&case, &counted(3, 0, 3)), ["capped"]);
        assert_eq!(agreement(&case, &counted(3, 0, 0)), ["none"]);
        assert!(agreement(&case, &counted(3, 98_303, 0)).is_empty());
        case.predicted = Predicted { by_line: 64, capped: 64 };
        assert_eq!(agreement(&case, &counted(8, 512, 0)), ["by line", "capped"]);
    }
}
