//! The run of `policy`: the measurement of each kind of memory, and the conclusion from all of them.

use record::case::CaseResult;
use record::findings::StoredFindings;
use record::memory::MemoryKind;

use crate::cost::CostModel;
use crate::icache::measure;
use crate::policy::args::Args;
use crate::policy::findings::Findings;
use crate::policy::verdict;
use crate::runner::cases::{CaseRunner, chosen_kinds};
use crate::runner::session::{Build, Conclusion, Error, Finished, Session};

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("policy", &args.common, build, 1)?;
    let mut session = Session::begin(runner.name, &args.common, build)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases);
    let cost = CostModel::new(&session.machine, runner.vcpus.first(), session.machine.page_bytes);
    let conclusion = verdict::conclude(&cases, &cost);
    session.conclusion = Conclusion {
        verdict: Some(verdict::judge(&conclusion)),
        facts: verdict::facts(&conclusion),
        findings: StoredFindings::of(&conclusion),
        ..Conclusion::default()
    };
    session.end(outcome, runner.vcpus, cases)
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let kinds = chosen_kinds(&args.kinds, None)?;
    runner.each_kind(session, kinds, cases, |runner, session, kind, _| case(runner, session, args, kind))
}

fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    kind: MemoryKind,
) -> Result<CaseResult, Error> {
    let (mut case, measurement) = measure::case(runner, session, kind, args.rounds)?;
    case.findings = measurement.map_or_else(StoredFindings::default, |found| StoredFindings::of(&Findings(found)));
    Ok(case)
}
