//! What tracing would give here, found out without changing anything.

use std::fs::File;
use std::io::{BufRead, BufReader};

use serde::Serialize;

use crate::trace::{Absent, DCACHE_SYMBOLS, ICACHE_SYMBOLS, tracefs};

/// Which evidence a run could get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// The function that invalidates the I-cache, if it can be found.
    pub icache: Option<&'static str>,
    /// The function that cleans the D-cache, if it can be found.
    pub dcache: Option<&'static str>,
}

/// Looks for the tracepoint and the functions that [`crate::trace::Trace`] uses. That a function is in the symbol table does
/// not prove that it can be probed; only trying would, and that would change the machine.
///
/// # Errors
///
/// Why there would be no trace at all.
pub fn survey() -> Result<Survey, Absent> {
    let root = tracefs()?;
    if !root.join("events/kvm/kvm_guest_fault").exists() {
        return Err(Absent::NoTracepoint("kvm_guest_fault"));
    }
    let mut found = Survey { icache: None, dcache: None };
    // One pass: the table has some 200,000 lines.
    for line in
        File::open("/proc/kallsyms").into_iter().flat_map(|file| BufReader::new(file).lines().map_while(Result::ok))
    {
        let Some(name) = line.split_whitespace().nth(2) else { continue };
        let known = |symbols: &[&'static str]| symbols.iter().find(|symbol| **symbol == name).copied();
        found.icache = found.icache.or_else(|| known(&ICACHE_SYMBOLS));
        found.dcache = found.dcache.or_else(|| known(&DCACHE_SYMBOLS));
    }
    Ok(found)
}
