//! Verdicts from results alone: the kernel log against a case, the lockup of the report, and a run by its cases.

use crate::case::{CaseResult, Complaint};
use crate::maintenance::{Access, FaultKind};
use crate::memory::stage2_level;
use crate::status::{Status, Verdict};
use klog::attribution::{Attribution, Path, Side};
use klog::message::Kind;

/// Returns the soft lockups of vCPU threads in a case.
pub fn lockups(case: &CaseResult) -> impl Iterator<Item = &Complaint> {
    case.complaints.iter().filter(|c| c.event.kind == Kind::SoftLockup && of_vcpu(c))
}

/// Says whether a thread that runs a vCPU complained, of the guest or of the second one that shares its memory.
pub fn of_vcpu(complaint: &Complaint) -> bool {
    let comm = complaint.event.comm.as_deref().unwrap_or_default();
    comm.starts_with("vcpu-") || comm.starts_with("second-")
}

/// Returns a complaint that no case may pass with, whatever it is about: a vCPU's lockup, or anything but a soft lockup
/// of others or a warning.
pub fn fatal(case: &CaseResult) -> Option<&Complaint> {
    let others = || case.complaints.iter().find(|c| !matches!(c.event.kind, Kind::SoftLockup | Kind::Warn));
    lockups(case).next().or_else(others)
}

/// Takes back the verdict of a case that went well by itself while the kernel log says otherwise, or could not: `lost` of
/// its records, or `unwatched`, why a lockup would have gone unseen.
pub fn with_kernel_log(case: &mut CaseResult, lost: u64, unwatched: Option<&str>) {
    let passed = case.verdict.status == Status::Pass;
    let well = passed || case.verdict.status == Status::Skip;
    if let Some(complaint) = fatal(case).filter(|_| well) {
        case.verdict = Verdict::new(Status::Fail, describe(complaint));
    } else if passed && lost > 0 {
        case.verdict = records_lost(lost);
    } else if let Some(why) = unwatched.filter(|_| passed) {
        case.verdict = no_detector(why);
    }
}

/// Returns the verdict of a case on CPUs whose soft lockups would go unseen, with the reason.
pub fn no_detector(why: &str) -> Verdict {
    Verdict::new(Status::Skip, format!("no soft lockup detector: {why}"))
}

/// Returns the verdict of a case while which kernel log records were lost.
pub fn records_lost(lost: u64) -> Verdict {
    Verdict::new(Status::Error, format!("{lost} kernel log records were lost"))
}

/// Returns the lockup of the report and what shows it, if it is there: I side, while relaxing a permission.
pub fn relax_lockup(case: &CaseResult) -> Option<(&Complaint, &Attribution)> {
    lockups(case).find_map(|c| {
        // Where the kernel did that before it touched the tables, the traced faults say which kind they were.
        let relaxing = |path| path == Path::RelaxPerms || (path == Path::Fault && has_fetch_permission_faults(case));
        let shows = |a: &&Attribution| a.side == Side::ISide && relaxing(a.path);
        Some((c, c.attributions.iter().find(shows)?))
    })
}

fn has_fetch_permission_faults(case: &CaseResult) -> bool {
    case.host.iter().flat_map(|host| &host.faults).any(|f| f.access == Access::Fetch && f.kind == FaultKind::Permission)
}

/// Returns how many instruction-fetch permission faults of the level that the block size should give were seen.
pub fn relax_faults(case: &CaseResult, page_bytes: u64) -> u64 {
    let level = stage2_level(case.block_bytes(), page_bytes);
    let faults = case.host.iter().flat_map(|host| &host.faults);
    faults
        .filter(|f| f.access == Access::Fetch && f.kind == FaultKind::Permission && f.level == level)
        .map(|f| f.count)
        .sum()
}

/// Describes a complaint by what it is mainly attributed to.
pub fn describe(complaint: &Complaint) -> String {
    complaint.attributions.first().map_or_else(|| complaint.event.kind.to_string(), |a| describe_as(complaint, a))
}

/// Describes a complaint without the words that lab scanners take for a failure of the lab itself.
pub fn describe_as(complaint: &Complaint, attribution: &Attribution) -> String {
    let event = &complaint.event;
    let seconds = event.seconds.map(|s| format!(" for {s} s")).unwrap_or_default();
    let task = event.comm.as_deref().map(|comm| format!(" in {comm}")).unwrap_or_default();
    format!("event={}{task}{seconds}, {}: {}", event.kind, attribution.side.name(), attribution.frame)
}

/// Returns the verdict over a run whose scenario has a verdict of its own besides those of the cases. It outweighs passes
/// and skips, which do not hide that nothing could be told, and whatever is no worse.
pub fn with_own(cases: Verdict, own: Option<Verdict>) -> Verdict {
    match own {
        Some(own) if own.status >= cases.status || cases.status <= Status::Skip => own,
        _ => cases,
    }
}

/// Judges a run by its cases: the worst counts, but skips do not hide a pass.
pub fn run(cases: &[CaseResult]) -> Verdict {
    let worst = cases.iter().filter(|c| c.verdict.status > Status::Skip).max_by_key(|c| c.verdict.status);
    let named = |case: &CaseResult| format!("{}: {}", case.name, case.verdict.reason);
    if let Some(case) = worst {
        return Verdict::new(case.verdict.status, named(case));
    }
    match cases.iter().filter(|c| c.verdict.status == Status::Pass).count() {
        0 => {
            let reason = cases.first().map_or_else(|| "nothing was run".to_owned(), named);
            Verdict::new(Status::Skip, reason)
        }
        passed if passed == cases.len() => Verdict::new(Status::Pass, format!("all {passed} cases pass")),
        passed => {
            Verdict::new(Status::Pass, format!("{passed} of {} cases pass, the others were skipped", cases.len()))
        }
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
    fn the_kernel_log_takes_back_what_went_well_by_itself() {
        let (before, after) = (stored("debian-6.1"), stored("debian-6.12"));
        let complaint = before.cases.iter().find_map(|case| case.complaints.first()).expect("it locked up").clone();
        let judged = |change: &dyn Fn(&mut Complaint), lost, unwatched| {
            let mut complaint = complaint.clone();
            change(&mut complaint);
            let passed =
                after.cases.iter().find(|case| case.verdict.status == Status::Pass).expect("some pass").clone();
            let mut case = CaseResult { complaints: vec![complaint], ..passed };
            with_kernel_log(&mut case, lost, unwatched);
            case.verdict.status
        };
        let others = |complaint: &mut Complaint| complaint.event.comm = Some("kworker/0:1".into());
        let warning = |complaint: &mut Complaint| complaint.event.kind = Kind::Warn;
        let oops = |complaint: &mut Complaint| (complaint.event.kind, complaint.event.comm) = (Kind::Oops, None);
        assert_eq!(judged(&|_| (), 0, None), Status::Fail, "a vCPU's lockup");
        assert_eq!(judged(&oops, 0, None), Status::Fail);
        assert_eq!((judged(&others, 0, None), judged(&warning, 0, None)), (Status::Pass, Status::Pass));
        assert_eq!((judged(&others, 1, None), judged(&others, 0, Some("off"))), (Status::Error, Status::Skip));
    }
}
