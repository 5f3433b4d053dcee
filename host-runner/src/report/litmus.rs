//! The table of litmus tests.

use std::io::{self, Write};

use super::table::{columns_left, thousands};
use crate::litmus::result::Litmus;
use crate::litmus::test::Ruling;
use crate::result::{CaseResult, RunResult};

const HEAD: [&str; 8] = ["test", "across", "of interest", "published", "seen", "races", "a second", "verdict"];

/// Prints the litmus tests of the runs, a line each, and what is seen of those whose outcome of interest came.
///
/// # Errors
///
/// Of the writer.
pub fn table(out: &mut impl Write, runs: &[&RunResult]) -> io::Result<()> {
    for run in runs {
        let tests = || run.cases.iter().filter_map(|case| Some((case, case.litmus.as_ref()?)));
        if tests().next().is_none() {
            continue;
        }
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(tests().map(|(case, litmus)| row(case, litmus)));
        columns_left(out, &rows)?;
        for (_, litmus) in tests().filter(|(_, litmus)| litmus.seen > 0) {
            writeln!(out, "{}: {}", litmus.name(), histogram(litmus))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn row(case: &CaseResult, litmus: &Litmus) -> [String; 8] {
    let number = |number: u64| if litmus.races == 0 { "-".into() } else { thousands(number) };
    [
        litmus.test.clone(),
        litmus.across.name().into(),
        litmus.condition.clone(),
        litmus.ruling.map_or("-", Ruling::name).into(),
        number(litmus.seen),
        number(litmus.races),
        number(litmus.per_second),
        case.verdict.status.name().into(),
    ]
}

/// Lists the outcomes; that of interest has a star.
fn histogram(litmus: &Litmus) -> String {
    let outcome = |outcome: &crate::litmus::result::Outcome| {
        let star = if outcome.of_interest { "*" } else { "" };
        format!("{star}{} {}", outcome.values, thousands(outcome.count))
    };
    litmus.outcomes.iter().map(outcome).collect::<Vec<_>>().join(", ")
}
