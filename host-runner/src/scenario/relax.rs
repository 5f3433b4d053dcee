//! Runs `relax`: each kind of block in a guest of its own, first timed, then once more traced.

use std::path::Path;

use super::bench::{Bench, blocks, write_samples};
use super::observer::Setup;
use super::session::{Error, Session, Step};
use crate::commands::run::Relax;
use crate::plan::blocks::{Block, HostBlocks};
use crate::plan::relax::{Case, tag};
use crate::result::{CaseResult, Status, Verdict};
use crate::{recover, verdict};

/// Runs the scenario and returns the exit code of its verdict.
///
/// # Errors
///
/// What kept it from a verdict.
pub fn run(args: &Relax) -> Result<u8, Error> {
    let mut bench = Bench::new("relax", &args.common, args.vcpus)?;
    let mut session = Session::begin(&args.common)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut bench, &mut session, args, &mut cases);
    session.end(outcome, bench.name, bench.vcpus, cases)
}

fn all_cases(
    bench: &mut Bench<'_>,
    session: &mut Session,
    args: &Relax,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let blocks = match &args.resume {
        Some(dead) => resume(bench, session, dead, cases)?,
        None => blocks(&args.blocks, args.region, |block, host| region_bytes(args, block, host))?,
    };
    session.journal(&Step::Plan { blocks: blocks.clone() })?;
    for block in blocks {
        let mut case = case(bench, session, args, block)?;
        bench.done(session, &mut case)?;
        cases.push(case);
        if session.interrupted() {
            break;
        }
    }
    Ok(())
}

/// Takes over what a dead run had found, the case that killed it included, and returns what it had not come to.
fn resume(
    bench: &mut Bench<'_>,
    session: &mut Session,
    dead: &Path,
    cases: &mut Vec<CaseResult>,
) -> Result<Vec<Block>, Error> {
    let (before, left) = recover::dead_run(dead).map_err(|error| Error::Usage(error.to_string()))?;
    session.resumed_from = Some(before.run.id);
    session.evidence.notes.extend(before.evidence.notes);
    bench.vcpus = before.vcpus;
    cases.extend(before.cases);
    cases.truncate(cases.len().saturating_sub(left.len()));
    bench.index = cases.len();
    Ok(left)
}

fn region_bytes(args: &Relax, block: Block, host: &HostBlocks) -> u64 {
    let Ok(bytes) = block.bytes(host) else { return 0 };
    args.region.map_or_else(|| Case::default_region_bytes(bytes, args.vcpus, args.sharing), |r| r.0)
}

fn case(bench: &mut Bench<'_>, session: &mut Session, args: &Relax, block: Block) -> Result<CaseResult, Error> {
    let not_run = CaseResult::not_run(block, args.vcpus, args.sharing);
    let mut result = CaseResult { rounds: args.rounds, ..not_run };
    let ground = match bench.ground(session, block, |host| region_bytes(args, block, host))? {
        Ok(ground) => ground,
        Err(missing) => {
            result.verdict = Verdict::new(Status::Skip, missing.to_string());
            return Ok(result);
        }
    };
    let traced = bench.traced(args.rounds);
    let plan = Case {
        block_bytes: ground.block_bytes,
        region_bytes: ground.region_bytes,
        backing: ground.backing,
        vcpus: args.vcpus,
        sharing: args.sharing,
        rounds: args.rounds + u64::from(traced.is_some()),
    };
    let setup = Setup { label: format!("relax {block}, {} vCPUs", args.vcpus), traced, ..Setup::default() };
    let Some(ran) = bench.run(session, &ground, &plan.guest(), setup, &mut result)? else { return Ok(result) };
    let timed = |wanted| ran.timing(wanted, args.rounds);
    (result.touch, result.exec, result.resident) = (timed(tag::TOUCH), timed(tag::EXEC), timed(tag::RESIDENT));
    // Printing a complaint takes longer than tracing, and falls on one of the rounds.
    result.tracing_cost = ran.tracing_cost(tag::EXEC, args.rounds).filter(|_| result.complaints.is_empty());
    write_samples(session, block, &ran.run, |tag| match tag {
        tag::TOUCH => "touch",
        tag::EXEC => "exec",
        _ => "resident",
    })?;
    result.verdict = ran.trouble.unwrap_or_else(|| verdict::case(&result, &ran.context));
    Ok(result)
}
