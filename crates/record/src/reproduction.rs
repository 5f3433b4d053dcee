//! The reproduction of the lockup: the verdict on a run on an unfixed kernel and one on a fixed kernel.

use klog::attribution::{Attribution, Side};
use units::size::Size;

use crate::case::{AttributedComplaint, CaseResult};
use crate::memory::stage2_level;
use crate::result::RunResult;
use crate::status::Status;
use crate::verdict::{describe_as, is_fatal, relax_faults, relax_lockup, vcpu_soft_lockups};

/// The outcome of the comparison of both runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reproduction {
    /// True if the lockup was there before and not after.
    pub reproduced: bool,
    /// The evidence, or the part of it that is missing.
    pub reason: String,
}

/// Decides whether the lockup is there before and not after. Both runs need the same case, and evidence that KVM
/// relaxed a permission in it.
pub fn reproduction(before: &RunResult, after: &RunResult) -> Reproduction {
    let not = |reason: String| Reproduction { reproduced: false, reason };
    let Some((case_before, (lockup, shown))) = before.cases.iter().find_map(|c| Some((c, relax_lockup(c)?))) else {
        return not(format!("no I-side lockup while relaxing a permission on {}", before.kernel_name()));
    };
    let Some(case_after) = after.cases.iter().find(|case| case.id == case_before.id) else {
        return not(format!("{} was not run on {}", case_before.name, after.kernel_name()));
    };
    // A kernel with larger pages maps other blocks under the same name.
    let plan = |case: &CaseResult| {
        let lines = case.predicted.map_or(0, |predicted| predicted.by_line);
        (case.block_bytes(), lines, case.region_bytes(), case.vcpus, case.rounds)
    };
    if plan(case_before) != plan(case_after) {
        let words = |case: &CaseResult, run: &RunResult| {
            let (block, lines, region, vcpus, rounds) = plan(case);
            let (block, region) = (Size(block), Size(region));
            let kernel = run.kernel_name();
            format!("{region} in blocks of {block} with {lines} lines, {vcpus} vCPUs, {rounds} rounds on {kernel}")
        };
        let (before, after) = (words(case_before, before), words(case_after, after));
        return not(format!("{} is not the same: {before}, {after}", case_before.name));
    }
    if let Some((lockup, shown)) = after.cases.iter().find_map(i_side_lockup) {
        return not(format!("{} has one too: {}", after.kernel_name(), describe_as(lockup, shown)));
    }
    for (run, case) in [(before, case_before), (after, case_after)] {
        if relax_faults(case, run.machine.page_bytes) == 0 {
            return not(format!("no evidence of the permission fault on {}", run.kernel_name()));
        }
    }
    // A lockup of the fixed kernel on the D side has another cause, so it does not matter here. Any other verdict but a
    // pass makes the evidence doubtful.
    if case_after.verdict.status != Status::Pass && !locked_up_on_the_d_side_alone(case_after) {
        return not(format!("{}: {}", after.kernel_name(), case_after.verdict.reason));
    }
    let level = stage2_level(case_before.block_bytes(), before.machine.page_bytes);
    Reproduction {
        reproduced: true,
        reason: format!(
            "{} permission fault at level {level}: {} on {}, no I-side lockup on {}",
            case_before.name,
            describe_as(lockup, shown),
            before.kernel_name(),
            after.kernel_name()
        ),
    }
}

/// Returns a soft lockup of a vCPU on the I side, by any path, and the attribution that shows it.
fn i_side_lockup(case: &CaseResult) -> Option<(&AttributedComplaint, &Attribution)> {
    vcpu_soft_lockups(case).find_map(|c| Some((c, c.attributions.iter().find(|a| a.side == Side::ISide)?)))
}

/// Returns whether a case failed only because of lockups on the D side.
fn locked_up_on_the_d_side_alone(case: &CaseResult) -> bool {
    let d_side =
        |c: &AttributedComplaint| !c.attributions.is_empty() && c.attributions.iter().all(|a| a.side == Side::DSide);
    let mut fatal = case.complaints.iter().filter(|c| is_fatal(c)).peekable();
    // Without a fatal complaint, the case failed for a reason of its scenario, for example a lack of maintenance.
    case.verdict.status == Status::Fail && case.mismatches == 0 && fatal.peek().is_some() && fatal.all(d_side)
}

#[cfg(test)]
mod tests;
