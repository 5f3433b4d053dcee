//! Runs `chaos`: one hostile guest after another. What counts is that this program reads each to its end.

use std::time::Duration;

use abi::record::Body;

use super::observer::Signals;
use super::outcome::{autopsy, facts, guest_verdict, progress};
use super::session::{self, Error, Session, Step};
use crate::commands::run::Chaos;
use crate::evidence::message::Parser;
use crate::guest::{End, GuestRun, GuestSpec};
use crate::plan::blocks::Block;
use crate::plan::chaos::{self, Targets};
use crate::plan::relax::Sharing;
use crate::result::{CaseResult, Status, VcpuFacts, Verdict};
use crate::vmm::layout;
use crate::{stats, vmm};

/// Time for one guest: those that wait for ever are ended then.
const LIMIT: Duration = Duration::from_secs(2);
/// What a channel without regions takes, rounded up as KVM wants it.
const CHANNEL_BYTES: u64 = 64 << 10;

/// What these guests say of their CPUs is as good as they are.
const NO_FACTS: Vec<VcpuFacts> = Vec::new();

/// How many guests ended how.
#[derive(Default)]
struct Tally {
    off: u64,
    trapped: u64,
    timed_out: u64,
    records: usize,
}

/// Runs the scenario and returns the exit code of its verdict.
///
/// # Errors
///
/// What kept it from a verdict; a guest cannot.
pub fn run(args: &Chaos) -> Result<u8, Error> {
    let image = session::payload(&args.common)?;
    vmm::check(args.vcpus)?;
    let mut session = Session::begin(&args.common)?;
    let mut case = CaseResult { rounds: args.runs, ..CaseResult::not_run(Block::Page, args.vcpus, Sharing::Shared) };
    session.journal(&Step::Case { block: "chaos".into(), plan: Box::new(case.clone()) })?;
    let bar = progress(&format!("chaos, {} guests from seed {}", args.runs, args.seed));
    let targets = Targets {
        channel: layout::CHANNEL,
        channel_bytes: CHANNEL_BYTES,
        doorbell: layout::DOORBELL,
        uart: layout::UART,
    };
    let (mut tally, mut parser) = (Tally::default(), Parser::new());
    for seed in (args.seed..).take(args.runs as usize) {
        let spec = GuestSpec { ctr: args.common.guest_ctr, ..chaos::guest(seed, args.vcpus, &targets) };
        let run = match vmm::run(&spec, &image, LIMIT, &mut Signals(&session)) {
            Err(error) if error.is_lack() => {
                bar.finish_and_clear();
                case.verdict = Verdict::new(Status::Skip, error.to_string());
                return session.finish("chaos", NO_FACTS, vec![case]);
            }
            run => run?,
        };
        read(&run);
        tally.records += run.vcpus.iter().map(|vcpu| vcpu.records.len()).sum::<usize>();
        match run.end {
            End::PoweredOff => tally.off += 1,
            End::Trapped(_) => tally.trapped += 1,
            End::TimedOut => tally.timed_out += 1,
            End::Interrupted => break,
        }
        session.read_kmsg(&mut parser)?;
        bar.tick();
    }
    bar.finish_and_clear();
    case.complaints = session.complaints(&mut parser)?;
    let Tally { off, trapped, timed_out, records } = tally;
    let counts = format!(
        "{off} powered off, {trapped} were stopped at something impossible, {timed_out} at the time limit; {records} records read"
    );
    case.verdict = match off + trapped + timed_out {
        all if all == args.runs => Verdict::new(Status::Pass, format!("{all} hostile guests: {counts}")),
        all => Verdict::new(Status::Error, format!("interrupted after {all} hostile guests: {counts}")),
    };
    session.hold_against_log(&mut case);
    session.finish("chaos", NO_FACTS, vec![case])
}

/// Does with a guest's leavings everything that the other scenarios do with theirs.
fn read(run: &GuestRun) {
    let _ = (guest_verdict(run), autopsy(run));
    let _ = run.vcpus.iter().map(facts).collect::<Vec<_>>();
    for vcpu in &run.vcpus {
        let ticks = vcpu.records.iter().filter_map(|r| match r.body()? {
            Body::Summary(summary) => Some(summary.max_ticks),
            Body::Element(element) => Some(element.ticks),
            Body::Mismatch(_) | Body::Exception(_) | Body::RaceCount(_) => None,
        });
        let _ = stats::timing(ticks.collect(), vcpu.cntfrq_el0);
        let _ = stats::ns(run.boot.ticks, vcpu.cntfrq_el0);
    }
}
