//! Adds the counts of the TCG plugin to the result of a run in the emulated lab, beside the predictions.
//!
//! The runner marks the traced round of each case as a phase of its own (see [`phase_of`]). The lab leaves the plugin's
//! file and the kernel's symbols in the run directory.

use std::fs;
use std::path::{Path, PathBuf};

use hostfacts::phase::phase_of_case;
use hostfacts::symbols;
use klog::routines::{DCACHE_LOOPS, ICACHE_LOOPS};
use lab::cmo::{self, COUNTS, Counts, Symbols};
use record::case::CaseResult;
use record::maintenance::{Access, Counted, Policy};
use record::result::RunResult;
use record::store;

/// Error of adding the counts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin's file could not be read or parsed.
    #[error("{0}")]
    Counts(#[from] cmo::Error),
    /// The result could not be read or written.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// The symbols could not be read.
    #[error("cannot read {0}: {1}")]
    Symbols(PathBuf, std::io::Error),
}

/// Reads the result of a run directory, and adds the plugin's counts if there are any. Returns none if the run left no
/// readable result.
///
/// # Errors
///
/// If there are counts that cannot be used.
pub fn complete(run_dir: &Path) -> Result<Option<RunResult>, Error> {
    if !run_dir.join(store::RESULT).exists() {
        return Ok(None);
    }
    if !run_dir.join(COUNTS).exists() {
        return Ok(store::read(run_dir).ok());
    }
    let path = run_dir.join(symbols::FILE);
    let text = fs::read_to_string(&path).map_err(|error| Error::Symbols(path, error))?;
    let counts = cmo::read(&run_dir.join(COUNTS), Some(&Symbols::parse(&text)))?;
    let mut result = store::read(run_dir)?;
    apply(&mut result, &counts);
    store::write_result(run_dir, &result)?;
    Ok(Some(result))
}

/// Adds the counts of its traced round to each case, and lets the scenario conclude again.
fn apply(result: &mut RunResult, counts: &Counts) {
    for (index, case) in result.cases.iter_mut().enumerate() {
        let Some(phase) = phase_of_case(index).filter(|_| case.host.is_some()) else { continue };
        let ops = counts.phase(phase);
        let host = case.host.iter().flat_map(|host| &host.faults);
        let faults = host.filter(|fault| fault.access == Access::Fetch).map(|fault| fault.count).sum();
        let counted = Counted {
            faults,
            ic_ivau: ops.in_functions("ic_ivau", &ICACHE_LOOPS),
            ic_ialluis: ops.total("ic_ialluis"),
            dc_civac: ops.in_functions("dc_civac", &DCACHE_LOOPS),
            agrees_with: Vec::new(),
        };
        case.counted = Some(Counted { agrees_with: agreement(case, &counted), ..counted });
    }
    if let Some(scenario) = scenarios::by_name(&result.scenario) {
        scenario.conclude_with_counts(result);
    }
}

/// Returns the policies whose prediction equals the counts exactly.
fn agreement(case: &CaseResult, counted: &Counted) -> Vec<Policy> {
    let predicted = case.predicted.unwrap_or_default();
    // A single operation for a block of several lines is IC IALLUIS.
    let expected = |per_fault: u64| {
        if per_fault == 1 { (0, counted.faults) } else { (counted.faults * per_fault, 0) }
    };
    let policies = [
        (Policy::ByLine, expected(predicted.by_line)),
        (Policy::Capped, expected(predicted.capped)),
        (Policy::None, (0, 0)),
    ];
    let operations = (counted.ic_ivau, counted.ic_ialluis);
    policies.into_iter().filter(|(_, wanted)| *wanted == operations).map(|(policy, _)| policy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::maintenance::Predicted;

    #[test]
    fn agreement_is_exact() {
        let mut case = CaseResult::not_run("thp", 1);
        case.predicted = Some(Predicted { by_line: 32_768, capped: 1 });
        let counted = |faults, ic_ivau, ic_ialluis| Counted { faults, ic_ivau, ic_ialluis, ..Counted::default() };
        assert_eq!(agreement(&case, &counted(3, 98_304, 0)), [Policy::ByLine]);
        assert_eq!(agreement(&case, &counted(3, 0, 3)), [Policy::Capped]);
        assert_eq!(agreement(&case, &counted(3, 0, 0)), [Policy::None]);
        assert!(agreement(&case, &counted(3, 98_303, 0)).is_empty());
        case.predicted = Some(Predicted { by_line: 64, capped: 64 });
        assert_eq!(agreement(&case, &counted(8, 512, 0)), [Policy::ByLine, Policy::Capped]);
    }
}
