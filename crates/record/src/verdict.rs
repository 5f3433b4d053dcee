//! Verdicts that follow from a stored run alone: of the kernel log on a case, and of the cases on a run.

use crate::case::{AttributedComplaint, CaseResult};
use crate::maintenance::{Access, FaultKind};
use crate::memory::stage2_level;
use crate::status::{Status, Verdict};
use klog::attribution::{Attribution, Side, Stage2Path};
use klog::complaint::Kind;

/// Returns the soft lockups of vCPU threads in a case.
pub(crate) fn vcpu_soft_lockups(case: &CaseResult) -> impl Iterator<Item = &AttributedComplaint> {
    case.complaints.iter().filter(|c| is_vcpu_soft_lockup(c))
}

/// Returns whether a vCPU thread locked up. The threads `vcpu-N` run the vCPUs of the guest, and the threads `second-N`
/// those of the second VM on the same memory.
fn is_vcpu_soft_lockup(complaint: &AttributedComplaint) -> bool {
    let comm = complaint.complaint.comm.as_deref().unwrap_or_default();
    complaint.complaint.kind == Kind::SoftLockup && (comm.starts_with("vcpu-") || comm.starts_with("second-"))
}

/// Returns whether a case must not pass beside this complaint. Soft lockups of other threads, and warnings, do not
/// matter.
pub(crate) fn is_fatal(complaint: &AttributedComplaint) -> bool {
    is_vcpu_soft_lockup(complaint) || !matches!(complaint.complaint.kind, Kind::SoftLockup | Kind::Warn)
}

/// Returns the first complaint beside which the case must not pass. A soft lockup of a vCPU comes before all others.
pub fn fatal_complaint(case: &CaseResult) -> Option<&AttributedComplaint> {
    vcpu_soft_lockups(case).next().or_else(|| case.complaints.iter().find(|c| is_fatal(c)))
}

/// Corrects the verdict of a case by the kernel log:
///
/// - A pass or a skip becomes a fail if the kernel had a fatal complaint.
/// - A pass becomes an error if `lost` records of the log were lost, because a complaint may be among them.
/// - A pass becomes a skip if a lockup would not have been reported, for the reason `unwatched`.
pub fn apply_kernel_log(case: &mut CaseResult, lost: u64, unwatched: Option<&str>) {
    let passed = case.verdict.status == Status::Pass;
    let skipped = case.verdict.status == Status::Skip;
    if let Some(complaint) = fatal_complaint(case).filter(|_| passed || skipped) {
        case.verdict = Verdict::new(Status::Fail, describe(complaint));
    } else if passed && lost > 0 {
        case.verdict = records_lost(lost);
    } else if let Some(why) = unwatched.filter(|_| passed) {
        case.verdict = no_detector(why);
    }
}

/// Returns the verdict of a case on CPUs whose soft lockups the kernel does not report, for the reason `why`.
pub fn no_detector(why: &str) -> Verdict {
    Verdict::new(Status::Skip, format!("no soft lockup detector: {why}"))
}

/// Returns the verdict of a case during which `lost` kernel log records were lost.
pub fn records_lost(lost: u64) -> Verdict {
    Verdict::new(Status::Error, format!("{lost} kernel log records were lost"))
}

/// Returns a soft lockup of a vCPU on the I side while KVM relaxed a permission, and the attribution that shows it.
pub fn relax_lockup(case: &CaseResult) -> Option<(&AttributedComplaint, &Attribution)> {
    vcpu_soft_lockups(case).find_map(|c| {
        // Up to v5.13, KVM does the maintenance before it changes the tables. There, the traced faults show that it
        // relaxed a permission.
        let relaxes =
            |path| path == Stage2Path::RelaxPerms || (path == Stage2Path::Fault && has_fetch_permission_faults(case));
        let shows = |a: &&Attribution| a.side == Side::ISide && relaxes(a.path);
        Some((c, c.attributions.iter().find(shows)?))
    })
}

fn has_fetch_permission_faults(case: &CaseResult) -> bool {
    case.host.iter().flat_map(|host| &host.faults).any(|f| f.access == Access::Fetch && f.kind == FaultKind::Permission)
}

/// Returns the number of permission faults by a fetch at the level that the block size of the case should give.
pub fn relax_faults(case: &CaseResult, page_bytes: u64) -> u64 {
    let level = stage2_level(case.block_bytes(), page_bytes);
    let faults = case.host.iter().flat_map(|host| &host.faults);
    faults
        .filter(|f| f.access == Access::Fetch && f.kind == FaultKind::Permission && f.level == level)
        .map(|f| f.count)
        .sum()
}

/// Describes a complaint with its first attribution.
pub fn describe(complaint: &AttributedComplaint) -> String {
    let first = complaint.attributions.first();
    first.map_or_else(|| complaint.complaint.kind.to_string(), |a| describe_as(complaint, a))
}

/// Describes a complaint with one of its attributions. The text contains none of the words that the log scanners of
/// test labs react to.
pub fn describe_as(complaint: &AttributedComplaint, attribution: &Attribution) -> String {
    let complaint = &complaint.complaint;
    let seconds = complaint.seconds.map(|s| format!(" for {s} s")).unwrap_or_default();
    let task = complaint.comm.as_deref().map(|comm| format!(" in {comm}")).unwrap_or_default();
    format!("event={}{task}{seconds}, {}: {}", complaint.kind, attribution.side.name(), attribution.frame)
}

/// Returns the verdict of a run from that of its cases and that of its scenario on all cases together. The scenario's
/// verdict counts if all cases passed or were skipped, or if it is at least as bad as that of the cases.
pub fn overall(of_cases: Verdict, of_scenario: Option<Verdict>) -> Verdict {
    match of_scenario {
        Some(own) if own.status >= of_cases.status || of_cases.status <= Status::Skip => own,
        _ => of_cases,
    }
}

/// Returns the verdict of a run from its cases. The worst case counts, but a run in which some cases passed and the
/// others were skipped is a pass.
pub fn of_cases(cases: &[CaseResult]) -> Verdict {
    let named = |case: &CaseResult| format!("{}: {}", case.name, case.verdict.reason);
    let worst = cases.iter().filter(|c| c.verdict.status > Status::Skip).max_by_key(|c| c.verdict.status);
    if let Some(case) = worst {
        return Verdict::new(case.verdict.status, named(case));
    }
    let passed = cases.iter().filter(|c| c.verdict.status == Status::Pass).count();
    without_failure("cases", passed, cases.len(), cases.first().map(named))
}

/// Returns the verdict of a run or a plan in which no part failed. `first` is the reason of the first part. It is the
/// reason of the whole if every part was skipped.
pub(crate) fn without_failure(parts: &str, passed: usize, total: usize, first: Option<String>) -> Verdict {
    match passed {
        0 => Verdict::new(Status::Skip, first.unwrap_or_else(|| "nothing was run".to_owned())),
        _ if passed == total => Verdict::new(Status::Pass, format!("all {passed} {parts} pass")),
        _ => Verdict::new(Status::Pass, format!("{passed} of {total} {parts} pass, the others were skipped")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::RunResult;

    fn stored(name: &str) -> RunResult {
        let path = format!("{}/tests/runs/{name}/result.json", env!("CARGO_MANIFEST_DIR"));
        crate::store::read(path.as_ref()).expect("the stored run is a result")
    }

    #[test]
    fn the_kernel_log_corrects_a_pass() {
        let (before, after) = (stored("debian-6.1"), stored("debian-6.12"));
        let lockup = before.cases.iter().find_map(|case| case.complaints.first()).expect("it locked up").clone();
        let status = |change: &dyn Fn(&mut AttributedComplaint), lost, unwatched| {
            let mut complaint = lockup.clone();
            change(&mut complaint);
            let passed =
                after.cases.iter().find(|case| case.verdict.status == Status::Pass).expect("some pass").clone();
            let mut case = CaseResult { complaints: vec![complaint], ..passed };
            apply_kernel_log(&mut case, lost, unwatched);
            case.verdict.status
        };
        let of_others = |c: &mut AttributedComplaint| c.complaint.comm = Some("kworker/0:1".into());
        let warning = |c: &mut AttributedComplaint| c.complaint.kind = Kind::Warn;
        let oops = |c: &mut AttributedComplaint| (c.complaint.kind, c.complaint.comm) = (Kind::Oops, None);
        assert_eq!(status(&|_| (), 0, None), Status::Fail, "a lockup of a vCPU");
        assert_eq!(status(&oops, 0, None), Status::Fail);
        assert_eq!((status(&of_others, 0, None), status(&warning, 0, None)), (Status::Pass, Status::Pass));
        assert_eq!((status(&of_others, 1, None), status(&of_others, 0, Some("off"))), (Status::Error, Status::Skip));
    }

    #[test]
    fn skipped_cases_do_not_hide_a_pass() {
        let case = |status| CaseResult { verdict: Verdict::new(status, "why"), ..CaseResult::not_run("page", 1) };
        let of = |statuses: &[Status]| of_cases(&statuses.iter().map(|status| case(*status)).collect::<Vec<_>>());
        assert_eq!(of(&[]), Verdict::new(Status::Skip, "nothing was run"));
        assert_eq!(of(&[Status::Skip]), Verdict::new(Status::Skip, "page: why"));
        assert_eq!(of(&[Status::Pass, Status::Pass]), Verdict::new(Status::Pass, "all 2 cases pass"));
        let some = Verdict::new(Status::Pass, "1 of 2 cases pass, the others were skipped");
        assert_eq!(of(&[Status::Skip, Status::Pass]), some);
        assert_eq!(of(&[Status::Error, Status::Fail]), Verdict::new(Status::Error, "page: why"));
    }

    #[test]
    fn a_scenario_outweighs_what_is_no_worse() {
        let verdict = |status| Verdict::new(status, "why");
        let of = |cases, own| overall(verdict(cases), Some(verdict(own))).status;
        assert_eq!((of(Status::Pass, Status::Fail), of(Status::Fail, Status::Pass)), (Status::Fail, Status::Fail));
        assert_eq!((of(Status::Pass, Status::Skip), of(Status::Skip, Status::Pass)), (Status::Skip, Status::Pass));
    }
}
