//! Runs `litmus`: each test across each event, in a guest of its own.

use super::bench::{Bench, Ground};
use super::observer::Setup;
use super::session::{Error, Session};
use crate::commands::run;
use crate::guest::Backing;
use crate::litmus::event::Across;
use crate::litmus::plan::Case;
use crate::litmus::result::Litmus;
use crate::litmus::test::Variant;
use crate::litmus::{self, Test};
use crate::plan::blocks::{Block, mapped_bytes};
use crate::plan::relax::Sharing;
use crate::result::{CaseResult, Status, VcpuFacts, Verdict};
use crate::verdict;
use crate::vmm::layout;

/// vCPUs that race unless the command line says otherwise, at most.
const VCPUS: u64 = 4;

/// Runs the scenario and returns the exit code of its verdict.
///
/// # Errors
///
/// What kept it from a verdict.
pub fn run(args: &run::Litmus) -> Result<u8, Error> {
    let tests = chosen(&args.tests)?;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let vcpus = args.vcpus.unwrap_or(cpus.min(VCPUS));
    let mut bench = Bench::new("litmus", &args.common, vcpus)?;
    let mut session = Session::begin(&args.common)?;
    let mut cases = Vec::new();
    let asked = Asked { args, vcpus, cpus };
    let outcome = all_cases(&mut bench, &mut session, &asked, &tests, &mut cases);
    session.end(outcome, bench.name, bench.vcpus, cases)
}

/// What was asked for, and on how many CPUs.
struct Asked<'a> {
    args: &'a run::Litmus,
    vcpus: u64,
    cpus: u64,
}

/// Returns the tests asked for by name, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static Test>, Error> {
    if names.is_empty() {
        return Ok(litmus::tests().collect());
    }
    let named = |name: &String| {
        litmus::tests().find(|test| test.name == name).ok_or_else(|| {
            let known: Vec<_> = litmus::tests().map(|test| test.name).collect();
            Error::Usage(format!("there is no litmus test {name}: name some of {}", known.join(" ")))
        })
    };
    names.iter().map(named).collect()
}

fn all_cases(
    bench: &mut Bench<'_>,
    session: &mut Session,
    asked: &Asked<'_>,
    tests: &[&'static Test],
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    for test in tests {
        for across in &asked.args.events {
            let mut case = case(bench, session, asked, test, *across)?;
            bench.done(session, &mut case)?;
            cases.push(case);
            if session.interrupted() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn case(
    bench: &mut Bench<'_>,
    session: &mut Session,
    asked: &Asked<'_>,
    test: &'static Test,
    across: Across,
) -> Result<CaseResult, Error> {
    let args = asked.args;
    let block = if across.needs_blocks() { Block::Thp } else { Block::Page };
    let traced = across.fault().is_some() && !args.common.no_trace;
    let plan = Case {
        test,
        across,
        vcpus: asked.vcpus,
        iterations: if args.seconds.is_some() { u64::MAX } else { args.iterations },
        limit_ticks: args.seconds.map_or(0, |seconds| seconds * counter_hz()),
        seed: args.seed,
        traced,
        line_bytes: line_bytes(&bench.vcpus),
        backing: Backing::Pages,
        doorbell: layout::DOORBELL,
    };
    let mut litmus = Litmus::new(&plan);
    let mut result =
        CaseResult { litmus: Some(litmus.clone()), ..CaseResult::not_run(block, plan.racing_vcpus(), Sharing::Shared) };
    let threads = test.threads.len() as u64;
    if threads > asked.vcpus || plan.racing_vcpus() > asked.cpus {
        let (vcpus, cpus) = (asked.vcpus.min(asked.cpus), asked.cpus);
        let needed = if threads > vcpus { threads } else { plan.racing_vcpus() };
        let reason = format!("needs {needed} vCPUs that run at the same time, there are {vcpus} on {cpus} CPUs");
        result.verdict = Verdict::new(Status::Skip, reason);
        return Ok(result);
    }
    let ground = match ground(bench, session, block, &plan)? {
        Ok(ground) => ground,
        Err(missing) => {
            result.verdict = Verdict::new(Status::Skip, missing);
            return Ok(result);
        }
    };
    let plan = Case { backing: ground.backing, ..plan };
    let setup = Setup { label: format!("litmus {}", litmus.name()), traced: traced.then_some(1), ..Setup::default() };
    let Some(mut ran) = bench.run(session, &ground, &plan.guest(), setup, &mut result)? else { return Ok(result) };
    let facts: Vec<_> = ran.run.vcpus.iter().map(super::outcome::facts).collect();
    litmus.collect(&plan, &ran.run, variant(&facts), ran.seen.events);
    result.rounds = litmus.iterations.first().copied().unwrap_or(0);
    // Exceptions are outcomes of their own.
    result.mismatches = 0;
    let judged = || verdict::litmus::case(&result, &litmus, &ran.context);
    result.verdict = ran.trouble.take().unwrap_or_else(judged);
    result.litmus = Some(litmus);
    Ok(result)
}

/// Makes the memory for the code ready, or says what is missing.
fn ground(
    bench: &Bench<'_>,
    session: &mut Session,
    block: Block,
    plan: &Case<'_>,
) -> Result<Result<Ground, String>, Error> {
    let ground = bench.ground(session, block, |_| plan.code_bytes())?.map_err(|missing| missing.to_string());
    Ok(ground.and_then(|ground| {
        let mapped = mapped_bytes(ground.block_bytes, ground.host.page_bytes);
        if plan.across.needs_blocks() && mapped <= ground.host.page_bytes {
            return Err("KVM maps no block here that could be split".into());
        }
        Ok(ground)
    }))
}

/// Returns what the machine makes unnecessary: what all of its vCPUs do.
fn variant(vcpus: &[VcpuFacts]) -> Variant {
    let all = |has: fn(&VcpuFacts) -> bool| !vcpus.is_empty() && vcpus.iter().all(has);
    Variant::of(all(|vcpu| vcpu.idc), all(|vcpu| vcpu.dic))
}

/// Returns the cache line that code is laid out by: the longest that any vCPU names, 64 bytes before one was asked.
fn line_bytes(vcpus: &[VcpuFacts]) -> u64 {
    vcpus.iter().map(|vcpu| vcpu.imin_line_bytes.max(vcpu.dmin_line_bytes)).max().unwrap_or(64)
}

/// Returns the frequency of the counter in Hz, which guests read as well.
fn counter_hz() -> u64 {
    let hz: u64;
    // SAFETY: reads a register that Linux lets programs read; no memory is touched.
    unsafe { std::arch::asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack, preserves_flags)) };
    hz
}
