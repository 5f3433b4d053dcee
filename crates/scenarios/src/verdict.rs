//! The verdict on a case that times permission faults. Several scenarios share it.
//!
//! A case passes only with evidence: a pass needs a detector that watched the CPUs, and it names the permission faults
//! that the trace shows.

use record::case::CaseResult;
use record::memory::stage2_level;
use record::status::{Status, Verdict};
use record::verdict::{describe, describe_as, fatal_complaint, no_detector, records_lost, relax_faults, relax_lockup};
use units::text::time;

/// Facts of the whole run that the verdict of a case needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Size of a host page in bytes.
    pub page_bytes: u64,
    /// The machine's CTR_EL0.DIC.
    pub dic: bool,
    /// Time without scheduling after which the kernel reports a soft lockup, in seconds.
    pub threshold_s: Option<u32>,
    /// Reason for the soft lockup detector not to watch the CPUs of the guest; none if it watches them.
    pub unwatched: Option<String>,
    /// Number of kernel log records that were lost.
    pub kmsg_lost: u64,
    /// Reason for the lack of a trace of the faults; none if there is a trace.
    pub untraced: Option<String>,
    /// Reason why the trace does not show the maintenance; none if it does, or if the sanitizer judges it.
    pub unprobed: Option<String>,
    /// Number of trace records that were lost.
    pub trace_lost: u64,
}

#[cfg(test)]
impl Context {
    /// Returns the facts of a run of which no evidence is missing.
    pub fn complete() -> Self {
        Self {
            page_bytes: 4096,
            dic: false,
            threshold_s: Some(20),
            unwatched: None,
            kmsg_lost: 0,
            untraced: None,
            unprobed: None,
            trace_lost: 0,
        }
    }
}

/// Judges a case whose guest ended well.
pub fn judge(case: &CaseResult, context: &Context) -> Verdict {
    failure(case, context).or_else(|| not_observable(context)).unwrap_or_else(|| judge_path(case, context))
}

/// Returns the verdict of a case with a wrong token, a complaint of the kernel, or a gap in the kernel log.
pub fn failure(case: &CaseResult, context: &Context) -> Option<Verdict> {
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

/// Returns the skip of a case in which the fault or a lockup could not have been observed.
pub fn not_observable(context: &Context) -> Option<Verdict> {
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

/// Says that no vCPU locked up, and how far from a lockup the longest stall was.
pub fn no_lockup(longest_ns: Option<u64>, context: &Context) -> String {
    let threshold = context.threshold_s.map(|seconds| format!("threshold {seconds} s"));
    let longest = longest_ns.map(|ns| format!("longest stall {}", time(ns)));
    let known: Vec<_> = threshold.into_iter().chain(longest).collect();
    format!("no lockup of a vCPU ({})", known.join(", "))
}

/// Passes a case if the trace shows at least as many permission faults of the right level as there are blocks.
fn judge_path(case: &CaseResult, context: &Context) -> Verdict {
    let level = stage2_level(case.block_bytes(), context.page_bytes);
    let seen = relax_faults(case, context.page_bytes);
    let blocks = case.region_bytes() / case.block_bytes().max(1);
    if seen >= blocks && blocks > 0 {
        let faults = format!("permission faults taken at level {level}: {seen}");
        return Verdict::new(
            Status::Pass,
            format!("{faults}; {}", no_lockup(case.times().exec.map(|exec| exec.ns.max), context)),
        );
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
