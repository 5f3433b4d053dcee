//! The run of `chaos`: one hostile guest after another. A pass means that faultline read what each of them left.

use std::time::Duration;

use abi::record::Body;
use guest::report::{End, GuestRun};
use guest::spec::GuestSpec;
use klog::parser::Parser;
use record::case::CaseResult;
use record::journal::Entry;
use record::result::VcpuFacts;
use record::status::{Status, Verdict};
use units::stats;
use vmm::layout;

use crate::chaos::args::Args;
use crate::chaos::findings::Findings;
use crate::chaos::program::{self, Targets};
use crate::runner::ending::{autopsy, bad_end, facts, progress};
use crate::runner::observer::SignalWatch;
use crate::runner::session::{Build, Error, Finished, Session};

/// Time limit of one guest. Some of them wait forever.
const LIMIT: Duration = Duration::from_secs(2);
/// Length in bytes of the channel in a guest without regions: a whole page of the largest size.
const CHANNEL_BYTES: u64 = 64 << 10;

/// Values reported by hostile guests are not trusted and are left out of the result.
const NO_FACTS: Vec<VcpuFacts> = Vec::new();

/// Runs the scenario.
///
/// # Errors
///
/// Returns the reason if the run ends without a verdict. No guest can be that reason.
pub fn run(args: &Args, build: &Build) -> Result<Finished, Error> {
    let image = build.image(&args.common)?;
    vmm::check(args.vcpus)?;
    let mut session = Session::begin("chaos", &args.common, build)?;
    let mut case = CaseResult { rounds: args.runs, ..CaseResult::not_run("chaos", args.vcpus) };
    session.journal(&Entry::Case { name: "chaos".into(), before: Box::new(case.clone()) })?;
    let bar = progress(&format!("chaos, {} guests from seed {}", args.runs, args.seed));
    let targets = Targets {
        channel: layout::CHANNEL,
        channel_bytes: CHANNEL_BYTES,
        doorbell: layout::DOORBELL,
        uart: layout::UART,
    };
    let (mut tally, mut parser) = (Findings::default(), Parser::new());
    for seed in (args.seed..).take(args.runs as usize) {
        let spec = GuestSpec { ctr: args.common.guest_ctr, ..program::guest(seed, args.vcpus, &targets) };
        let run = match vmm::run(&spec, &image, LIMIT, &mut SignalWatch(&session)) {
            Err(error) if error.is_lack() => {
                bar.finish_and_clear();
                case.verdict = Verdict::new(Status::Skip, error.to_string());
                return session.finish(NO_FACTS, vec![case]);
            }
            run => run?,
        };
        read(&run);
        tally.records += run.vcpus.iter().map(|vcpu| vcpu.records.len() as u64).sum::<u64>();
        match run.end {
            End::PoweredOff => tally.powered_off += 1,
            End::Trapped(_) => tally.trapped += 1,
            End::TimedOut => tally.timed_out += 1,
            End::Interrupted => break,
        }
        session.read_kmsg(&mut parser)?;
        bar.tick();
    }
    bar.finish_and_clear();
    case.complaints = session.complaints(&mut parser)?;
    let Findings { powered_off: off, trapped, timed_out, records } = tally;
    case.findings = record::findings::StoredFindings::of(&tally);
    let counts = format!(
        "{off} powered off, {trapped} were stopped at something impossible, {timed_out} at the time limit; {records} records read"
    );
    case.verdict = match off + trapped + timed_out {
        all if all == args.runs => Verdict::new(Status::Pass, format!("{all} hostile guests: {counts}")),
        all => Verdict::new(Status::Error, format!("interrupted after {all} hostile guests: {counts}")),
    };
    session.check_against_log(&mut case);
    session.finish(NO_FACTS, vec![case])
}

/// Reads everything that a guest left, with the functions that other scenarios use.
fn read(run: &GuestRun) {
    let _ = (bad_end(run), autopsy(run));
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
