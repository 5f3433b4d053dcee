//! Runs `policy`: three faults on each kind of memory, and what they show of the kernel.

use hostfacts::memory::MemoryKinds;
use record::case::{CaseResult, FaultTimes};
use record::maintenance::{Access, HostSide};
use record::memory::MemoryKind;
use record::status::{Status, Verdict};
use units::stats::Timing;

use crate::cost::CostModel;
use crate::memory::block_bytes;
use crate::policy::findings::Findings;
use crate::policy::program::{Case, tag};
use crate::policy::{Args, verdict};
use crate::runner::cases::{CaseRunner, blocks, write_samples};
use crate::runner::observer::Setup;
use crate::runner::session::{Build, Conclusion, Error, Finished, Session};

/// Runs the scenario.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("policy", &args.common, build, 1)?;
    let mut session = Session::begin(&args.common, build)?;
    let mut cases = Vec::new();
    let mut page_bytes = 0;
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases, &mut page_bytes);
    let conclusion = verdict::of_cases(&cases, &CostModel::new(&session.machine, runner.vcpus.first(), page_bytes));
    session.conclusion = Conclusion {
        verdict: Some(verdict::judge(&conclusion)),
        facts: verdict::facts(&conclusion),
        findings: record::findings::Findings::of(&conclusion),
    };
    session.end(outcome, runner.name, runner.vcpus, cases)
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
    page_bytes: &mut u64,
) -> Result<(), Error> {
    for block in blocks(&args.blocks, None, region_bytes)? {
        let mut case = case(runner, session, args, block, page_bytes)?;
        runner.done(session, &mut case)?;
        cases.push(case);
        if session.interrupted() {
            break;
        }
    }
    Ok(())
}

fn region_bytes(block: MemoryKind, host: &MemoryKinds) -> u64 {
    block_bytes(block, host).map_or(0, Case::default_region_bytes)
}

fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    block: MemoryKind,
    page_bytes: &mut u64,
) -> Result<CaseResult, Error> {
    let mut result = CaseResult { rounds: args.rounds, ..CaseResult::on(block, 1) };
    let memory = match runner.prepare(session, block, |host| region_bytes(block, host))? {
        Ok(memory) => memory,
        Err(missing) => {
            result.verdict = Verdict::new(Status::Skip, missing.to_string());
            return Ok(result);
        }
    };
    *page_bytes = memory.host.page_bytes;
    let traced = runner.traced(args.rounds);
    let plan = Case {
        block_bytes: memory.block_bytes,
        region_bytes: memory.region_bytes,
        backing: memory.backing,
        rounds: args.rounds + u64::from(traced.is_some()),
    };
    let setup = Setup { label: format!("policy {block}"), traced, code: plan.host_code(), ..Setup::default() };
    let Some(mut ran) = runner.run(session, &memory, &plan.guest(), setup, &mut result)? else { return Ok(result) };
    let timed = |wanted| ran.timing(wanted, args.rounds);
    let p50 = |timing: Option<Timing>| timing.map_or(0, |timing| timing.ns.p50);
    let times = FaultTimes {
        touch: timed(tag::BY_LOAD),
        exec: timed(tag::PERMISSION),
        resident: timed(tag::RESIDENT),
        tracing_cost: None,
    };
    result.times = Some(times);
    let icache = result.host.as_ref().and_then(|host| host.icache);
    let fetches = |host: &HostSide| host.faults.iter().filter(|f| f.access == Access::Fetch).map(|f| f.count).sum();
    if ran.trouble.is_none() {
        result.findings = record::findings::Findings::of(&Findings {
            mapped_bytes: memory.block_bytes,
            permission_ns: p50(times.exec),
            resident_ns: p50(times.resident),
            by_load_ns: p50(times.touch),
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
    result.verdict = ran.trouble.take().unwrap_or_else(|| crate::verdict::case(&result, &ran.context));
    Ok(result)
}
