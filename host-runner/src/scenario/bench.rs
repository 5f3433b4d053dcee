//! What scenarios over kinds of memory share: which blocks, their guests, and what every case's result holds.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use abi::Record;
use abi::record::Element;

use super::observer::{Observed, Observer, Setup};
use super::outcome::{autopsy, facts, guest_verdict};
use super::session::{self, Error, Session, Step};
use crate::commands::run::Common;
use crate::evidence::detector::Detector;
use crate::guest::{Backing, End, GuestRun, GuestSpec, trouble};
use crate::plan::blocks::{Block, HostBlocks, Missing, mapped_bytes};
use crate::result::{CaseResult, Predicted, Status, Timing, TracingCost, VcpuFacts, Verdict};
use crate::verdict::Context;
use crate::{counting, stats, store, vmm};

/// Cases of one run.
pub struct Bench<'a> {
    /// Name of the scenario.
    pub name: &'static str,
    /// Options of every scenario.
    pub common: &'a Common,
    image: Vec<u8>,
    /// Cases before the one under way.
    pub index: usize,
    /// What the guest read of its CPUs, from the guest with the most of them.
    pub vcpus: Vec<VcpuFacts>,
}

/// A kind of memory made ready.
pub struct Ground {
    /// The host, once pools are filled.
    pub host: HostBlocks,
    /// What KVM should map at once, in bytes.
    pub block_bytes: u64,
    /// Region size in bytes.
    pub region_bytes: u64,
    /// What stands behind it.
    pub backing: Backing,
}

/// A guest that ran.
pub struct Ran {
    /// What it left behind.
    pub run: GuestRun,
    /// What was collected around it.
    pub seen: Observed,
    /// What its verdict needs besides.
    pub context: Context,
    /// The verdict of a guest that did not end well.
    pub trouble: Option<Verdict>,
}

impl Ran {
    /// Returns the frequency of the guest's counter in Hz.
    pub fn hz(&self) -> u64 {
        self.run.vcpus.first().map_or(1, |vcpu| vcpu.cntfrq_el0)
    }

    /// Returns times of the elements with this tag in the first `rounds` rounds, which were not traced.
    pub fn timing(&self, tag: u32, rounds: u64) -> Option<Timing> {
        self.timing_of(tag, 0..rounds)
    }

    fn timing_of(&self, tag: u32, rounds: Range<u64>) -> Option<Timing> {
        let records = records(&self.run).filter(|r| r.tag == tag && rounds.contains(&u64::from(r.pass)));
        stats::timing(records.filter_map(Record::element).map(|element| element.ticks).collect(), self.hz())
    }

    /// Returns what tracing added to the elements with this tag, where the rounds after the first `rounds` were traced.
    pub fn tracing_cost(&self, tag: u32, rounds: u64) -> Option<TracingCost> {
        let traced_ns = self.timing_of(tag, rounds..u64::MAX)?.ns.p50;
        Some(TracingCost { untraced_ns: self.timing(tag, rounds)?.ns.p50, traced_ns })
    }
}

/// Returns the records of all vCPUs of a guest.
pub fn records(run: &GuestRun) -> impl Iterator<Item = &Record> {
    run.vcpus.iter().flat_map(|vcpu| &vcpu.records)
}

impl<'a> Bench<'a> {
    /// Returns a bench once KVM is known to give that many vCPUs.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn new(name: &'static str, common: &'a Common, vcpus: u64) -> Result<Self, Error> {
        let image = session::payload(common)?;
        vmm::check(vcpus)?;
        Ok(Self { name, common, image, index: 0, vcpus: Vec::new() })
    }

    /// Returns the guest's image.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Keeps what a guest read of its CPUs, if it has the most so far.
    pub fn learn(&mut self, run: &GuestRun) {
        if self.vcpus.len() < run.vcpus.len() {
            self.vcpus = run.vcpus.iter().map(facts).collect();
        }
    }

    /// Returns the round to trace when `rounds` are timed before it.
    pub fn traced(&self, rounds: u64) -> Option<u64> {
        (!self.common.no_trace).then_some(rounds)
    }

    /// Makes a kind of memory ready, or says what is missing.
    ///
    /// # Errors
    ///
    /// If a setting cannot be changed.
    pub fn ground(
        &self,
        session: &mut Session,
        block: Block,
        region_bytes: impl Fn(&HostBlocks) -> u64,
    ) -> Result<Result<Ground, Missing>, Error> {
        let mut host = session::host_blocks();
        if let (true, Ok(Backing::Hugetlb(bytes))) = (self.common.hugepages, block.backing(&host)) {
            session.fill_pool(bytes, region_bytes(&host).div_ceil(bytes))?;
            host = session::host_blocks();
        }
        let region_bytes = region_bytes(&host);
        let ready = || -> Result<(u64, Backing), Missing> {
            block.check(region_bytes, &host)?;
            Ok((mapped_bytes(block.bytes(&host)?, host.page_bytes), block.backing(&host)?))
        };
        Ok(ready().map(|(block_bytes, backing)| Ground { host, block_bytes, region_bytes, backing }))
    }

    /// Runs one guest and fills in what every case's result holds. `None` if it could not be had, as `result` says.
    ///
    /// # Errors
    ///
    /// What kept the guest from starting, or the evidence from being read.
    pub fn run(
        &mut self,
        session: &mut Session,
        ground: &Ground,
        spec: &GuestSpec,
        setup: Setup,
        result: &mut CaseResult,
    ) -> Result<Option<Ran>, Error> {
        result.block_bytes = ground.block_bytes;
        result.region_bytes = ground.region_bytes;
        session.journal(&Step::Case { block: result.name(), plan: Box::new(result.clone()) })?;
        let phase = counting::phase_of(self.index);
        let mut observer = Observer::new(session, Setup { phase, ..setup });
        let limit = Duration::from_secs(self.common.time_limit);
        let spec = GuestSpec { ctr: self.common.guest_ctr, ..spec.clone() };
        let run = match vmm::run(&spec, &self.image, limit, &mut observer) {
            Ok(run) => run,
            // The pool may have been taken since it was looked at, and memory may be short for other reasons.
            Err(error) if error.is_lack() => {
                result.verdict = Verdict::new(Status::Skip, error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let (session, mut seen) = observer.finish()?;
        result.complaints = std::mem::take(&mut seen.complaints);
        result.host = seen.host_side(ground.region_bytes);
        let context = self.context(session, ground, &run, &seen);
        self.fill(session, ground, &run, result)?;
        let trouble = match run.end {
            End::Interrupted if seen.time_over => trouble(&run).map(|what| Verdict::new(Status::Error, what)),
            _ => guest_verdict(&run),
        };
        if trouble.is_some() {
            result.autopsy = autopsy(&run);
        }
        Ok(Some(Ran { run, seen, context, trouble }))
    }

    /// Holds a case against the kernel log, and notes in the journal that it is over.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn done(&mut self, session: &mut Session, case: &mut CaseResult) -> Result<(), Error> {
        self.index += 1;
        session.hold_against_log(case);
        session.journal(&Step::CaseDone {
            block: case.name(),
            status: case.verdict.status,
            result: Box::new(case.clone()),
            vcpus: self.vcpus.clone(),
        })
    }

    fn context(&self, session: &mut Session, ground: &Ground, run: &GuestRun, seen: &Observed) -> Context {
        for reason in seen.absent.iter().chain(&run.notes) {
            if !session.evidence.absent.contains(reason) {
                session.evidence.absent.push(reason.clone());
            }
        }
        session.evidence.trace_lost += seen.lost();
        let detector = Detector::read(Path::new("/"));
        Context {
            page_bytes: ground.host.page_bytes,
            dic: run.vcpus.first().is_some_and(|vcpu| vcpu.machine_ctr().dic()),
            unwatched: session.unwatched(&detector, &run.cpus),
            kmsg_lost: session.evidence.kmsg_lost,
            untraced: seen.untraced(),
            trace_lost: seen.lost(),
        }
    }

    fn fill(
        &mut self,
        session: &Session,
        ground: &Ground,
        run: &GuestRun,
        result: &mut CaseResult,
    ) -> Result<(), Error> {
        self.learn(run);
        if let Some(boot) = run.vcpus.first() {
            result.predicted = predicted(boot.machine_ctr(), ground.block_bytes, ground.host.page_bytes);
        }
        result.descriptor_writes = run.boot.descriptor_writes;
        result.boot_ticks = run.boot.ticks;
        // Summaries of fetches alone count mismatches: no other op is asked to check.
        result.mismatches = records(run).filter_map(Record::summary).map(|summary| summary.mismatches).sum();
        if !run.console.is_empty() {
            let mut console = session.dir.file("guest-console.log")?;
            // Kept for people; what matters of it is in the verdict.
            let _ = console.write_all(run.console.as_bytes());
        }
        Ok(())
    }
}

/// Returns the kinds of memory to run on: those asked for, or all that fit.
///
/// # Errors
///
/// If `region` is not a multiple of a block that was asked for.
pub fn blocks(
    asked: &[Block],
    region: Option<crate::size::Size>,
    region_bytes: impl Fn(Block, &HostBlocks) -> u64,
) -> Result<Vec<Block>, Error> {
    let host = session::host_blocks();
    if asked.is_empty() {
        return Ok(session::all_blocks(&host, |block| {
            let bytes = region_bytes(block, &host);
            bytes > 0 && block.check(bytes, &host).is_ok()
        }));
    }
    for block in asked {
        if let (Some(region), Ok(bytes)) = (region, block.bytes(&host))
            && !region.0.is_multiple_of(bytes)
        {
            return Err(Error::Usage(format!("--region {region} is not a multiple of {block} blocks")));
        }
    }
    Ok(asked.to_vec())
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

/// Appends lines to a file of samples, which begins with `head`.
///
/// # Errors
///
/// If it cannot be written.
pub fn append(session: &Session, name: &str, head: &str, lines: impl Iterator<Item = String>) -> Result<(), Error> {
    let path = session.dir.path().join(name);
    let write = || -> std::io::Result<()> {
        let new = !path.exists();
        let mut file = std::io::BufWriter::new(std::fs::OpenOptions::new().create(true).append(true).open(&path)?);
        if new {
            writeln!(file, "{head}")?;
        }
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.flush()
    };
    write().map_err(|error| Error::Store(store::Error::Write(path.clone(), error)))
}

/// Appends every timed element to `samples.csv`, with the name that `op` gives its tag.
///
/// # Errors
///
/// If it cannot be written.
pub fn write_samples(
    session: &Session,
    block: Block,
    run: &GuestRun,
    op: impl Fn(u32) -> &'static str,
) -> Result<(), Error> {
    let lines = run.vcpus.iter().enumerate().flat_map(|(n, vcpu)| {
        let elements = vcpu.records.iter().filter_map(|r| Some((r, r.element()?)));
        let op = &op;
        elements.map(move |(r, Element { ipa, ticks, began_ticks, .. })| {
            format!("{block},{n},{},{},{ipa:#x},{ticks},{},{began_ticks}", r.pass, op(r.tag), r.raw_outcome())
        })
    });
    append(session, "samples.csv", "block,vcpu,round,op,ipa,ticks,outcome,began", lines)
}
