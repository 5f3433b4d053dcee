//! The run of `check`: measures one kind of memory after the other, until the measurements answer.

use hostfacts::dangers;
use hostfacts::memory::{MemoryKinds, memory_kinds};
use record::case::CaseResult;
use record::findings::StoredFindings;
use record::memory::{MemoryKind, mapped_bytes};
use record::status::{Status, Verdict};

use crate::check::answer::{self, Evidence};
use crate::check::args::Args;
use crate::check::findings::Findings;
use crate::icache::measure;
use crate::memory::{self, block_bytes};
use crate::runner::cases::CaseRunner;
use crate::runner::session::{Build, Conclusion, Error, Finished, Session};

/// Sysctls below `kernel.` that turn a stall into a panic.
const PANICS_ON_STALL: [&str; 3] = ["softlockup_panic", "hung_task_panic", "panic_on_rcu_stall"];

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let mut runner = CaseRunner::new("check", &args.common, build, 1)?;
    runner.enlarges_pools = true;
    let mut session = Session::begin(runner.name, &args.common, build)?;
    let mut panics = dangers::read().panics;
    panics.retain(|name| PANICS_ON_STALL.contains(&name.as_str()));
    let mut cases = Vec::new();
    let outcome = if panics.is_empty() || args.may_panic {
        all_cases(&mut runner, &mut session, args, &mut cases)
    } else {
        Ok(())
    };
    let conclusion = if cases.is_empty() && !panics.is_empty() {
        answer::refused(&panics)
    } else {
        answer::conclude(&evidence(&runner, &session, &cases))
    };
    session.conclusion = Conclusion {
        verdict: Some(answer::judge(&conclusion)),
        decides: true,
        facts: answer::facts(&conclusion),
        findings: StoredFindings::of(&conclusion),
    };
    session.end(outcome, runner.vcpus, cases)
}

fn evidence<'a>(runner: &'a CaseRunner<'_>, session: &'a Session, cases: &'a [CaseResult]) -> Evidence<'a> {
    Evidence {
        machine: &session.machine,
        vcpu: runner.vcpus.first(),
        detector: hostfacts::detector::read(),
        kmsg_lost: session.evidence.kmsg_lost,
        cases,
    }
}

fn all_cases(
    runner: &mut CaseRunner<'_>,
    session: &mut Session,
    args: &Args,
    cases: &mut Vec<CaseResult>,
) -> Result<(), Error> {
    let host = memory_kinds();
    let named = !args.kinds.is_empty();
    let kinds = if named { args.kinds.clone() } else { by_size(&host) };
    runner.each_kind(session, kinds, cases, |runner, session, kind, before| {
        match needless(kind, &host, &evidence(runner, session, before)).filter(|_| !named) {
            Some(why) => Ok(CaseResult { verdict: Verdict::new(Status::Skip, why), ..CaseResult::on(kind, 1) }),
            None => case(runner, session, kind),
        }
    })
}

/// Returns all kinds of memory that this kernel could have, smallest blocks first.
fn by_size(host: &MemoryKinds) -> Vec<MemoryKind> {
    let mut kinds = memory::all(host);
    // The size of a transparent huge page is that of a block of level 2, which each granule has.
    let level_2 = host.page_bytes * (host.page_bytes / 8);
    kinds.sort_by_key(|kind| block_bytes(*kind, host).unwrap_or(level_2));
    kinds
}

/// Returns the reason for which a kind of memory need not be measured.
fn needless(kind: MemoryKind, host: &MemoryKinds, so_far: &Evidence<'_>) -> Option<String> {
    if answer::is_settled(so_far) {
        return Some("not run: the smaller blocks answer".into());
    }
    let mapped = mapped_bytes(block_bytes(kind, host).ok()?, host.page_bytes);
    let same = so_far.cases.iter().find(|case| case.was_tried() && case.block_bytes() == mapped)?;
    Some(format!("not run: KVM maps it as it maps {}", same.name))
}

fn case(runner: &mut CaseRunner<'_>, session: &mut Session, kind: MemoryKind) -> Result<CaseResult, Error> {
    let (mut case, measurement) = measure::case(runner, session, kind, 1)?;
    case.findings = measurement.map_or_else(StoredFindings::default, |found| StoredFindings::of(&Findings(found)));
    Ok(case)
}
