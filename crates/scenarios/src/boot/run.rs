//! The run of `boot`: one guest, whose vCPUs meet once.

use std::time::Duration;

use abi::Op;
use guest::region::REGION_IPA;
use guest::spec::{Backing, GuestSpec, RegionSpec};
use klog::parser::Parser;
use record::case::{Boot, CaseResult};
use record::findings::StoredFindings;
use record::journal::Entry;
use record::status::{Status, Verdict};
use record::verdict;
use units::stats;
use units::text::{thousands, time};

use units::text::counted;

use crate::boot::args::Args;
use crate::boot::findings;
use crate::runner::ending::{autopsy, bad_end, facts, progress};
use crate::runner::observer::SignalWatch;
use crate::runner::session::{Build, Error, Finished, Session};

/// Alignment of a region's size, in bytes: the largest base page.
const ALIGNMENT: u64 = 64 << 10;

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    if !args.region.0.is_multiple_of(ALIGNMENT) {
        return Err(Error::Usage(format!("--region {} is not a multiple of 64K", args.region)));
    }
    let image = build.image(&args.common)?;
    vmm::check(args.vcpus)?;
    let mut session = Session::begin("boot", &args.common, build)?;
    let mut case = CaseResult {
        findings: StoredFindings::of(&findings::Findings { region_bytes: args.region.0 }),
        ..CaseResult::not_run("boot", args.vcpus)
    };
    session.journal(&Entry::Case { name: "boot".into(), before: Box::new(case.clone()) })?;
    let bar = progress(&format!("boot, {}", counted(args.vcpus, "vCPU")));
    let program = vec![Op::rendezvous(0, args.vcpus).with_flags(abi::op::SLEEP), Op::end()];
    let spec = GuestSpec {
        regions: vec![RegionSpec { ipa: REGION_IPA, bytes: args.region.0, backing: Backing::Reserved }],
        programs: vec![program; args.vcpus as usize],
        records: 8,
        ctr: args.common.guest_ctr,
        ..GuestSpec::default()
    };
    let limit = Duration::from_secs(args.common.time_limit);
    let ran = vmm::run(&spec, &image, limit, &mut SignalWatch(&session));
    bar.finish_and_clear();
    let run = match ran {
        Err(error) if error.is_lack() => {
            case.verdict = Verdict::new(Status::Skip, error.to_string());
            return session.finish(Vec::new(), vec![case]);
        }
        ran => ran?,
    };
    case.complaints = session.complaints(&mut Parser::new())?;
    case.boot = Some(Boot { descriptor_writes: run.boot.descriptor_writes, ticks: run.boot.ticks });
    case.verdict = bad_end(&run).unwrap_or_else(|| {
        let hz = run.vcpus.first().map_or(1, |vcpu| vcpu.cntfrq_el0);
        let reason = format!(
            "{} vCPUs ran; {} from the first instruction to the first op; {} mapped with {} descriptors",
            args.vcpus,
            time(stats::ns(run.boot.ticks, hz)),
            args.region,
            thousands(run.boot.descriptor_writes)
        );
        Verdict::new(Status::Pass, reason)
    });
    // A boot is no evidence about lockups, so it needs no detector that watched.
    verdict::apply_kernel_log(&mut case, session.evidence.kmsg_lost, None);
    if case.verdict.status != Status::Pass {
        case.autopsy = autopsy(&run);
    }
    let vcpus = run.vcpus.iter().map(facts).collect();
    session.finish(vcpus, vec![case])
}
