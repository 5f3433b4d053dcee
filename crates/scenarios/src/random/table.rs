//! Lines about random programs.

use record::result::RunResult;
use record::view::View;
use units::text::thousands;

use crate::random::findings::Findings;

/// Returns the view of a run, which has lines below its only case.
pub fn view(run: &RunResult) -> View {
    let details =
        run.cases.iter().map(|case| case.findings.get::<Findings>().map(|found| lines(&found)).unwrap_or_default());
    View { details: details.collect(), ..View::default() }
}

fn lines(findings: &Findings) -> Vec<String> {
    let Findings { seed, programs, ops, elapsed_ms, events, refused, seen, failure } = findings;
    let rate = programs * 1000 / (*elapsed_ms).max(1);
    let (programs, ops) = (thousands(*programs), thousands(*ops));
    let done: Vec<_> = events.iter().map(|(event, count)| format!("{} {}", thousands(*count), event.name())).collect();
    let mut lines = vec![
        format!("{programs} programs from seed {seed}, {ops} ops, {rate} programs a second; {}", seen.text()),
        format!("events: {}", if done.is_empty() { "none".into() } else { done.join(", ") }),
    ];
    lines.extend(refused.iter().map(|(event, why)| format!("without {}: {why}", event.name())));
    lines.extend(failure.iter().map(|program| format!("smallest program that still fails:\n{program}")));
    lines
}
