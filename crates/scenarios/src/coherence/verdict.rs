//! Verdicts of `coherence`. A pass needs the faults and the maintenance that the event leads to.

use crate::coherence::findings::CombinationResult;
use crate::coherence::program::{Combination, LookKind, unmaps};
use crate::looks::{LookCounts, describe};
use guest::event::Event;
use programs::oracle::CacheFeatures;
use programs::outcomes::Outcomes;
use record::maintenance::HostSide;
use record::maintenance::{Access, FaultKind, Maintenance};
use record::status::{Status, Verdict};

/// Context of a verdict, in addition to the outcomes of the looks.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Features of the machine.
    pub features: CacheFeatures,
    /// Reason why there is no trace, if there is none.
    pub untraced: Option<&'a str>,
    /// Number of trace records that were lost while the program ran.
    pub lost: u64,
    /// Level at which stage 2 should map this kind of memory.
    pub level: u8,
}

/// Returns the verdict on one combination.
pub fn combination(
    combination: &Combination,
    outcomes: &Outcomes,
    host: Option<&HostSide>,
    context: &Context<'_>,
) -> Verdict {
    let seen = LookCounts::of(outcomes);
    if let Some(forbidden) = outcomes.forbidden().next() {
        let more = seen.forbidden - 1;
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return Verdict::new(Status::Fail, format!("{}{more}", describe(forbidden)));
    }
    if outcomes.failed() {
        return Verdict::new(Status::Fail, format!("{} looks returned something forbidden", seen.forbidden));
    }
    if seen.unjudged > 0 {
        return Verdict::new(Status::Error, format!("{} looks could not be judged", seen.unjudged));
    }
    if seen.required + seen.free() == 0 {
        return Verdict::new(
            Status::Skip,
            "with FWB stage 2 forces Write-Back: looking past the caches proves nothing",
        );
    }
    if let Some(verdict) = missing_evidence(combination, host, context) {
        return verdict;
    }
    Verdict::new(Status::Pass, format!("{}{}", looks(&seen), host.map(kernel_side).unwrap_or_default()))
}

/// Events after which KVM maps block memory in blocks again.
const KEEPS_BLOCKS: [Event; 6] =
    [Event::Unmap, Event::ProtectReadOnly, Event::SlotDelete, Event::SlotMove, Event::Discard, Event::Remap];

/// Returns the verdict if the trace does not show the faults and the maintenance that the event leads to.
fn missing_evidence(combination: &Combination, host: Option<&HostSide>, context: &Context<'_>) -> Option<Verdict> {
    if !unmaps(combination.event) {
        return None;
    }
    let Some(host) = host.filter(|_| context.untraced.is_none()) else {
        let why = context.untraced.unwrap_or("no trace");
        return Some(Verdict::new(Status::Skip, format!("not shown that the guest faulted after the event: {why}")));
    };
    let wanted = if combination.look == LookKind::Fetch { Access::Fetch } else { Access::Data };
    let faults = |access| host.faults.iter().filter(|f| f.access == access).map(|f| f.count).sum::<u64>();
    if faults(Access::Fetch) + faults(Access::Data) == 0
        || (combination.look == LookKind::Fetch && faults(Access::Fetch) == 0)
    {
        let lost =
            if context.lost > 0 { format!(" ({} trace records were lost)", context.lost) } else { String::new() };
        return Some(Verdict::new(
            Status::Skip,
            format!("no {} fault was traced after the event{lost}", wanted.name()),
        ));
    }
    // These events remove tables. A walk that ends below the level of the blocks therefore shows that KVM mapped pages.
    let pages =
        host.faults.iter().filter(|f| f.kind == FaultKind::Translation && f.level > context.level).map(|f| f.count);
    let pages: u64 = pages.sum();
    if KEEPS_BLOCKS.contains(&combination.event) && pages > 0 {
        let what = format!("KVM mapped {pages} pages in place of blocks: not shown on this kind of memory");
        return Some(Verdict::new(Status::Skip, what));
    }
    let fetched = !context.features.dic && faults(Access::Fetch) > 0;
    let is_hidden = (fetched && host.icache.is_none()) || (!context.features.fwb && host.dcache.is_none());
    if let Some(why) = host.unprobed.as_ref().filter(|_| is_hidden) {
        return Some(Verdict::new(Status::Skip, format!("not shown that the kernel did maintenance: {why}")));
    }
    let none = |side: Option<Maintenance>| side.is_some_and(|calls| calls.calls == 0) && context.lost == 0;
    if fetched && none(host.icache) {
        let what =
            format!("no maintenance: {} fetch faults, and the I-cache was not invalidated once", faults(Access::Fetch));
        return Some(Verdict::new(Status::Fail, what));
    }
    if !context.features.fwb && none(host.dcache) {
        return Some(Verdict::new(Status::Fail, "no maintenance: pages were mapped, and no D-cache line was cleaned"));
    }
    None
}

/// Returns the verdict on an event from the results of its combinations: the worst of them. A skipped combination does
/// not hide the verdicts of the others.
pub fn event(results: &[CombinationResult]) -> Verdict {
    let worst = results.iter().filter(|result| !matches!(result.verdict.status, Status::Pass | Status::Skip));
    if let Some(result) = worst.max_by_key(|result| result.verdict.status == Status::Fail) {
        return Verdict::new(result.verdict.status, format!("{}: {}", result.name(), result.verdict.reason));
    }
    let passed: Vec<_> = results.iter().filter(|result| result.verdict.status == Status::Pass).collect();
    let Some(first) = passed.first() else {
        let reason = results.first().map_or("no combination was run", |result| &result.verdict.reason);
        return Verdict::new(Status::Skip, reason);
    };
    let seen = passed.iter().fold(LookCounts::default(), |all, result| all.and(&result.seen));
    let skipped = match results.len() - passed.len() {
        0 => String::new(),
        skipped => format!("; {skipped} of {} combinations skipped", results.len()),
    };
    let kernel = passed.iter().find_map(|result| result.host.as_ref()).map(kernel_side).unwrap_or_default();
    let how = if passed.len() == 1 { first.name() } else { format!("{} combinations", passed.len()) };
    Verdict::new(Status::Pass, format!("{how}: {}{kernel}{skipped}", looks(&seen)))
}

/// Returns the outcomes of the looks in words.
fn looks(seen: &LookCounts) -> String {
    let mut parts = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    };
    say(seen.required, "looks saw what they had to");
    say(seen.newest, "saw the newest, older allowed");
    say(seen.weak, "saw an older one, which is allowed");
    say(seen.unpredictable, "saw neither, which is left open");
    say(seen.unlisted, "saw something older or else, which is left open");
    say(seen.skipped, "prove nothing here");
    parts.join(", ")
}

/// Returns the faults and the maintenance of the kernel in words.
fn kernel_side(host: &HostSide) -> String {
    let faults: Vec<_> = host
        .faults
        .iter()
        .map(|f| format!("{} {} {} at level {}", f.count, f.access.name(), f.kind.name(), f.level))
        .collect();
    let calls = |side: Option<Maintenance>, what: &str| match side {
        Some(calls) => format!(", {} {what}", calls.calls),
        None => String::new(),
    };
    if faults.is_empty() {
        return "; no fault".into();
    }
    format!(
        "; faults: {}{}{}",
        faults.join(", "),
        calls(host.icache, "I invalidations"),
        calls(host.dcache, "D cleans")
    )
}

#[cfg(test)]
mod tests;
