//! The verdict over a run on an unfixed kernel and one on a fixed kernel.

use klog::attribution::{Attribution, Side};
use klog::message::Kind;

use crate::case::{CaseResult, Complaint};
use crate::memory::stage2_level;
use crate::result::RunResult;
use crate::status::Status;
use crate::verdict::{describe_as, lockups, of_vcpu, relax_faults, relax_lockup};

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
        (&c.id, c.region_bytes(), c.vcpus, c.rounds)
            == (&case_before.id, case_before.region_bytes(), case_before.vcpus, case_before.rounds)
    };
    let Some(case_after) = after.cases.iter().find(same) else {
        return not(format!("{} was not run on {}", case_before.name, after.machine.kernel_release));
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
    let level = stage2_level(case_before.block_bytes(), before.machine.page_bytes);
    Reproduction {
        reproduced: true,
        reason: format!(
            "{} permission fault at level {level}: {} on {}, no I-side lockup on {}",
            case_before.name,
            describe_as(lockup, shown),
            before.machine.kernel_release,
            after.machine.kernel_release
        ),
    }
}

#[cfg(test)]
mod tests;
