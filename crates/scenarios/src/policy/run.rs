//! The run of `policy`: three faults on each kind of memory, one guest each, and the conclusion from all of them.

use hostfacts::memory::HostBlocks;
use record::case::{CaseResult, FaultTimes};
use record::maintenance::{Access, HostSide};
use record::memory::MemoryKind;
use units::stats::Timing;

use crate::cost::CostModel;
use crate::memory::block_bytes;
use crate::policy::args::Args;
use crate::policy::findings::Findings;
use crate::policy::program::{CaseProgram, tag};
use crate::policy::verdict;
use crate::runner::cases::{CaseRunner, chosen_kinds, write_samples};
use crate::runner::observer::Setup;
use crate::runner::session::{Build, Conclusion, Error, Finished, Session};

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("policy", &args.common, build, 1)?;
    let mut session = Session::begin(&args.common, build)?;
    let mut cases = Vec::new();
    let outcome = all_cases(&mut runner, &mut session, args, &mut cases);
    let cost = CostModel::new(&session.machine, runner.vcpus.first(), session.machine.page_bytes);
    let conclusion = verdict::conclude(&cases, &cost);
    session.conclusion = Conclusion {
        verdict: Some(verdict::judge(&conclusion)),
        facts: verdict::facts(&conclusion),
        findings: record::findings::StoredFindings::of(&conclusion),
    };
    session.end(outcome, runner.name, runner.vcpus, cases)
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let kinds = chosen_kinds(&args.kinds, None, region_bytes)?;
    runner.each_kind(session, kinds, cases, |runner, session, kind| case(runner, session, args, kind))
}

fn region_bytes(kind: MemoryKind, host: &HostBlocks) -> u64 {
    block_bytes(kind, host).map_or(0, CaseProgram::default_region_bytes)
}

fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    kind: MemoryKind,
) -> Result<CaseResult, Error> {
    let mut result = CaseResult { rounds: args.rounds, ..CaseResult::on(kind, 1) };
    let Some(memory) = runner.prepare_for(session, kind, |host| region_bytes(kind, host), &mut result)? else {
        return Ok(result);
    };
    let traced = runner.traced(args.rounds);
    let program = CaseProgram {
        block_bytes: memory.block_bytes,
        region_bytes: memory.region_bytes,
        backing: memory.backing,
        rounds: args.rounds + u64::from(traced.is_some()),
    };
    let setup = Setup { label: format!("policy {kind}"), traced, code: program.host_code(), ..Setup::default() };
    let Some(mut ran) = runner.run(session, &memory, &program.guest(), setup, &mut result)? else { return Ok(result) };
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
    if ran.bad_end.is_none() {
        result.findings = record::findings::StoredFindings::of(&Findings {
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
    write_samples(session, kind, &ran.run, |tag| match tag {
        tag::BY_LOAD => "map-by-load",
        tag::PERMISSION => "relax-by-fetch",
        tag::BY_FETCH => "map-by-fetch",
        _ => "resident",
    })?;
    result.verdict = ran.bad_end.take().unwrap_or_else(|| crate::verdict::judge(&result, &ran.context));
    Ok(result)
}
