//! Grid of events and kinds of memory.

use record::case::CaseResult;
use record::result::RunResult;
use record::view::{Table, View};

use crate::coherence::findings::Findings;
use crate::looks::LookCounts;

/// Returns the view of a run, with a row for each event and a column for each kind of memory.
pub fn view(run: &RunResult) -> View {
    let cases: Vec<(&CaseResult, Findings)> =
        run.cases.iter().filter_map(|case| Some((case, case.findings.get::<Findings>()?))).collect();
    let kind = |case: &CaseResult| case.memory.map_or_else(|| "-".into(), |memory| memory.kind.to_string());
    let (mut kinds, mut events): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for (case, findings) in &cases {
        push_new(&mut kinds, kind(case));
        push_new(&mut events, findings.event_name());
    }
    let cell = |event: &String, wanted: &String| {
        let found = cases.iter().find(|(case, findings)| kind(case) == *wanted && findings.event_name() == *event);
        found.map_or_else(|| "-".into(), |(case, _)| case.verdict.status.name().to_owned())
    };
    let row =
        |event: &String| std::iter::once(event.clone()).chain(kinds.iter().map(|kind| cell(event, kind))).collect();
    let seen = cases.iter().flat_map(|(_, findings)| &findings.combinations);
    let seen = seen.fold(LookCounts::default(), |all, combination| all.and(&combination.seen));
    let table = Table {
        head: std::iter::once("event".to_owned()).chain(kinds.iter().cloned()).collect(),
        rows: events.iter().map(row).collect(),
        left: usize::MAX,
        notes: vec![seen.text()],
    };
    View { tables: vec![table], passes_in_table: true, ..View::default() }
}

fn push_new(words: &mut Vec<String>, word: String) {
    if !words.contains(&word) {
        words.push(word);
    }
}
