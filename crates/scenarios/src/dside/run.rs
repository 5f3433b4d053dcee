//! The run of `dside`: first touch and teardown of each kind of memory, one guest each.

use abi::op::Attr;
use guest::event::RoundEvent;
use hostfacts::memory::MemoryKinds;
use record::case::{CaseResult, FaultTimes};
use record::maintenance::Maintenance;
use record::memory::MemoryKind;
use units::size::Size;
use units::stats;

use crate::cost::CostModel;
use crate::dside::args::Args;
use crate::dside::findings::Findings;
use crate::dside::program::{CaseProgram, TOUCH};
use crate::dside::verdict;
use crate::memory::block_bytes;
use crate::runner::cases::{CaseRun, CaseRunner, chosen_kinds, write_samples};
use crate::runner::observer::Setup;
use crate::runner::session::{Build, Error, Finished, Session};

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("dside", &args.common, build, 1)?;
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
    let kinds = chosen_kinds(&args.kinds, Some(args.region.unwrap_or(REGION)))?;
    runner.each_kind(session, kinds, cases, |runner, session, kind, _| case(runner, session, args, kind))
}

/// Size of the region, if it does not have too many blocks.
const REGION: Size = Size(1 << 30);
/// The most blocks of a region whose size was not given. A fault takes up to a millisecond in the lab.
const MOST_BLOCKS: u64 = 16_384;

/// Returns the size of the region for a kind of memory in bytes.
fn region_bytes(args: &Args, kind: MemoryKind, host: &MemoryKinds) -> u64 {
    let block = block_bytes(kind, host).unwrap_or(host.page_bytes);
    args.region.unwrap_or(Size(REGION.0.min(MOST_BLOCKS * block))).0
}

fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    kind: MemoryKind,
) -> Result<CaseResult, Error> {
    let mut result = CaseResult { rounds: args.rounds, ..CaseResult::on(kind, 1) };
    let Some(memory) = runner.prepare_for(session, kind, |host| region_bytes(args, kind, host), &mut result)? else {
        return Ok(result);
    };
    let traced = runner.traced(args.rounds);
    let rounds = args.rounds + u64::from(traced.is_some());
    let (block_bytes, region_bytes, backing) = (memory.block_bytes, memory.region_bytes, memory.backing);
    let attr = if args.uncached { Attr::NonCacheable } else { Attr::Cacheable };
    let program = CaseProgram { block_bytes, region_bytes, backing, rounds, attr };
    let setup = Setup { label: format!("dside {kind}"), traced, ..Setup::default() };
    let Some(mut ran) = runner.run(session, &memory, &program.guest(), setup, &mut result)? else { return Ok(result) };
    result.times = Some(FaultTimes { touch: ran.timing(TOUCH, args.rounds), ..FaultTimes::default() });
    write_samples(session, kind, &ran.run, |_| "touch")?;
    let facts = runner.vcpus.first();
    let line_bytes = facts.map_or(64, |vcpu| vcpu.dmin_line_bytes);
    let floor_ns = CostModel::new(&session.machine, facts, memory.host.page_bytes).line_floor_ns();
    let dside = findings(&ran, &result, line_bytes, floor_ns, vmm::limits()?.fwb);
    let judged = || verdict::judge(&result, &dside, &ran.context);
    result.verdict = ran.bad_end.take().unwrap_or_else(judged);
    result.findings = record::findings::StoredFindings::of(&dside);
    Ok(result)
}

/// Returns the findings of a case. `fwb` is the bit of ID_AA64MMFR2_EL1, if KVM reports it.
fn findings(ran: &CaseRun, result: &CaseResult, line_bytes: u64, floor_ns: f64, fwb: Option<bool>) -> Findings {
    let clean = result.host.as_ref().and_then(|host| host.dcache);
    let touch_ns = result.times().touch.map_or(0, |touch| touch.ns.p50);
    let (fwb, how) = match (fwb, clean.filter(|clean| clean.calls > 0)) {
        (Some(true), _) => (Some(true), "ID_AA64MMFR2_EL1.FWB is 1".into()),
        (Some(false), Some(Maintenance { calls, max_bytes, .. })) => {
            (Some(false), format!("ID_AA64MMFR2_EL1.FWB is 0; {calls} cleans of up to {}", Size(max_bytes)))
        }
        _ => verdict::infer_fwb(clean.as_ref(), touch_ns, result.block_bytes(), line_bytes, floor_ns),
    };
    let timed = |event| ran.observation.timed.iter().filter(move |t| t.event == event);
    Findings {
        fwb,
        how,
        lines: result.region_bytes() / line_bytes.max(1),
        unmap: stats::distribution(timed(RoundEvent::Unmap).filter(|t| !t.traced).map(|t| t.ns).collect()),
        discard_ns: timed(RoundEvent::Discard).map(|t| t.ns).next(),
    }
}
