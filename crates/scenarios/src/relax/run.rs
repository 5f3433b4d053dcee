//! The run of `relax`: one guest for each kind of memory, with timed rounds and then one traced round.

use std::path::Path;

use hostfacts::memory::MemoryKinds;
use record::case::{CaseResult, FaultTimes};
use record::findings::StoredFindings;
use record::journal::Entry;
use record::memory::MemoryKind;
use record::runs;

use units::text::counted;

use crate::memory::block_bytes;
use crate::relax::args::Args;
use crate::relax::findings;
use crate::relax::program::{CaseProgram, Sharing, tag};
use crate::runner::cases::{CaseRunner, chosen_kinds, racers_id, write_samples};
use crate::runner::observer::Setup;
use crate::runner::session::{Build, Error, Finished, Session};
use crate::verdict;

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("relax", &args.common, build, args.vcpus)?;
    let mut session = Session::begin(runner.name, &args.common, build)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases);
    session.end(outcome, runner.vcpus, cases)
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let kinds = match &args.resume {
        Some(dead) => resume(runner, session, dead, cases)?,
        None => chosen_kinds(&args.kinds, args.region)?,
    };
    session.journal(&Entry::Cases { names: kinds.iter().map(MemoryKind::to_string).collect() })?;
    runner.each_kind(session, kinds, cases, |runner, session, kind, _| case(runner, session, args, kind))
}

/// Copies the cases of a dead run, including the one in which it died, and returns the kinds of memory that are left.
fn resume(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    dead: &Path,
    cases: &mut Vec<CaseResult>,
) -> Result<Vec<MemoryKind>, Error> {
    let (before, left) = runs::read_dead(dead).map_err(|error| Error::Usage(error.to_string()))?;
    let left = left.iter().map(|name| name.parse()).collect::<Result<Vec<MemoryKind>, _>>();
    let left = left.map_err(|error| Error::Usage(format!("{}: {error}", dead.display())))?;
    session.resumed_from = Some(before.run.id);
    session.evidence.notes.extend(before.evidence.notes);
    runner.vcpus = before.vcpus;
    cases.extend(before.cases);
    cases.truncate(cases.len().saturating_sub(left.len()));
    runner.index = cases.len();
    session.cases_done = cases.len() as u64;
    Ok(left)
}

fn region_bytes(args: &Args, kind: MemoryKind, host: &MemoryKinds) -> u64 {
    let Ok(bytes) = block_bytes(kind, host) else { return 0 };
    args.region.map_or_else(|| CaseProgram::default_region_bytes(bytes, args.vcpus, args.sharing), |r| r.0)
}

fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    kind: MemoryKind,
) -> Result<CaseResult, Error> {
    let sharing = if args.sharing == Sharing::Distinct { "distinct" } else { "shared" };
    let mut result = CaseResult {
        id: racers_id(kind, args.vcpus, sharing),
        rounds: args.rounds,
        findings: StoredFindings::of(&findings::Findings { sharing: args.sharing }),
        ..CaseResult::on(kind, args.vcpus)
    };
    let Some(memory) = runner.prepare_for(session, kind, |host| region_bytes(args, kind, host), &mut result)? else {
        return Ok(result);
    };
    let traced = runner.traced(args.rounds);
    let program = CaseProgram {
        block_bytes: memory.block_bytes,
        region_bytes: memory.region_bytes,
        backing: memory.backing,
        vcpus: args.vcpus,
        sharing: args.sharing,
        rounds: args.rounds + u64::from(traced.is_some()),
    };
    let setup = Setup { label: format!("relax {kind}, {}", counted(args.vcpus, "vCPU")), traced, ..Setup::default() };
    let Some(ran) = runner.run(session, &memory, &program.guest(), setup, &mut result)? else { return Ok(result) };
    let timed = |wanted| ran.timing(wanted, args.rounds);
    result.times = Some(FaultTimes {
        touch: timed(tag::TOUCH),
        exec: timed(tag::EXEC),
        resident: timed(tag::RESIDENT),
        // The kernel prints a complaint in one of the rounds, and that takes longer than tracing.
        tracing_cost: ran.tracing_cost(tag::EXEC, args.rounds).filter(|_| result.complaints.is_empty()),
    });
    write_samples(session, kind, &ran.run, |tag| match tag {
        tag::TOUCH => "touch",
        tag::EXEC => "exec",
        _ => "resident",
    })?;
    result.verdict = ran.bad_end.unwrap_or_else(|| verdict::judge(&result, &ran.context));
    Ok(result)
}
