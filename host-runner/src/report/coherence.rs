//! What `coherence` and `random` found, on the terminal.

use std::io::{self, Write};

use super::table::{columns_left_of, thousands};
use super::words::quiet;
use crate::result::{CaseResult, Coherence, RandomPrograms, RunResult, Sights, Status};
use crate::verdict::describe;

/// Says whether a run's cases are events on kinds of memory, which a grid shows better than a table.
pub fn is_grid(run: &RunResult) -> bool {
    !run.cases.is_empty() && run.cases.iter().all(|case| case.coherence.is_some())
}

/// Prints a grid of events and kinds of memory.
///
/// # Errors
///
/// Of the writer.
pub fn grid(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    let mut blocks: Vec<String> = Vec::new();
    let mut events: Vec<String> = Vec::new();
    for (case, coherence) in with_events(run) {
        let (block, event) = (case.block.to_string(), event_name(coherence));
        if !blocks.contains(&block) {
            blocks.push(block);
        }
        if !events.contains(&event) {
            events.push(event);
        }
    }
    let mut rows = vec![[vec!["event".to_owned()], blocks.clone()].concat()];
    for event in &events {
        let cell = |block: &String| {
            let found = with_events(run).find(|(case, c)| case.block.to_string() == *block && event_name(c) == *event);
            found.map_or_else(|| "-".into(), |(case, _)| case.verdict.status.name().to_owned())
        };
        rows.push([vec![event.clone()], blocks.iter().map(cell).collect()].concat());
    }
    columns_left_of(out, &rows)?;
    writeln!(out)?;
    let seen = with_events(run).flat_map(|(_, c)| &c.ways).fold(Sights::default(), |all, way| all.and(&way.seen));
    writeln!(out, "{}: {}", run.machine.kernel_release, sights(&seen))?;
    for (case, coherence) in with_events(run) {
        let (status, reason) = (case.verdict.status, quiet(&case.verdict.reason));
        if status != Status::Pass {
            let (block, event) = (case.block, event_name(coherence));
            writeln!(out, "{} {block} {event}: {}: {reason}", run.machine.kernel_release, status.name())?;
        }
        for line in case.complaints.iter().map(describe).filter(|line| !reason.contains(line.as_str())) {
            writeln!(out, "{} {}: {}", run.machine.kernel_release, case.block, quiet(&line))?;
        }
    }
    Ok(())
}

fn with_events(run: &RunResult) -> impl Iterator<Item = (&CaseResult, &Coherence)> {
    run.cases.iter().filter_map(|case| Some((case, case.coherence.as_ref()?)))
}

/// Returns the name of what happened in a case.
pub fn event_name(coherence: &Coherence) -> String {
    let eager = if coherence.eager_split { "-eager-split" } else { "" };
    format!("{}{eager}", coherence.event.name())
}

/// Says what was seen, in slots.
pub fn sights(seen: &Sights) -> String {
    let counts = [
        (seen.required, "had to be the newest and were"),
        (seen.newest, "were the newest where older ones were allowed"),
        (seen.weak, "were older where that is allowed"),
        (seen.unpredictable, "were neither where that is left open"),
        (seen.unlisted, "were older or else where that is left open"),
        (seen.skipped, "prove nothing on this machine"),
        (seen.unjudged, "could not be judged"),
        (seen.forbidden, "were what they may not be"),
    ];
    let parts: Vec<_> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", thousands(*n))).collect();
    if parts.is_empty() { "no looks".into() } else { format!("of all looks {}", parts.join(", ")) }
}

/// Prints what random programs did.
///
/// # Errors
///
/// Of the writer.
pub fn random(out: &mut impl Write, random: &RandomPrograms) -> io::Result<()> {
    let RandomPrograms { seed, programs, steps, elapsed_ms, events, refused, seen, failure } = random;
    let rate = programs * 1000 / (*elapsed_ms).max(1);
    let (programs, steps) = (thousands(*programs), thousands(*steps));
    writeln!(
        out,
        "    {programs} programs from seed {seed}, {steps} steps, {rate} programs a second; {}",
        sights(seen)
    )?;
    let done: Vec<_> = events.iter().map(|(event, count)| format!("{} {}", thousands(*count), event.name())).collect();
    writeln!(out, "    events: {}", if done.is_empty() { "none".into() } else { done.join(", ") })?;
    for (event, why) in refused {
        writeln!(out, "    without {}: {}", event.name(), quiet(why))?;
    }
    match failure {
        Some(program) => writeln!(out, "    smallest program that still fails:\n{}", quiet(program)),
        None => Ok(()),
    }
}
