//! Runs `boot`: the guest maps a region, all vCPUs meet once, the guest powers off.

use std::time::Duration;

use abi::Op;

use super::observer::Signals;
use super::outcome::{autopsy, facts, guest_verdict, progress};
use super::session::{self, Error, Session, Step};
use crate::commands::run::Boot;
use crate::evidence::message::Parser;
use crate::guest::{Backing, GuestSpec, RegionSpec};
use crate::plan::REGION_IPA;
use crate::plan::blocks::Block;
use crate::plan::relax::Sharing;
use crate::report::table::{thousands, time};
use crate::result::{CaseResult, Status, Verdict};
use crate::{stats, verdict, vmm};

const ALIGNMENT: u64 = 64 << 10;

/// Runs the scenario and returns the exit code of its verdict.
///
/// # Errors
///
/// What kept it from a verdict.
pub fn run(args: &Boot) -> Result<u8, Error> {
    if !args.region.0.is_multiple_of(ALIGNMENT) {
        return Err(Error::Usage(format!("--region {} is not a multiple of 64K", args.region)));
    }
    let image = session::payload(&args.common)?;
    vmm::check(args.vcpus)?;
    let mut session = Session::begin(&args.common)?;
    let mut case = CaseResult::not_run(Block::Page, args.vcpus, Sharing::Shared);
    case.region_bytes = args.region.0;
    session.journal(&Step::Case { block: "boot".into(), plan: Box::new(case.clone()) })?;
    let bar = progress(&format!("boot, {} vCPUs", args.vcpus));
    let program = vec![Op::rendezvous(0, args.vcpus).with_flags(abi::op::SLEEP), Op::end()];
    let spec = GuestSpec {
        regions: vec![RegionSpec { ipa: REGION_IPA, bytes: args.region.0, backing: Backing::Reserved }],
        programs: vec![program; args.vcpus as usize],
        records: 8,
        ctr: args.common.guest_ctr,
        ..GuestSpec::default()
    };
    let limit = Duration::from_secs(args.common.time_limit);
    let ran = vmm::run(&spec, &image, limit, &mut Signals(&session));
    bar.finish_and_clear();
    let run = match ran {
        Err(error) if error.is_lack() => {
            case.verdict = Verdict::new(Status::Skip, error.to_string());
            return session.finish("boot", Vec::new(), vec![case]);
        }
        ran => ran?,
    };
    case.complaints = session.complaints(&mut Parser::new())?;
    case.descriptor_writes = run.boot.descriptor_writes;
    case.boot_ticks = run.boot.ticks;
    case.verdict = guest_verdict(&run).unwrap_or_else(|| {
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
    // That a guest boots says nothing of lockups, so nobody need have watched for them.
    verdict::with_kernel_log(&mut case, session.evidence.kmsg_lost, None);
    if case.verdict.status != Status::Pass {
        case.autopsy = autopsy(&run);
    }
    let vcpus = run.vcpus.iter().map(facts).collect();
    session.finish("boot", vcpus, vec![case])
}
