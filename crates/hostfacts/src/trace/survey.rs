//! The evidence that a trace would give on this machine. The survey changes nothing.

use std::fs::File;
use std::io::{BufRead, BufReader};

use klog::routines::{DCACHE, ICACHE};
use serde::Serialize;

use crate::trace::tracefs::{self, Absent};

/// The maintenance functions that a trace could probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// The function that invalidates the I-cache, if the kernel has a known one.
    pub icache: Option<&'static str>,
    /// The function that cleans the D-cache, if the kernel has a known one.
    pub dcache: Option<&'static str>,
}

/// Looks for the tracepoint and for the functions that a trace uses.
///
/// A function in the symbol table may still refuse a probe. Only an attempt would tell, and an attempt changes the
/// machine.
///
/// # Errors
///
/// The reason why there would be no trace.
pub fn survey() -> Result<Survey, Absent> {
    let root = tracefs::root()?;
    tracefs::require_guest_fault(&root)?;
    let mut found = Survey { icache: None, dcache: None };
    // The table has some 200,000 lines, so it is read only once.
    let file = File::open("/proc/kallsyms").into_iter();
    for line in file.flat_map(|file| BufReader::new(file).lines().map_while(Result::ok)) {
        let Some(name) = line.split_whitespace().nth(2) else { continue };
        let known = |routines: &[&'static str]| routines.iter().find(|routine| **routine == name).copied();
        found.icache = found.icache.or_else(|| known(&ICACHE));
        found.dcache = found.dcache.or_else(|| known(&DCACHE));
    }
    Ok(found)
}
