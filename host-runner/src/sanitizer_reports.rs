//! Adds what the lab's sanitizer checked and found to the result of a run, and judges the cases by it.

use std::fs;
use std::path::Path;

use hostfacts::symbols;
use lab::cmo::Symbols;
use lab::sanitizer::{self, REPORTS};
use record::case::CaseResult;
use record::result::RunResult;
use record::sanitizer::Sanitizer;
use record::status::{Status, Verdict};
use record::verdict::of_cases;

use crate::plugin_counts::Error;

/// Adds the reports of a run directory to its result, if there are any, and judges the run by them.
///
/// # Errors
///
/// If there are reports that cannot be used.
pub fn complete(run_dir: &Path, result: &mut RunResult) -> Result<(), Error> {
    if !run_dir.join(REPORTS).exists() {
        return Ok(());
    }
    let path = run_dir.join(symbols::FILE);
    // The runner may have died before it wrote the file. Addresses then keep no names.
    let table = fs::read_to_string(&path).unwrap_or_default();
    let mut cases = sanitizer::read(&run_dir.join(REPORTS), &Symbols::parse(&table))?;
    for (number, case) in (1..).zip(&mut result.cases) {
        if let Some(found) = cases.remove(&number) {
            judge(case, found);
        }
    }
    let mut outside = Sanitizer::default();
    cases.into_values().for_each(|found| outside.add(found));
    let of_cases = of_cases(&result.cases);
    if of_cases.status > result.verdict.status {
        result.verdict = of_cases;
    }
    if let Some(report) = outside.first_owed().filter(|_| result.verdict.status <= Status::Skip) {
        result.verdict = Verdict::new(Status::Fail, format!("outside of all cases: {}", report.describe()));
    }
    result.sanitizer = Some(outside);
    Ok(())
}

/// Adds the checks and reports to a case. What the host's kernel owes fails a case that passed or was skipped, and a case
/// in which nothing was published does not pass.
fn judge(case: &mut CaseResult, found: Sanitizer) {
    let status = case.verdict.status;
    if let Some(report) = found.first_owed().filter(|_| status <= Status::Skip) {
        let others = match found.owed - report.count {
            0 => String::new(),
            others => format!(", and {others} others"),
        };
        case.verdict = Verdict::new(Status::Fail, format!("{}{others}", report.describe()));
    } else if status == Status::Pass {
        let reason = &case.verdict.reason;
        case.verdict = match () {
            () if found.unseen_stores > 0 => {
                let unseen = found.unseen_stores;
                Verdict::new(Status::Skip, format!("the emulator hid {unseen} stores from the sanitizer; {reason}"))
            }
            () if found.published == 0 => {
                Verdict::new(Status::Skip, format!("the sanitizer saw no memory become reachable; {reason}"))
            }
            () => Verdict::new(Status::Pass, format!("{reason}; sanitizer: {}", found.describe_checked())),
        };
    }
    case.sanitizer = Some(found);
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::sanitizer::{Missing, Owed, Report, ReportKind};

    fn case(status: Status) -> CaseResult {
        CaseResult { verdict: Verdict::new(status, "as it was"), ..CaseResult::not_run("page", 1) }
    }

    fn report(owed: Owed) -> Report {
        Report {
            kind: ReportKind::PublishedI,
            missing: Missing::IInvalidation,
            late: false,
            owed,
            count: 2,
            all_lines: 128,
            lines: 64,
            of: 64,
            offset: 0,
            size: 4096,
            function: "walker".into(),
            writer: None,
            pa: "0x0".into(),
            ipa: None,
            vmid: 1,
            cpu: 0,
            writer_cpu: 0,
            el: 2,
            words: None,
        }
    }

    #[test]
    fn owed_maintenance_fails_whatever_the_guest_saw() {
        for status in [Status::Pass, Status::Skip] {
            let mut judged = case(status);
            judge(
                &mut judged,
                Sanitizer { owed: 2, published: 1, reports: vec![report(Owed::Host)], ..Default::default() },
            );
            assert_eq!(judged.verdict.status, Status::Fail);
            assert!(judged.verdict.reason.starts_with("P-I: no I-cache invalidation on 64 of 64 lines"));
        }
    }

    #[test]
    fn a_pass_says_how_much_was_checked_and_weak_reports_do_not_fail() {
        let mut judged = case(Status::Pass);
        let found = Sanitizer {
            weak: 2,
            published: 3,
            checked_lines: 192,
            fetches: 1,
            reports: vec![report(Owed::Guest)],
            ..Default::default()
        };
        judge(&mut judged, found);
        assert_eq!(judged.verdict.status, Status::Pass);
        let wanted = "as it was; sanitizer: 3 mappings with 192 written lines judged, suspect fetches: 1";
        assert_eq!(judged.verdict.reason, wanted);
    }

    #[test]
    fn nothing_seen_is_no_pass() {
        let mut judged = case(Status::Pass);
        judge(&mut judged, Sanitizer::default());
        assert_eq!(judged.verdict.status, Status::Skip);
        let mut judged = case(Status::Pass);
        judge(&mut judged, Sanitizer { published: 1, unseen_stores: 1, ..Default::default() });
        assert_eq!(judged.verdict.status, Status::Skip);
    }
}
