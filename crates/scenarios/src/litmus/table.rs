//! Table of litmus tests.

use programs::litmus::test::Published;
use record::case::CaseResult;
use record::result::RunResult;
use record::view::{Table, View};
use units::text::thousands;

use crate::litmus::findings::{Findings, Outcome};

const HEAD: [&str; 6] = ["test", "across", "verdict", "published", "seen", "races"];

/// Returns the view of a run. It has a row for each test, and lists all outcomes of each test whose outcome of interest
/// occurred.
pub fn view(run: &RunResult) -> View {
    let tests: Vec<(&CaseResult, Findings)> =
        run.cases.iter().filter_map(|case| Some((case, case.findings.get::<Findings>()?))).collect();
    if tests.is_empty() {
        return View::default();
    }
    let seen = tests.iter().filter(|(_, findings)| findings.seen > 0);
    let table = Table {
        head: HEAD.map(str::to_owned).to_vec(),
        rows: tests.iter().map(|(case, findings)| row(case, findings)).collect(),
        left: 4,
        notes: seen
            .map(|(_, findings)| format!("{}: {} of {}", findings.name(), histogram(findings), findings.condition))
            .collect(),
    };
    View { tables: vec![table], passes_in_table: true, ..View::default() }
}

fn row(case: &CaseResult, findings: &Findings) -> Vec<String> {
    let number = |number: u64| if findings.races == 0 { "-".into() } else { thousands(number) };
    vec![
        findings.test.clone(),
        findings.event.name().into(),
        case.verdict.status.name().into(),
        findings.published.map_or("-", Published::name).into(),
        number(findings.seen),
        number(findings.races),
    ]
}

/// Returns the outcomes in words. A star marks the outcome of interest.
fn histogram(findings: &Findings) -> String {
    let outcome = |outcome: &Outcome| {
        let star = if outcome.of_interest { "*" } else { "" };
        format!("{star}{} {}", outcome.values, thousands(outcome.count))
    };
    findings.outcomes.iter().map(outcome).collect::<Vec<_>>().join(", ")
}
