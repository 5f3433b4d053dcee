//! The verdict of `policy` on a run.

use std::collections::BTreeMap;

use record::case::CaseResult;
use record::findings::StoredFindings;
use record::result::RunResult;
use record::status::{Status, Verdict};
use record::verdict::{of_cases, overall};

use crate::cost::CostModel;
use crate::icache::classify::classify;
use crate::icache::measurement::{Class, Measurement};
use crate::policy::findings::{Conclusion, Findings};

/// Draws the conclusion from the cases of a run.
pub fn conclude(cases: &[CaseResult], cost: &CostModel) -> Conclusion {
    let sizes: Vec<Measurement> = cases.iter().filter_map(|case| Some(case.findings.get::<Findings>()?.0)).collect();
    Conclusion(classify(&sizes, cost))
}

/// Adds the counted operations of each case of a stored run to its findings, and draws the conclusion again.
pub fn conclude_with_counts(run: &mut RunResult) {
    for case in &mut run.cases {
        if let Some(Findings(measured)) = case.findings.get() {
            case.findings = StoredFindings::of(&Findings(measured.with_counts_of(case)));
        }
    }
    let cost = CostModel::new(&run.machine, run.vcpus.first(), run.machine.page_bytes);
    let conclusion = conclude(&run.cases, &cost);
    run.verdict = overall(of_cases(&run.cases), Some(judge(&conclusion)));
    run.facts = facts(&conclusion);
    run.conclusion = StoredFindings::of(&conclusion);
}

/// Returns the class as a fact about the kernel, for `faultline compare`.
pub fn facts(Conclusion(found): &Conclusion) -> BTreeMap<String, String> {
    BTreeMap::from([("policy".to_owned(), found.class.name().to_owned())])
}

/// Judges a run by its conclusion.
pub fn judge(Conclusion(found): &Conclusion) -> Verdict {
    let because = |list: Option<&String>| list.cloned().unwrap_or_else(|| "no evidence".into());
    let (status, reason) = match found.class {
        Class::None => (Status::Fail, because(found.evidence.first())),
        Class::CannotTell => (Status::Skip, because(found.cannot.last())),
        _ => (Status::Pass, because(found.evidence.first())),
    };
    Verdict::new(status, format!("{}: {reason}", found.class.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icache::measurement::Classification;

    #[test]
    fn no_maintenance_fails_and_names_the_evidence() {
        let found =
            |class| Conclusion(Classification { class, cap: None, evidence: vec!["why".into()], cannot: vec![] });
        assert_eq!(judge(&found(Class::None)), Verdict::new(Status::Fail, "no maintenance: why"));
        assert_eq!(judge(&found(Class::CannotTell)), Verdict::new(Status::Skip, "cannot be told: no evidence"));
        assert_eq!(judge(&found(Class::ByLine)).status, Status::Pass, "which kernel locks up is for `check`");
    }
}
