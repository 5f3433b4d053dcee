//! Runs `policy`: three faults on each kind of block, and what they say about the kernel.

use super::bench::{Bench, blocks, write_samples};
use super::observer::Setup;
use super::session::{Error, Session};
use crate::commands::run;
use crate::plan::blocks::{Block, HostBlocks};
use crate::plan::policy::{Case, tag};
use crate::plan::relax::Sharing;
use crate::result::{CaseResult, Status, Timing, Verdict};
use crate::verdict;
use crate::verdict::policy::{Geometry, Point, infer};

/// Runs the scenario and returns the exit code of its verdict.
///
/// # Errors
///
/// What kept it from a verdict.
pub fn run(args: &run::Policy) -> Result<u8, Error> {
    let mut bench = Bench::new("policy", &args.common, 1)?;
    let mut session = Session::begin(&args.common)?;
    let mut cases = Vec::new();
    let mut page_bytes = 0;
    let outcome = all_cases(&mut bench, &mut session, args, &mut cases, &mut page_bytes);
    let points: Vec<Point> = cases.iter().filter_map(|case| case.policy).collect();
    session.policy = Some(infer(&points, &Geometry::new(&session.machine, bench.vcpus.first(), page_bytes)));
    session.end(outcome, bench.name, bench.vcpus, cases)
}

fn all_cases(
    bench: &mut Bench<'_>,
    session: &mut Session,
    args: &run::Policy,
    cases: &mut Vec<CaseResult>,
    page_bytes: &mut u64,
) -> Result<(), Error> {
    for block in blocks(&args.blocks, None, region_bytes)? {
        let mut case = case(bench, session, args, block, page_bytes)?;
        bench.done(session, &mut case)?;
        cases.push(case);
        if session.interrupted() {
            break;
        }
    }
    Ok(())
}

fn region_bytes(block: Block, host: &HostBlocks) -> u64 {
    block.bytes(host).map_or(0, Case::default_region_bytes)
}

fn case(
    bench: &mut Bench<'_>,
    session: &mut Session,
    args: &run::Policy,
    block: Block,
    page_bytes: &mut u64,
) -> Result<CaseResult, Error> {
    let mut result = CaseResult { rounds: args.rounds, ..CaseResult::not_run(block, 1, Sharing::Distinct) };
    let ground = match bench.ground(session, block, |host| region_bytes(block, host))? {
        Ok(ground) => ground,
        Err(missing) => {
            result.verdict = Verdict::new(Status::Skip, missing.to_string());
            return Ok(result);
        }
    };
    *page_bytes = ground.host.page_bytes;
    let traced = bench.traced(args.rounds);
    let plan = Case {
        block_bytes: ground.block_bytes,
        region_bytes: ground.region_bytes,
        backing: ground.backing,
        rounds: args.rounds + u64::from(traced.is_some()),
    };
    let setup = Setup { label: format!("policy {block}"), traced, code: plan.host_code(), ..Setup::default() };
    let Some(mut ran) = bench.run(session, &ground, &plan.guest(), setup, &mut result)? else { return Ok(result) };
    let timed = |wanted| ran.timing(wanted, args.rounds);
    let p50 = |timing: Option<Timing>| timing.map_or(0, |timing| timing.ns.p50);
    (result.touch, result.exec, result.resident) = (timed(tag::BY_LOAD), timed(tag::PERMISSION), timed(tag::RESIDENT));
    let icache = result.host.as_ref().and_then(|host| host.icache);
    let fetches =
        |host: &crate::result::HostSide| host.faults.iter().filter(|f| f.access == "fetch").map(|f| f.count).sum();
    if ran.trouble.is_none() {
        result.policy = Some(Point {
            mapped_bytes: ground.block_bytes,
            permission_ns: p50(result.exec),
            resident_ns: p50(result.resident),
            by_load_ns: p50(result.touch),
            by_fetch_ns: p50(timed(tag::BY_FETCH)),
            grants: result.host.as_ref().map_or(0, fetches),
            probe_calls: icache.map(|m| m.calls),
            probe_max_bytes: icache.map(|m| m.max_bytes),
            probe_max_ns: icache.map(|m| m.max_ns),
            counted: None,
        });
    }
    write_samples(session, block, &ran.run, |tag| match tag {
        tag::BY_LOAD => "map-by-load",
        tag::PERMISSION => "relax-by-fetch",
        tag::BY_FETCH => "map-by-fetch",
        _ => "resident",
    })?;
    result.verdict = ran.trouble.take().unwrap_or_else(|| verdict::case(&result, &ran.context));
    Ok(result)
}
