//! Runs `relax`: each kind of block in a guest of its own, first timed, then once more traced.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use abi::{Kind, Op};
use indicatif::ProgressBar;

use super::outcome::{autopsy, facts, guest_verdict, progress};
use super::session::{self, Error, Session, Step};
use crate::commands::run::Relax;
use crate::evidence::attribution::attribute_all;
use crate::evidence::detector::Detector;
use crate::evidence::message::Parser;
use crate::evidence::trace::{GuestFault, Trace, TraceLog};
use crate::guest::{Backing, GuestRun};
use crate::plan::blocks::{Block, HostBlocks, mapped_bytes};
use crate::plan::event;
use crate::plan::relax::{Case, tag};
use crate::result::{
    CaseResult, Complaint, FaultCount, HostSide, Maintenance, Predicted, Status, Timing, TracingCost, VcpuFacts,
    Verdict,
};
use crate::verdict::{self, Context};
use crate::{recover, stats, vmm};

/// Runs the scenario and returns the exit code of its verdict.
///
/// # Errors
///
/// What kept it from a verdict.
pub fn run(args: &Relax) -> Result<u8, Error> {
    let image = session::payload(&args.common)?;
    vmm::check(args.vcpus)?;
    let mut session = Session::begin(&args.common)?;
    let mut scenario = Scenario { args, image, vcpus: Vec::new(), cases: Vec::new() };
    match scenario.all_cases(&mut session) {
        Ok(()) => session.finish("relax", scenario.vcpus, scenario.cases),
        Err(error) => {
            session.gave_up(&error);
            Err(error)
        }
    }
}

struct Scenario<'a> {
    args: &'a Relax,
    image: Vec<u8>,
    vcpus: Vec<VcpuFacts>,
    cases: Vec<CaseResult>,
}

/// What is collected while a guest runs.
struct Observer<'a> {
    session: &'a mut Session,
    parser: Parser,
    trace: Option<Trace>,
    log: TraceLog,
    /// Rounds begun.
    round: u64,
    /// The round to trace, if any.
    traced: Option<u64>,
    absent: Vec<String>,
    failure: Option<Error>,
    bar: ProgressBar,
}

impl vmm::Watch for Observer<'_> {
    fn event(&mut self, op: &Op, memory: &vmm::Memory) {
        if op.args[0] != event::ROUND {
            return;
        }
        if self.round > 0
            && let Err(error) = memory.unmap_stage2(0)
        {
            self.absent.push(format!("round {}: stage 2 could not be unmapped: {error}", self.round));
        }
        if self.traced == Some(self.round) {
            match Trace::open() {
                Ok(trace) => {
                    self.absent
                        .extend(trace.absent().iter().map(|part| format!("trace of {}: {}", part.part, part.why)));
                    self.trace = Some(trace);
                }
                Err(error) => self.absent.push(error.to_string()),
            }
        }
        self.round += 1;
    }

    fn tick(&mut self) {
        self.bar.tick();
        if let Err(error) = self.session.read_kmsg(&mut self.parser) {
            self.failure.get_or_insert(error);
        }
        self.read_trace();
    }

    fn interrupted(&self) -> bool {
        self.session.interrupted() || self.failure.is_some()
    }
}

impl Observer<'_> {
    fn read_trace(&mut self) {
        let Some(trace) = &mut self.trace else { return };
        match trace.drain() {
            Ok(log) => {
                self.log.faults.extend(log.faults);
                self.log.icache.extend(log.icache);
                self.log.dcache.extend(log.dcache);
                self.log.lost += log.lost + log.malformed;
            }
            Err(error) => self.absent.push(format!("trace: {error}")),
        }
    }
}

impl Scenario<'_> {
    fn all_cases(&mut self, session: &mut Session) -> Result<(), Error> {
        let blocks = match &self.args.resume {
            Some(dead) => self.resume(session, dead)?,
            None => self.blocks()?,
        };
        session.journal(&Step::Plan { blocks: blocks.clone() })?;
        for block in blocks {
            let case = self.case(session, block)?;
            session.journal(&Step::CaseDone {
                block: block.to_string(),
                status: case.verdict.status,
                result: Box::new(case.clone()),
                vcpus: self.vcpus.clone(),
            })?;
            self.cases.push(case);
            if session.interrupted() {
                break;
            }
        }
        Ok(())
    }

    /// Takes over what a dead run had found, the case that killed it included, and returns what it had not come to.
    fn resume(&mut self, session: &mut Session, dead: &Path) -> Result<Vec<Block>, Error> {
        let (before, left) = recover::dead_run(dead).map_err(|error| Error::Usage(error.to_string()))?;
        session.resumed_from = Some(before.run.id);
        session.evidence.notes.extend(before.evidence.notes);
        self.vcpus = before.vcpus;
        self.cases = before.cases;
        self.cases.truncate(self.cases.len().saturating_sub(left.len()));
        Ok(left)
    }

    /// Returns the kinds of memory to run on.
    fn blocks(&self) -> Result<Vec<Block>, Error> {
        let host = session::host_blocks();
        if self.args.blocks.is_empty() {
            return Ok(session::all_blocks(&host, |block| {
                let bytes = self.region_bytes(block, &host);
                bytes > 0 && block.check(bytes, &host).is_ok()
            }));
        }
        for block in &self.args.blocks {
            if let (Some(region), Ok(bytes)) = (self.args.region, block.bytes(&host))
                && !region.0.is_multiple_of(bytes)
            {
                return Err(Error::Usage(format!("--region {region} is not a multiple of {block} blocks")));
            }
        }
        Ok(self.args.blocks.clone())
    }

    fn region_bytes(&self, block: Block, host: &HostBlocks) -> u64 {
        let Ok(bytes) = block.bytes(host) else { return 0 };
        self.args.region.map_or_else(|| Case::default_region_bytes(bytes, self.args.vcpus, self.args.sharing), |r| r.0)
    }

    fn plan(&self, block: Block, host: &HostBlocks) -> Result<Case, crate::plan::blocks::Missing> {
        let region_bytes = self.region_bytes(block, host);
        block.check(region_bytes, host)?;
        let backing = block.backing(host)?;
        let block_bytes = mapped_bytes(block.bytes(host)?, host.page_bytes);
        let (vcpus, sharing) = (self.args.vcpus, self.args.sharing);
        let traced = u64::from(!self.args.common.no_trace);
        Ok(Case { block_bytes, region_bytes, backing, vcpus, sharing, rounds: self.args.rounds + traced })
    }

    fn case(&mut self, session: &mut Session, block: Block) -> Result<CaseResult, Error> {
        let mut host = session::host_blocks();
        if let (true, Ok(Backing::Hugetlb(bytes))) = (self.args.common.hugepages, block.backing(&host)) {
            session.fill_pool(bytes, self.region_bytes(block, &host).div_ceil(bytes))?;
            host = session::host_blocks();
        }
        let mut result = self.empty(block);
        let case = match self.plan(block, &host) {
            Ok(case) => case,
            Err(missing) => {
                result.verdict = Verdict::new(Status::Skip, missing.to_string());
                return Ok(result);
            }
        };
        result.block_bytes = case.block_bytes;
        result.region_bytes = case.region_bytes;
        session.journal(&Step::Case { block: block.to_string(), plan: Box::new(result.clone()) })?;
        let bar = progress(&format!("relax {block}, {} vCPUs", case.vcpus));
        let mut observer = Observer {
            session,
            parser: Parser::new(),
            trace: None,
            log: TraceLog::default(),
            round: 0,
            traced: (!self.args.common.no_trace).then_some(self.args.rounds),
            absent: Vec::new(),
            failure: None,
            bar,
        };
        let limit = Duration::from_secs(self.args.common.time_limit);
        let run = match vmm::run(&case.guest(), &self.image, limit, &mut observer) {
            Ok(run) => run,
            // The pool may have been taken since it was looked at, and memory may be short for other reasons.
            Err(error @ vmm::Error::Memory(..)) => {
                result.verdict = Verdict::new(Status::Skip, error.to_string());
                return Ok(result);
            }
            Err(error) => return Err(error.into()),
        };
        self.collect(&mut result, &case, &run, observer, &host)?;
        Ok(result)
    }

    fn empty(&self, block: Block) -> CaseResult {
        CaseResult { rounds: self.args.rounds, ..CaseResult::not_run(block, self.args.vcpus, self.args.sharing) }
    }

    /// Turns what the guest and the observer saw into the case's result.
    fn collect(
        &mut self,
        result: &mut CaseResult,
        case: &Case,
        run: &GuestRun,
        mut observer: Observer<'_>,
        host: &HostBlocks,
    ) -> Result<(), Error> {
        vmm::Watch::tick(&mut observer);
        observer.bar.finish_and_clear();
        let Observer { session, mut parser, trace, log, absent, failure, .. } = observer;
        let traced = trace.is_some();
        drop(trace);
        if let Some(error) = failure {
            return Err(error);
        }
        result.complaints =
            parser.finish().into_iter().map(|event| Complaint { attributions: attribute_all(&event), event }).collect();
        result.host = traced.then(|| host_side(&log, case));
        let untraced = (!traced).then(|| absent.first().cloned().unwrap_or_else(|| "--no-trace".into()));
        for reason in absent.into_iter().chain(run.notes.iter().cloned()) {
            if !session.evidence.absent.contains(&reason) {
                session.evidence.absent.push(reason);
            }
        }
        session.evidence.trace_lost += log.lost;
        if self.vcpus.is_empty() {
            self.vcpus = run.vcpus.iter().map(facts).collect();
        }
        let Some(boot) = run.vcpus.first() else { return Ok(()) };
        result.predicted = predicted(boot.ctr(), case.block_bytes, host.page_bytes);
        result.descriptor_writes = run.boot.descriptor_writes;
        result.boot_ticks = run.boot.ticks;
        result.mismatches = summaries(run, |tag| tag == tag::EXEC || tag == tag::RESIDENT)
            .fold(0, |sum, r| sum.saturating_add(r.data[1]));
        let rounds = self.args.rounds;
        let timed = |wanted| timing(run, wanted, rounds, boot.cntfrq_el0);
        (result.touch, result.exec, result.resident) = (timed(tag::TOUCH), timed(tag::EXEC), timed(tag::RESIDENT));
        result.tracing_cost = tracing_cost(run, rounds, boot.cntfrq_el0);
        write_samples(session, result.block, run)
            .map_err(|error| Error::Store(crate::store::Error::Write(session.dir.path().join("samples.csv"), error)))?;
        if !run.console.is_empty() {
            let mut console = session.dir.file("guest-console.log")?;
            // Kept for people; what matters of it is in the verdict.
            let _ = console.write_all(run.console.as_bytes());
        }
        result.verdict = match guest_verdict(run) {
            Some(verdict) => {
                result.autopsy = autopsy(run);
                verdict
            }
            None => {
                let detector = Detector::read(Path::new("/"));
                let context = Context {
                    page_bytes: host.page_bytes,
                    dic: boot.ctr().dic(),
                    unwatched: session.unwatched(&detector, &run.cpus),
                    kmsg_lost: session.evidence.kmsg_lost,
                    untraced,
                    trace_lost: log.lost,
                };
                verdict::case(result, &context)
            }
        };
        Ok(())
    }
}

fn summaries(run: &GuestRun, wanted: impl Fn(u32) -> bool) -> impl Iterator<Item = &abi::Record> {
    let records = run.vcpus.iter().flat_map(|vcpu| &vcpu.records);
    records.filter(move |r| r.kind == Kind::Summary as u16 && wanted(r.tag))
}

/// Times of the elements with this tag in the rounds that were not traced.
fn timing(run: &GuestRun, tag: u32, rounds: u64, hz: u64) -> Option<Timing> {
    timing_of(run, tag, 0..rounds, hz)
}

fn timing_of(run: &GuestRun, tag: u32, rounds: Range<u64>, hz: u64) -> Option<Timing> {
    let records = run.vcpus.iter().flat_map(|vcpu| &vcpu.records);
    let wanted = records.filter(|r| r.kind == Kind::Element as u16 && r.tag == tag && rounds.contains(&r.pass.into()));
    stats::timing(wanted.map(|r| r.data[1]).collect(), hz)
}

/// Compares the exec faults of the traced round, the last one, with those of the others.
fn tracing_cost(run: &GuestRun, rounds: u64, hz: u64) -> Option<TracingCost> {
    let traced_ns = timing_of(run, tag::EXEC, rounds..u64::MAX, hz)?.ns.p50;
    Some(TracingCost { untraced_ns: timing(run, tag::EXEC, rounds, hz)?.ns.p50, traced_ns })
}

/// Predicts the I-cache operations of one exec fault, as `__invalidate_icache_guest_page` does them.
fn predicted(ctr: abi::Ctr, block_bytes: u64, page_bytes: u64) -> Predicted {
    if ctr.dic() {
        return Predicted::default();
    }
    if ctr.l1ip() != abi::ctr::L1Ip::Pipt {
        return Predicted { by_line: 1, capped: 1 };
    }
    let lines = block_bytes / ctr.imin_line_bytes();
    // MAX_DVM_OPS is PTRS_PER_PTE since v6.7.
    let cap = page_bytes / 8;
    Predicted { by_line: lines, capped: if lines > cap { 1 } else { lines } }
}

fn host_side(log: &TraceLog, case: &Case) -> HostSide {
    let region = case.region_ipa()..case.region_ipa() + case.region_bytes;
    let mut faults: Vec<FaultCount> = Vec::new();
    for fault in log.faults.iter().filter(|fault| region.contains(&fault.ipa)) {
        let named = fault_count(fault);
        let same = |f: &&mut FaultCount| (&f.access, &f.kind, f.level) == (&named.access, &named.kind, named.level);
        match faults.iter_mut().find(same) {
            Some(known) => known.count += 1,
            None => faults.push(named),
        }
    }
    HostSide { faults, icache: maintenance(&log.icache), dcache: maintenance(&log.dcache) }
}

fn fault_count(fault: &GuestFault) -> FaultCount {
    use crate::evidence::trace::FaultKind;
    let kind = match fault.kind {
        FaultKind::Translation => "translation",
        FaultKind::Permission => "permission",
        FaultKind::AccessFlag => "access_flag",
        FaultKind::Other => "other",
    };
    let access = if fault.is_fetch { "fetch" } else { "data" };
    FaultCount { access: access.into(), kind: kind.into(), level: fault.level, count: 1 }
}

fn maintenance(calls: &[crate::evidence::trace::Maintenance]) -> Option<Maintenance> {
    Some(Maintenance {
        calls: calls.len() as u64,
        max_bytes: calls.iter().map(|c| c.size).max()?,
        max_ns: calls.iter().map(|c| c.duration_ns).max()?,
        total_ns: calls.iter().map(|c| c.duration_ns).sum(),
    })
}

/// Appends every timed element to `samples.csv`.
fn write_samples(session: &Session, block: Block, run: &GuestRun) -> std::io::Result<()> {
    let path = session.dir.path().join("samples.csv");
    let new = !path.exists();
    let mut file = std::io::BufWriter::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?);
    if new {
        writeln!(file, "block,vcpu,round,op,ipa,ticks,outcome,began")?;
    }
    for (n, vcpu) in run.vcpus.iter().enumerate() {
        for r in vcpu.records.iter().filter(|r| r.kind == Kind::Element as u16) {
            let op = match r.tag {
                tag::TOUCH => "touch",
                tag::EXEC => "exec",
                _ => "resident",
            };
            let [ipa, ticks, _, _, _, began] = r.data;
            writeln!(file, "{block},{n},{},{op},{ipa:#x},{ticks},{},{began}", r.pass, r.outcome)?;
        }
    }
    file.flush()
}
