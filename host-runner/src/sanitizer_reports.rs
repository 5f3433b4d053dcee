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
    if !result.machine.lab.as_ref().is_some_and(|lab| lab.sanitizing) {
        return Ok(());
    }
    // The emulator may not have started. Such a run is no pass.
    if result.recovered && !run_dir.join(REPORTS).exists() {
        return Ok(());
    }
    let path = run_dir.join(symbols::FILE);
    // The runner may have died before it wrote the file. Addresses then keep no names.
    let table = fs::read_to_string(&path).unwrap_or_default();
    let mut cases = sanitizer::read(&run_dir.join(REPORTS), &Symbols::parse(&table))?;
    // A case of which the plugin knows nothing has no evidence, and is judged as one in which nothing was seen.
    for (number, case) in (1..).zip(&mut result.cases) {
        judge(case, cases.remove(&number).unwrap_or_default());
    }
    let mut outside = Sanitizer::default();
    cases.into_values().for_each(|found| outside.add(found));
    let of_cases = of_cases(&result.cases);
    let only_skips = of_cases.status == Status::Skip && result.verdict.status == Status::Pass;
    if of_cases.status > Status::Skip && of_cases.status > result.verdict.status || only_skips {
        result.verdict = of_cases;
    }
    if outside.owed > 0 && result.verdict.status <= Status::Skip {
        result.verdict = Verdict::new(Status::Fail, format!("outside of all cases: {}", first_owed(&outside)));
    }
    result.sanitizer = Some(outside);
    Ok(())
}

/// Adds the checks and reports to a case. What the host's kernel owes fails a case that passed or was skipped, and a case
/// in which nothing was published does not pass.
fn judge(case: &mut CaseResult, found: Sanitizer) {
    let status = case.verdict.status;
    if found.owed > 0 && status <= Status::Skip {
        case.verdict = Verdict::new(Status::Fail, first_owed(&found));
    } else if status == Status::Pass {
        let reason = &case.verdict.reason;
        case.verdict = match () {
            () if found.unseen_stores > 0 => {
                let unseen = found.unseen_stores;
                Verdict::new(Status::Skip, format!("the emulator hid {unseen} stores from the sanitizer; {reason}"))
            }
            () if found.cut => {
                Verdict::new(Status::Skip, format!("the emulator was killed before the sanitizer had ended; {reason}"))
            }
            () if found.published == 0 => {
                Verdict::new(Status::Skip, format!("the sanitizer saw no memory become reachable; {reason}"))
            }
            () => Verdict::new(Status::Pass, format!("{reason}; sanitizer: {}", found.describe_checked())),
        };
    }
    case.sanitizer = Some(found);
}

/// Describes the first report that the host's kernel owes, and the number of the others.
fn first_owed(found: &Sanitizer) -> String {
    let (first, count) = match found.first_owed() {
        Some(report) => (report.describe(), report.count),
        None => ("reports in more groups than there is room for".to_owned(), 0),
    };
    match found.owed - count {
        0 => first,
        others => format!("{first}, and {others} others"),
    }
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
        for found in [
            Sanitizer { published: 1, unseen_stores: 1, ..Default::default() },
            Sanitizer { published: 1, cut: true, ..Default::default() },
        ] {
            let mut judged = case(Status::Pass);
            judge(&mut judged, found);
            assert_eq!(judged.verdict.status, Status::Skip);
        }
    }

    #[test]
    fn owed_reports_fail_even_if_there_was_no_room_for_them() {
        let mut judged = case(Status::Pass);
        judge(&mut judged, Sanitizer { owed: 7, published: 1, more: 7, ..Default::default() });
        assert_eq!(judged.verdict.status, Status::Fail);
        assert!(judged.verdict.reason.contains("and 7 others"), "{}", judged.verdict.reason);
    }
}
