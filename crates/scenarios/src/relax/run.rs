//! Runs `relax`: each kind of memory in a guest of its own, first timed, then once more traced.

use std::path::Path;

use hostfacts::memory::MemoryKinds;
use record::case::{CaseResult, FaultTimes};
use record::findings::Findings;
use record::journal::Entry;
use record::memory::MemoryKind;
use record::runs;
use record::status::{Status, Verdict};

use crate::memory::block_bytes;
use crate::relax::program::{Case, Sharing, tag};
use crate::relax::{Args, findings};
use crate::runner::cases::{CaseRunner, blocks, racers_id, write_samples};
use crate::runner::observer::Setup;
use crate::runner::session::{Build, Error, Finished, Session};
use crate::verdict;

/// Runs the scenario.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("relax", &args.common, build, args.vcpus)?;
    let mut session = Session::begin(&args.common, build)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases);
    session.end(outcome, runner.name, runner.vcpus, cases)
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let blocks = match &args.resume {
        Some(dead) => resume(runner, session, dead, cases)?,
        None => blocks(&args.blocks, args.region, |block, host| region_bytes(args, block, host))?,
    };
    session.journal(&Entry::Cases { names: blocks.iter().map(MemoryKind::to_string).collect() })?;
    for block in blocks {
        let mut case = case(runner, session, args, block)?;
        runner.done(session, &mut case)?;
        cases.push(case);
        if session.interrupted() {
            break;
        }
    }
    Ok(())
}

/// Takes over what a dead run had found, the case that killed it included, and returns what it had not come to.
fn resume(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    dead: &Path,
    cases: &mut Vec<CaseResult>,
) -> Result<Vec<MemoryKind>, Error> {
    let (before, left) = runs::dead(dead).map_err(|error| Error::Usage(error.to_string()))?;
    let left = left.iter().map(|name| name.parse()).collect::<Result<Vec<MemoryKind>, _>>();
    let left = left.map_err(|error| Error::Usage(format!("{}: {error}", dead.display())))?;
    session.resumed_from = Some(before.run.id);
    session.evidence.notes.extend(before.evidence.notes);
    runner.vcpus = before.vcpus;
    cases.extend(before.cases);
    cases.truncate(cases.len().saturating_sub(left.len()));
    runner.index = cases.len();
    Ok(left)
}

fn region_bytes(args: &Args, block: MemoryKind, host: &MemoryKinds) -> u64 {
    let Ok(bytes) = block_bytes(block, host) else { return 0 };
    args.region.map_or_else(|| Case::default_region_bytes(bytes, args.vcpus, args.sharing), |r| r.0)
}

fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    block: MemoryKind,
) -> Result<CaseResult, Error> {
    let how = if args.sharing == Sharing::Distinct { "distinct" } else { "shared" };
    let mut result = CaseResult {
        id: racers_id(block, args.vcpus, how),
        rounds: args.rounds,
        findings: Findings::of(&findings::Findings { sharing: args.sharing }),
        ..CaseResult::on(block, args.vcpus)
    };
    let memory = match runner.prepare(session, block, |host| region_bytes(args, block, host))? {
        Ok(memory) => memory,
        Err(missing) => {
            result.verdict = Verdict::new(Status::Skip, missing.to_string());
            return Ok(result);
        }
    };
    let traced = runner.traced(args.rounds);
    let plan = Case {
        block_bytes: memory.block_bytes,
        region_bytes: memory.region_bytes,
        backing: memory.backing,
        vcpus: args.vcpus,
        sharing: args.sharing,
        rounds: args.rounds + u64::from(traced.is_some()),
    };
    let setup = Setup { label: format!("relax {block}, {} vCPUs", args.vcpus), traced, ..Setup::default() };
    let Some(ran) = runner.run(session, &memory, &plan.guest(), setup, &mut result)? else { return Ok(result) };
    let timed = |wanted| ran.timing(wanted, args.rounds);
    result.times = Some(FaultTimes {
        touch: timed(tag::TOUCH),
        exec: timed(tag::EXEC),
        resident: timed(tag::RESIDENT),
        // Printing a complaint takes longer than tracing, and falls on one of the rounds.
        tracing_cost: ran.tracing_cost(tag::EXEC, args.rounds).filter(|_| result.complaints.is_empty()),
    });
    write_samples(session, block, &ran.run, |tag| match tag {
        tag::TOUCH => "touch",
        tag::EXEC => "exec",
        _ => "resident",
    })?;
    result.verdict = ran.trouble.unwrap_or_else(|| verdict::case(&result, &ran.context));
    Ok(result)
}
