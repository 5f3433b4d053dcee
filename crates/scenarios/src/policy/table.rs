//! The view of a stored run: the table of faults, and lines about the kernel's policy.

use record::result::RunResult;
use record::view::View;

use crate::policy::findings::Conclusion;

/// Returns the view of a run.
pub fn view(run: &RunResult) -> View {
    let mut findings = Vec::new();
    if let Some(Conclusion(conclusion)) = run.conclusion.get() {
        findings.push(format!("policy: {}", conclusion.class.name()));
        findings.extend(conclusion.evidence.iter().map(|line| format!("  {line}")));
        findings.extend(conclusion.cannot.iter().map(|line| format!("  cannot be told: {line}")));
    }
    View { findings, ..crate::table::faults(run) }
}
