//! The verdict on a case that times permission faults, which several scenarios share.
//!
//! Nothing passes in vain: a pass names the permission faults that were seen, and takes a detector that watched.

use record::case::CaseResult;
use record::memory::stage2_level;
use record::status::{Status, Verdict};
use record::verdict::{describe, describe_as, fatal_complaint, no_detector, records_lost, relax_faults, relax_lockup};

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

/// Judges a case whose guest ended well.
pub fn case(case: &CaseResult, context: &Context) -> Verdict {
    unfit(case, context).unwrap_or_else(|| path_taken(case, context))
}

/// Returns the verdict of a case that went wrong, or whose evidence is not there.
fn unfit(case: &CaseResult, context: &Context) -> Option<Verdict> {
    broken(case, context).or_else(|| unseen(context))
}

/// Returns the verdict of a case that went wrong.
pub fn broken(case: &CaseResult, context: &Context) -> Option<Verdict> {
    let fail = |reason: String| Some(Verdict::new(Status::Fail, reason));
    if case.mismatches > 0 {
        return fail(format!("{} fetches did not return their token", case.mismatches));
    }
    if let Some((lockup, shown)) = relax_lockup(case) {
        return fail(format!("{} while relaxing a permission", describe_as(lockup, shown)));
    }
    if let Some(complaint) = fatal_complaint(case) {
        return fail(describe(complaint));
    }
    (context.kmsg_lost > 0).then(|| records_lost(context.kmsg_lost))
}

/// Returns the verdict of a case in which nothing could have been seen.
pub fn unseen(context: &Context) -> Option<Verdict> {
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

/// Passes a case in which nothing went wrong if the path under test was taken.
fn path_taken(case: &CaseResult, context: &Context) -> Verdict {
    let level = stage2_level(case.block_bytes(), context.page_bytes);
    let seen = relax_faults(case, context.page_bytes);
    let blocks = case.region_bytes() / case.block_bytes().max(1);
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
        .map(|f| format!("{} {} {} level {}", f.count, f.access.name(), f.kind.name(), f.level))
        .collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    Verdict::new(Status::Skip, format!("{seen} of {blocks} permission faults at level {level}; faults seen: {others}"))
}
