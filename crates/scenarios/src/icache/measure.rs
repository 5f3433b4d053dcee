//! The measurement of one kind of memory: three faults on each block, in one guest.

use hostfacts::memory::MemoryKinds;
use record::case::{CaseResult, FaultTimes};
use record::maintenance::{Access, HostSide};
use record::memory::MemoryKind;
use units::stats::Timing;

use crate::icache::measurement::Measurement;
use crate::icache::program::{CaseProgram, tag};
use crate::memory::block_bytes;
use crate::runner::cases::{CaseRunner, write_samples};
use crate::runner::observer::Setup;
use crate::runner::session::{Error, Session};

/// Returns the size of the region for a kind of memory, or 0 if the host has no such memory.
pub fn region_bytes(kind: MemoryKind, host: &MemoryKinds) -> u64 {
    block_bytes(kind, host).map_or(0, CaseProgram::default_region_bytes)
}

/// Runs the case of one kind of memory, and returns it with its measurement. There is none if the guest did not end
/// well, or if the host has no such memory.
///
/// # Errors
///
/// Returns the reason if the run cannot go on.
pub fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    kind: MemoryKind,
    rounds: u64,
) -> Result<(CaseResult, Option<Measurement>), Error> {
    let mut result = CaseResult { rounds, ..CaseResult::on(kind, 1) };
    let Some(memory) = runner.prepare_for(session, kind, |host| region_bytes(kind, host), &mut result)? else {
        return Ok((result, None));
    };
    let traced = runner.traced(rounds);
    let program = CaseProgram {
        block_bytes: memory.block_bytes,
        region_bytes: memory.region_bytes,
        backing: memory.backing,
        rounds: rounds + u64::from(traced.is_some()),
    };
    let label = format!("{} {kind}", runner.name);
    let setup = Setup { label, traced, code: program.host_code(), ..Setup::default() };
    let Some(mut ran) = runner.run(session, &memory, &program.guest(), setup, &mut result)? else {
        return Ok((result, None));
    };
    let timed = |wanted| ran.timing(wanted, rounds);
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
    let measurement = ran.bad_end.is_none().then(|| Measurement {
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
    write_samples(session, kind, &ran.run, |tag| match tag {
        tag::BY_LOAD => "map-by-load",
        tag::PERMISSION => "relax-by-fetch",
        tag::BY_FETCH => "map-by-fetch",
        _ => "resident",
    })?;
    result.verdict = ran.bad_end.take().unwrap_or_else(|| crate::verdict::judge(&result, &ran.context));
    Ok((result, measurement))
}
