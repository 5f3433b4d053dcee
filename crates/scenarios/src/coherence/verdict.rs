//! What programs about coherence prove: nothing without the faults and the maintenance that the event leads to. Pure.

use crate::coherence::findings::Way;
use crate::coherence::program::{Combination, Looks, unmaps};
use crate::looks::{LookCounts, describe};
use guest::event::Event;
use programs::judge::Outcomes;
use programs::oracle::Geometry;
use record::maintenance::HostSide;
use record::maintenance::{Access, FaultKind, Maintenance};
use record::status::{Status, Verdict};

/// What is known besides what the guest saw.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What the machine is.
    pub geometry: Geometry,
    /// Why there is no trace, if there is none.
    pub untraced: Option<&'a str>,
    /// Trace records lost while the program ran.
    pub lost: u64,
    /// The level at which stage 2 should map this kind of memory.
    pub level: u8,
}

/// Returns the verdict of one way to do an event.
pub fn way(way: &Combination, outcomes: &Outcomes, host: Option<&HostSide>, context: &Context<'_>) -> Verdict {
    let mut seen = LookCounts::default();
    seen.add(outcomes);
    if let Some(forbidden) = outcomes.forbidden().next() {
        let more = seen.forbidden - 1;
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return Verdict::new(Status::Fail, format!("{}{more}", describe(forbidden)));
    }
    if outcomes.failed() {
        return Verdict::new(Status::Fail, format!("{} slots held what they may not", seen.forbidden));
    }
    if seen.unjudged > 0 {
        return Verdict::new(Status::Error, format!("{} looks could not be judged", seen.unjudged));
    }
    if seen.required + seen.newest + seen.weak + seen.unpredictable + seen.unlisted == 0 {
        return Verdict::new(
            Status::Skip,
            "with FWB stage 2 forces Write-Back: looking past the caches proves nothing",
        );
    }
    if let Some(verdict) = evidence(way, host, context) {
        return verdict;
    }
    Verdict::new(Status::Pass, format!("{}{}", sights(&seen), host.map(kernel_side).unwrap_or_default()))
}

/// Events after which memory in blocks is mapped in blocks again.
const KEEPS_BLOCKS: [Event; 6] =
    [Event::Unmap, Event::ProtectReadOnly, Event::SlotDelete, Event::SlotMove, Event::Discard, Event::Remap];

/// Returns why what the kernel did is not what the event leads to, if so.
fn evidence(way: &Combination, host: Option<&HostSide>, context: &Context<'_>) -> Option<Verdict> {
    if !unmaps(way.event) {
        return None;
    }
    let Some(host) = host.filter(|_| context.untraced.is_none()) else {
        let why = context.untraced.unwrap_or("no trace");
        return Some(Verdict::new(Status::Skip, format!("not shown that the guest faulted after the event: {why}")));
    };
    let wanted = if way.looks == Looks::Fetch { Access::Fetch } else { Access::Data };
    let faults = |access| host.faults.iter().filter(|f| f.access == access).map(|f| f.count).sum::<u64>();
    if faults(Access::Fetch) + faults(Access::Data) == 0 || (way.looks == Looks::Fetch && faults(Access::Fetch) == 0) {
        let lost =
            if context.lost > 0 { format!(" ({} trace records were lost)", context.lost) } else { String::new() };
        return Some(Verdict::new(
            Status::Skip,
            format!("no {} fault was traced after the event{lost}", wanted.name()),
        ));
    }
    // Tables are gone after these, so that the walk of the first fault on a block ends above it, and of no fault below it.
    let pages =
        host.faults.iter().filter(|f| f.kind == FaultKind::Translation && f.level > context.level).map(|f| f.count);
    let pages: u64 = pages.sum();
    if KEEPS_BLOCKS.contains(&way.event) && pages > 0 {
        let what = format!("KVM mapped {pages} pages in place of blocks: not shown on this kind of memory");
        return Some(Verdict::new(Status::Skip, what));
    }
    let none = |side: Option<Maintenance>| side.is_some_and(|calls| calls.calls == 0) && context.lost == 0;
    if !context.geometry.dic && faults(Access::Fetch) > 0 && none(host.icache) {
        let what =
            format!("no maintenance: {} fetch faults, and the I-cache was not invalidated once", faults(Access::Fetch));
        return Some(Verdict::new(Status::Fail, what));
    }
    if !context.geometry.fwb && none(host.dcache) {
        return Some(Verdict::new(Status::Fail, "no maintenance: pages were mapped, and no D-cache line was cleaned"));
    }
    None
}

/// Returns the verdict over all ways to do an event: the worst, but a way that could not be gone does not hide the others.
pub fn event(ways: &[Way]) -> Verdict {
    let worst = ways.iter().filter(|way| !matches!(way.verdict.status, Status::Pass | Status::Skip));
    if let Some(way) = worst.max_by_key(|way| way.verdict.status == Status::Fail) {
        return Verdict::new(way.verdict.status, format!("{}: {}", way.name(), way.verdict.reason));
    }
    let passed: Vec<_> = ways.iter().filter(|way| way.verdict.status == Status::Pass).collect();
    let Some(first) = passed.first() else {
        let reason = ways.first().map_or("no way to do it was run", |way| &way.verdict.reason);
        return Verdict::new(Status::Skip, reason);
    };
    let seen = passed.iter().fold(LookCounts::default(), |all, way| all.and(&way.seen));
    let skipped = ways.len() - passed.len();
    let skipped = if skipped > 0 { format!("; {skipped} of {} ways skipped", ways.len()) } else { String::new() };
    let kernel = passed.iter().find_map(|way| way.host.as_ref()).map(kernel_side).unwrap_or_default();
    let how = if passed.len() == 1 { first.name() } else { format!("{} ways", passed.len()) };
    Verdict::new(Status::Pass, format!("{how}: {}{kernel}{skipped}", sights(&seen)))
}

fn sights(seen: &LookCounts) -> String {
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
