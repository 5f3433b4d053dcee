//! Runs `dside`: first touch and teardown of each kind of block.

use super::bench::{Bench, Ran, blocks, write_samples};
use super::observer::Setup;
use super::session::{Error, Session};
use crate::commands::run;
use crate::plan::blocks::Block;
use crate::plan::dside::{Case, TOUCH};
use crate::plan::event;
use crate::plan::relax::Sharing;
use crate::result::{CaseResult, DSide, Maintenance, Status, Verdict};
use crate::size::Size;
use crate::verdict::policy::Geometry;
use crate::{stats, verdict, vmm};

/// Runs the scenario and returns the exit code of its verdict.
///
/// # Errors
///
/// What kept it from a verdict.
pub fn run(args: &run::DSide) -> Result<u8, Error> {
    let mut bench = Bench::new("dside", &args.common, 1)?;
    let mut session = Session::begin(&args.common)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut bench, &mut session, args, &mut cases);
    session.end(outcome, bench.name, bench.vcpus, cases)
}

fn all_cases(
    bench: &mut Bench<'_>,
    session: &mut Session,
    args: &run::DSide,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    for block in blocks(&args.blocks, Some(args.region), |_, _| args.region.0)? {
        let mut case = case(bench, session, args, block)?;
        bench.done(session, &mut case)?;
        cases.push(case);
        if session.interrupted() {
            break;
        }
    }
    Ok(())
}

fn case(bench: &mut Bench<'_>, session: &mut Session, args: &run::DSide, block: Block) -> Result<CaseResult, Error> {
    let mut result = CaseResult { rounds: args.rounds, ..CaseResult::not_run(block, 1, Sharing::Distinct) };
    let ground = match bench.ground(session, block, |_| args.region.0)? {
        Ok(ground) => ground,
        Err(missing) => {
            result.verdict = Verdict::new(Status::Skip, missing.to_string());
            return Ok(result);
        }
    };
    let traced = bench.traced(args.rounds);
    let rounds = args.rounds + u64::from(traced.is_some());
    let (block_bytes, region_bytes, backing) = (ground.block_bytes, ground.region_bytes, ground.backing);
    let plan = Case { block_bytes, region_bytes, backing, rounds };
    let setup = Setup { label: format!("dside {block}"), traced, ..Setup::default() };
    let Some(mut ran) = bench.run(session, &ground, &plan.guest(), setup, &mut result)? else { return Ok(result) };
    result.touch = ran.timing(TOUCH, args.rounds);
    write_samples(session, block, &ran.run, |_| "touch")?;
    let facts = bench.vcpus.first();
    let line_bytes = facts.map_or(64, |vcpu| vcpu.dmin_line_bytes);
    let floor_ns = Geometry::new(&session.machine, facts, ground.host.page_bytes).line_floor_ns();
    let dside = observed(&ran, &result, line_bytes, floor_ns, vmm::limits()?.fwb);
    let judged = || verdict::dside::case(&result, &dside, &ran.context);
    result.verdict = ran.trouble.take().unwrap_or_else(judged);
    result.dside = Some(dside);
    Ok(result)
}

fn observed(ran: &Ran, result: &CaseResult, line_bytes: u64, floor_ns: f64, read: Option<bool>) -> DSide {
    let clean = result.host.as_ref().and_then(|host| host.dcache);
    let touch_ns = result.touch.map_or(0, |touch| touch.ns.p50);
    let (fwb, how) = match (read, clean.filter(|clean| clean.calls > 0)) {
        (Some(true), _) => (Some(true), "ID_AA64MMFR2_EL1.FWB is 1".into()),
        (Some(false), Some(Maintenance { calls, max_bytes, .. })) => {
            (Some(false), format!("ID_AA64MMFR2_EL1.FWB is 0; {calls} cleans of up to {}", Size(max_bytes)))
        }
        _ => verdict::dside::fwb(clean.as_ref(), touch_ns, result.block_bytes, line_bytes, floor_ns),
    };
    let timed = |event| ran.seen.timed.iter().filter(move |t| t.event == event);
    DSide {
        fwb,
        how,
        lines: result.region_bytes / line_bytes.max(1),
        unmap: stats::distribution(timed(event::UNMAP).filter(|t| !t.traced).map(|t| t.ns).collect()),
        discard_ns: timed(event::DISCARD).map(|t| t.ns).next(),
    }
}
