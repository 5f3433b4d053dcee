//! Runs `litmus`: each test across each event, in a guest of its own.

use guest::spec::Backing;
use programs::litmus::event::Across;
use programs::litmus::races::Case;
use programs::litmus::test::Variant;
use programs::litmus::{self, Test};
use record::case::{CaseResult, Memory};
use record::memory::{MemoryKind, mapped_bytes};
use record::result::VcpuFacts;
use record::status::{Status, Verdict};
use vmm::layout;

use crate::litmus::args::Args;
use crate::litmus::findings::Findings;
use crate::litmus::verdict;
use crate::runner::cases::{CaseRunner, PreparedMemory};
use crate::runner::ending::facts;
use crate::runner::observer::Setup;
use crate::runner::session::{Build, Error, Finished, Session};

/// vCPUs that race unless the command line says otherwise, at most.
const VCPUS: u64 = 4;

/// Runs the scenario.
///
/// # Errors
///
/// The obstacle that kept it from a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let tests = chosen(&args.tests)?;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let vcpus = args.vcpus.unwrap_or(cpus.min(VCPUS));
    let mut runner = CaseRunner::new("litmus", &args.common, build, vcpus)?;
    let mut session = Session::begin(&args.common, build)?;
    let mut cases = Vec::new();
    let asked = Asked { args, vcpus, cpus };
    let outcome = all_cases(&mut runner, &mut session, &asked, &tests, &mut cases);
    session.end(outcome, runner.name, runner.vcpus, cases)
}

/// What was asked for, and on how many CPUs.
struct Asked<'a> {
    args: &'a Args,
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
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    asked: &Asked<'_>,
    tests: &[&'static Test],
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    for test in tests {
        for across in &asked.args.events {
            let mut case = case(runner, session, asked, test, *across)?;
            runner.done(session, &mut case)?;
            cases.push(case);
            if session.interrupted() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn case(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    asked: &Asked<'_>,
    test: &'static Test,
    across: Across,
) -> Result<CaseResult, Error> {
    let args = asked.args;
    let block = if across.needs_blocks() { MemoryKind::Thp } else { MemoryKind::Page };
    let traced = across.fault().is_some() && !args.common.no_trace;
    let plan = Case {
        test,
        across,
        vcpus: asked.vcpus,
        iterations: if args.seconds.is_some() { u64::MAX } else { args.iterations },
        limit_ticks: args.seconds.map_or(0, |seconds| seconds * counter_hz()),
        seed: args.seed,
        traced,
        line_bytes: line_bytes(&runner.vcpus),
        backing: Backing::Pages,
        doorbell: layout::DOORBELL,
    };
    let mut litmus = Findings::new(&plan);
    let memory = Memory { kind: block, block_bytes: 0, region_bytes: 0 };
    let mut result = CaseResult {
        memory: Some(memory),
        findings: record::findings::StoredFindings::of(&litmus),
        ..CaseResult::not_run(litmus.name(), plan.racing_vcpus())
    };
    let threads = test.threads.len() as u64;
    if threads > asked.vcpus || plan.racing_vcpus() > asked.cpus {
        let (vcpus, cpus) = (asked.vcpus.min(asked.cpus), asked.cpus);
        let needed = if threads > vcpus { threads } else { plan.racing_vcpus() };
        let reason = format!("needs {needed} vCPUs that run at the same time, there are {vcpus} on {cpus} CPUs");
        result.verdict = Verdict::new(Status::Skip, reason);
        return Ok(result);
    }
    let memory = match prepare(runner, session, block, &plan)? {
        Ok(memory) => memory,
        Err(missing) => {
            result.verdict = Verdict::new(Status::Skip, missing);
            return Ok(result);
        }
    };
    let plan = Case { backing: memory.backing, ..plan };
    let setup = Setup { label: format!("litmus {}", litmus.name()), traced: traced.then_some(1), ..Setup::default() };
    let Some(mut ran) = runner.run(session, &memory, &plan.guest(), setup, &mut result)? else { return Ok(result) };
    let vcpus: Vec<_> = ran.run.vcpus.iter().map(facts).collect();
    litmus.collect(&plan, &ran.run, variant(&vcpus), ran.observation.events);
    result.rounds = litmus.iterations.first().copied().unwrap_or(0);
    // Exceptions are outcomes of their own.
    result.mismatches = 0;
    let judged = || verdict::case(&result, &litmus, &ran.context);
    result.verdict = ran.bad_end.take().unwrap_or_else(judged);
    result.findings = record::findings::StoredFindings::of(&litmus);
    Ok(result)
}

/// Makes the memory for the code ready, or says what is missing.
fn prepare(
    runner: &CaseRunner<'_>,
    session: &mut Session,
    block: MemoryKind,
    plan: &Case<'_>,
) -> Result<Result<PreparedMemory, String>, Error> {
    let memory = runner.prepare(session, block, |_| plan.code_bytes())?.map_err(|missing| missing.to_string());
    Ok(memory.and_then(|memory| {
        let mapped = mapped_bytes(memory.block_bytes, memory.host.page_bytes);
        if plan.across.needs_blocks() && mapped <= memory.host.page_bytes {
            return Err("KVM maps no block here that could be split".into());
        }
        Ok(memory)
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
