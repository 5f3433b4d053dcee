//! Verdicts from results alone: of a case, of a run, and of a reproduction. Pure.
//!
//! Nothing passes in vain: a pass names the permission faults that were seen and the detector that watched.

pub mod coherence;
pub mod dside;
pub mod litmus;
pub mod patch;
pub mod policy;
pub mod storm;

use crate::evidence::attribution::{Attribution, Path, Side};
use crate::evidence::message::Kind;
use crate::plan::blocks::stage2_level;
use crate::result::{CaseResult, Complaint, RunResult, Status, Verdict};

/// What the whole run knows that a case's verdict needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Host page in bytes.
    pub page_bytes: u64,
    /// CTR_EL0.DIC as the guest reads it.
    pub dic: bool,
    /// Why the soft lockup detector does not watch the CPUs used, if it does not.
    pub unwatched: Option<String>,
    /// Kernel log records lost.
    pub kmsg_lost: u64,
    /// Why there is no trace of the faults, if there is none.
    pub untraced: Option<String>,
    /// Trace records lost.
    pub trace_lost: u64,
}

/// Returns the soft lockups of vCPU threads in a case.
fn lockups(case: &CaseResult) -> impl Iterator<Item = &Complaint> {
    case.complaints.iter().filter(|c| c.event.kind == Kind::SoftLockup && of_vcpu(c))
}

/// Says whether a thread that runs a vCPU complained, of the guest or of the second one that shares its memory.
fn of_vcpu(complaint: &Complaint) -> bool {
    let comm = complaint.event.comm.as_deref().unwrap_or_default();
    comm.starts_with("vcpu-") || comm.starts_with("second-")
}

/// Returns a complaint that no case may pass with, whatever it is about: a vCPU's lockup, or anything but a soft lockup
/// of others or a warning.
fn fatal(case: &CaseResult) -> Option<&Complaint> {
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

fn no_detector(why: &str) -> Verdict {
    Verdict::new(Status::Skip, format!("no soft lockup detector: {why}"))
}

fn records_lost(lost: u64) -> Verdict {
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
    case.host.iter().flat_map(|host| &host.faults).any(|f| f.access == "fetch" && f.kind == "permission")
}

/// Returns a lockup on the I side and what shows it, whatever path led there.
fn i_side_lockup(case: &CaseResult) -> Option<(&Complaint, &Attribution)> {
    lockups(case).find_map(|c| Some((c, c.attributions.iter().find(|a| a.side == Side::ISide)?)))
}

/// Says whether lockups of vCPUs on the D side, and nothing else, are why a case failed.
fn locked_up_on_the_d_side_alone(case: &CaseResult) -> bool {
    let d_side = |c: &Complaint| !c.attributions.is_empty() && c.attributions.iter().all(|a| a.side == Side::DSide);
    let fatal = |c: &&Complaint| of_vcpu(c) || !matches!(c.event.kind, Kind::SoftLockup | Kind::Warn);
    case.verdict.status == Status::Fail && case.mismatches == 0 && case.complaints.iter().filter(fatal).all(d_side)
}

/// Returns how many instruction-fetch permission faults of the level that the block size should give were seen.
pub fn relax_faults(case: &CaseResult, page_bytes: u64) -> u64 {
    let level = stage2_level(case.block_bytes, page_bytes);
    let faults = case.host.iter().flat_map(|host| &host.faults);
    faults.filter(|f| f.access == "fetch" && f.kind == "permission" && f.level == level).map(|f| f.count).sum()
}

/// Describes a complaint by what it is mainly attributed to.
pub fn describe(complaint: &Complaint) -> String {
    complaint.attributions.first().map_or_else(|| complaint.event.kind.to_string(), |a| describe_as(complaint, a))
}

/// Describes a complaint without the words that lab scanners take for a failure of the lab itself.
fn describe_as(complaint: &Complaint, attribution: &Attribution) -> String {
    let event = &complaint.event;
    let seconds = event.seconds.map(|s| format!(" for {s} s")).unwrap_or_default();
    let task = event.comm.as_deref().map(|comm| format!(" in {comm}")).unwrap_or_default();
    format!("event={}{task}{seconds}, {}: {}", event.kind, attribution.side.name(), attribution.frame)
}

/// Judges a case whose guest ended well.
pub fn case(case: &CaseResult, context: &Context) -> Verdict {
    unfit(case, context).unwrap_or_else(|| path_taken(case, context))
}

/// Returns the verdict of a case that went wrong, or whose evidence is not there.
fn unfit(case: &CaseResult, context: &Context) -> Option<Verdict> {
    broken(case, context).or_else(|| unseen(context))
}

/// Returns the verdict of a case that went wrong.
fn broken(case: &CaseResult, context: &Context) -> Option<Verdict> {
    let fail = |reason: String| Some(Verdict::new(Status::Fail, reason));
    if case.mismatches > 0 {
        return fail(format!("{} fetches did not return their token", case.mismatches));
    }
    if let Some((lockup, shown)) = relax_lockup(case) {
        return fail(format!("{} while relaxing a permission", describe_as(lockup, shown)));
    }
    if let Some(complaint) = fatal(case) {
        return fail(describe(complaint));
    }
    (context.kmsg_lost > 0).then(|| records_lost(context.kmsg_lost))
}

/// Returns the verdict of a case in which nothing could have been seen.
fn unseen(context: &Context) -> Option<Verdict> {
    let skip = |reason: String| Some(Verdict::new(Status::Skip, reason));
    if context.dic {
        return skip("CTR_EL0.DIC is set: KVM grants X at once and never invalidates the I-cache".into());
    }
    if let Some(why) = &context.unwatched {
        return Some(no_detector(why));
    }
    let why = context.untraced.as_ref()?;
    skip(format!("timed, but no evidence of the faults taken: {why}"))
}

/// Judges a run that also says which maintenance the kernel does: none at all outweighs everything, and cases that pass
/// do not hide that nothing could be told.
pub fn with_policy(cases: Verdict, policy: Option<&policy::Conclusion>) -> Verdict {
    let Some(policy) = policy.map(policy::judge) else { return cases };
    if policy.status >= cases.status || cases.status <= Status::Skip { policy } else { cases }
}

/// Passes a case in which nothing went wrong if the path under test was taken.
fn path_taken(case: &CaseResult, context: &Context) -> Verdict {
    let level = stage2_level(case.block_bytes, context.page_bytes);
    let seen = relax_faults(case, context.page_bytes);
    let blocks = case.region_bytes / case.block_bytes.max(1);
    if seen >= blocks && blocks > 0 {
        return Verdict::new(Status::Pass, format!("permission faults taken at level {level}: {seen}; no lockup"));
    }
    if context.trace_lost > 0 {
        return Verdict::new(Status::Error, format!("{} trace records were lost", context.trace_lost));
    }
    let others: Vec<_> = case
        .host
        .iter()
        .flat_map(|host| &host.faults)
        .map(|f| format!("{} {} {} level {}", f.count, f.access, f.kind, f.level))
        .collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    Verdict::new(Status::Skip, format!("{seen} of {blocks} permission faults at level {level}; faults seen: {others}"))
}

/// Judges a run by its cases: the worst counts, but skips do not hide a pass.
pub fn run(cases: &[CaseResult]) -> Verdict {
    let worst = cases.iter().filter(|c| c.verdict.status > Status::Skip).max_by_key(|c| c.verdict.status);
    let named = |case: &CaseResult| format!("{}: {}", case.name(), case.verdict.reason);
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

/// Outcome of comparing a run on an unfixed kernel with one on a fixed kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reproduction {
    /// Whether the bug was there before and not after.
    pub reproduced: bool,
    /// The evidence, or what is missing.
    pub reason: String,
}

/// Says whether the lockup is there before and not after, on the same plan and with the path taken in both.
pub fn reproduction(before: &RunResult, after: &RunResult) -> Reproduction {
    let not = |reason: String| Reproduction { reproduced: false, reason };
    let Some((case_before, (lockup, shown))) = before.cases.iter().find_map(|c| Some((c, relax_lockup(c)?))) else {
        return not(format!("no I-side lockup while relaxing a permission on {}", before.machine.kernel_release));
    };
    let same = |c: &&CaseResult| {
        (c.block, c.region_bytes, c.vcpus, c.sharing, c.rounds)
            == (case_before.block, case_before.region_bytes, case_before.vcpus, case_before.sharing, case_before.rounds)
    };
    let Some(case_after) = after.cases.iter().find(same) else {
        return not(format!("{} was not run on {}", case_before.block, after.machine.kernel_release));
    };
    if let Some((lockup, shown)) = after.cases.iter().find_map(i_side_lockup) {
        return not(format!("{} has one too: {}", after.machine.kernel_release, describe_as(lockup, shown)));
    }
    for (run, case) in [(before, case_before), (after, case_after)] {
        if relax_faults(case, run.machine.page_bytes) == 0 {
            return not(format!("no evidence of the permission fault on {}", run.machine.kernel_release));
        }
    }
    // What the fixed kernel does on the D side is its own matter; anything else that is no pass undermines the evidence.
    if case_after.verdict.status != Status::Pass && !locked_up_on_the_d_side_alone(case_after) {
        return not(format!("{}: {}", after.machine.kernel_release, case_after.verdict.reason));
    }
    let level = stage2_level(case_before.block_bytes, before.machine.page_bytes);
    Reproduction {
        reproduced: true,
        reason: format!(
            "{} permission fault at level {level}: {} on {}, no I-side lockup on {}",
            case_before.block,
            describe_as(lockup, shown),
            before.machine.kernel_release,
            after.machine.kernel_release
        ),
    }
}

#[cfg(test)]
mod tests;
