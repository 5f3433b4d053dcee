//! Runs `litmus`. Each test across each event runs in a guest of its own.

use guest::spec::Backing;
use programs::litmus::event::RaceEvent;
use programs::litmus::races::Case;
use programs::litmus::test::MachineClass;
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

/// Maximum number of vCPUs that race by default.
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
    let mut session = Session::begin(runner.name, &args.common, build)?;
    let mut cases = Vec::new();
    let selection = Selection { args, tests, vcpus, cpus };
    let outcome = all_cases(&mut runner, &mut session, &selection, &mut cases);
    session.end(outcome, runner.vcpus, cases)
}

/// Selection of what to run.
struct Selection<'a> {
    args: &'a Args,
    tests: Vec<&'static Test>,
    /// Number of vCPUs to use.
    vcpus: u64,
    /// Number of CPUs of the machine.
    cpus: u64,
}

/// Returns the tests with these names, or all tests if there are no names.
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
    selection: &Selection<'_>,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    for test in &selection.tests {
        for event in &selection.args.events {
            let mut case = case(runner, session, selection, test, *event)?;
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
    selection: &Selection<'_>,
    test: &'static Test,
    event: RaceEvent,
) -> Result<CaseResult, Error> {
    let args = selection.args;
    let kind = if event.needs_blocks() { MemoryKind::Thp } else { MemoryKind::Page };
    let traced = event.fault().is_some() && !args.common.no_trace;
    let case = Case {
        test,
        event,
        vcpus: selection.vcpus,
        iterations: if args.seconds.is_some() { u64::MAX } else { args.iterations },
        limit_ticks: args.seconds.map_or(0, |seconds| seconds * counter_hz()),
        seed: args.seed,
        traced,
        line_bytes: line_bytes(&runner.vcpus),
        backing: Backing::Pages,
        doorbell: layout::DOORBELL,
    };
    let mut findings = Findings::new(&case);
    let memory = Memory { kind, block_bytes: 0, region_bytes: 0 };
    let mut result = CaseResult {
        memory: Some(memory),
        findings: record::findings::StoredFindings::of(&findings),
        ..CaseResult::not_run(findings.name(), case.racing_vcpus())
    };
    let threads = test.threads.len() as u64;
    if threads > selection.vcpus || case.racing_vcpus() > selection.cpus {
        let (vcpus, cpus) = (selection.vcpus.min(selection.cpus), selection.cpus);
        let needed = if threads > vcpus { threads } else { case.racing_vcpus() };
        let reason = format!("needs {needed} vCPUs that run at the same time, there are {vcpus} on {cpus} CPUs");
        result.verdict = Verdict::new(Status::Skip, reason);
        return Ok(result);
    }
    let memory = match prepare(runner, session, kind, &case)? {
        Ok(memory) => memory,
        Err(missing) => {
            result.verdict = Verdict::new(Status::Skip, missing);
            return Ok(result);
        }
    };
    let case = Case { backing: memory.backing, ..case };
    let setup = Setup { label: format!("litmus {}", findings.name()), traced: traced.then_some(1), ..Setup::default() };
    let Some(mut case_run) = runner.run(session, &memory, &case.guest(), setup, &mut result)? else {
        return Ok(result);
    };
    let vcpus: Vec<_> = case_run.run.vcpus.iter().map(facts).collect();
    findings.collect(&case, &case_run.run, machine_class(&vcpus), case_run.observation.events);
    result.rounds = findings.iterations.first().copied().unwrap_or(0);
    // A mismatch of a race is an exception, and the findings count those.
    result.mismatches = 0;
    let judged = || verdict::case(&result, &findings, &case_run.context);
    result.verdict = case_run.bad_end.take().unwrap_or_else(judged);
    result.findings = record::findings::StoredFindings::of(&findings);
    Ok(result)
}

/// Prepares the memory for the code, or returns what is missing.
fn prepare(
    runner: &CaseRunner<'_>,
    session: &mut Session,
    kind: MemoryKind,
    case: &Case<'_>,
) -> Result<Result<PreparedMemory, String>, Error> {
    let memory = runner.prepare(session, kind, |_| case.code_bytes())?.map_err(|missing| missing.to_string());
    Ok(memory.and_then(|memory| {
        let mapped = mapped_bytes(memory.block_bytes, memory.host.page_bytes);
        if case.event.needs_blocks() && mapped <= memory.host.page_bytes {
            return Err("KVM maps no block here that could be split".into());
        }
        Ok(memory)
    }))
}

/// Returns the class of the machine. A feature counts only if all vCPUs have it.
fn machine_class(vcpus: &[VcpuFacts]) -> MachineClass {
    let all = |has: fn(&VcpuFacts) -> bool| !vcpus.is_empty() && vcpus.iter().all(has);
    MachineClass::of(all(|vcpu| vcpu.idc), all(|vcpu| vcpu.dic))
}

/// Returns the size of a cache line for the layout of the code: the largest of all vCPUs, and 64 bytes before the first
/// guest.
fn line_bytes(vcpus: &[VcpuFacts]) -> u64 {
    vcpus.iter().map(|vcpu| vcpu.imin_line_bytes.max(vcpu.dmin_line_bytes)).max().unwrap_or(64)
}

/// Returns the frequency of the counter in Hz. Guests read the same counter.
fn counter_hz() -> u64 {
    let hz: u64;
    // SAFETY: reads a register that Linux lets programs read; no memory is touched.
    unsafe { std::arch::asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack, preserves_flags)) };
    hz
}
