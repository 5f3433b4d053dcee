//! Runs the cases of scenarios over kinds of memory: which kinds, their guests, and what every case's result holds.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use abi::Record;
use abi::record::Element;
use guest::run::{Backing, End, GuestRun, GuestSpec, trouble};
use hostfacts::memory::{HostBlocks, host_blocks};
use hostfacts::phase::phase_of;
use record::case::{Boot, CaseResult, TracingCost};
use record::journal::Entry;
use record::maintenance::Predicted;
use record::memory::{MemoryKind, mapped_bytes};
use record::result::VcpuFacts;
use record::status::{Status, Verdict};
use record::store;
use units::size::Size;
use units::stats::{self, Timing};

use crate::memory::{self, Missing};
use crate::options::Common;
use crate::runner::ending::{autopsy, facts, guest_verdict};
use crate::runner::observer::{Observation, Observer, Setup};
use crate::runner::session::{Build, Error, Session};
use crate::verdict::Context;

/// Cases of one run.
pub struct CaseRunner<'a> {
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
pub struct PreparedMemory {
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
pub struct CaseRun {
    /// What it left behind.
    pub run: GuestRun,
    /// What was collected around it.
    pub seen: Observation,
    /// What its verdict needs besides.
    pub context: Context,
    /// The verdict of a guest that did not end well.
    pub trouble: Option<Verdict>,
}

impl CaseRun {
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

impl<'a> CaseRunner<'a> {
    /// Returns a runner once KVM is known to give that many vCPUs.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn new(name: &'static str, common: &'a Common, build: &Build, vcpus: u64) -> Result<Self, Error> {
        let image = build.image(common)?;
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
    pub fn prepare(
        &self,
        session: &mut Session,
        block: MemoryKind,
        region_bytes: impl Fn(&HostBlocks) -> u64,
    ) -> Result<Result<PreparedMemory, Missing>, Error> {
        let mut host = host_blocks();
        if let (true, Ok(Backing::Hugetlb(bytes))) = (self.common.hugepages, memory::backing(block, &host)) {
            session.fill_pool(bytes, region_bytes(&host).div_ceil(bytes))?;
            host = host_blocks();
        }
        let region_bytes = region_bytes(&host);
        let ready = || -> Result<(u64, Backing), Missing> {
            memory::check(block, region_bytes, &host)?;
            Ok((mapped_bytes(memory::block_bytes(block, &host)?, host.page_bytes), memory::backing(block, &host)?))
        };
        Ok(ready().map(|(block_bytes, backing)| PreparedMemory { host, block_bytes, region_bytes, backing }))
    }

    /// Runs one guest and fills in what every case's result holds. `None` if it could not be had, as `result` says.
    ///
    /// # Errors
    ///
    /// What kept the guest from starting, or the evidence from being read.
    pub fn run(
        &mut self,
        session: &mut Session,
        memory: &PreparedMemory,
        spec: &GuestSpec,
        setup: Setup,
        result: &mut CaseResult,
    ) -> Result<Option<CaseRun>, Error> {
        if let Some(known) = &mut result.memory {
            (known.block_bytes, known.region_bytes) = (memory.block_bytes, memory.region_bytes);
        }
        session.journal(&Entry::Case { name: result.name.clone(), before: Box::new(result.clone()) })?;
        let phase = phase_of(self.index);
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
        result.host = seen.host_side(memory.region_bytes);
        let context = self.context(session, memory, &run, &seen);
        self.fill(session, memory, &run, result)?;
        let trouble = match run.end {
            End::Interrupted if seen.time_over => trouble(&run).map(|what| Verdict::new(Status::Error, what)),
            _ => guest_verdict(&run),
        };
        if trouble.is_some() {
            result.autopsy = autopsy(&run);
        }
        Ok(Some(CaseRun { run, seen, context, trouble }))
    }

    /// Holds a case against the kernel log, and notes in the journal that it is over.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn done(&mut self, session: &mut Session, case: &mut CaseResult) -> Result<(), Error> {
        self.index += 1;
        session.hold_against_log(case);
        session.journal(&Entry::CaseDone {
            name: case.name.clone(),
            status: case.verdict.status,
            result: Box::new(case.clone()),
            vcpus: self.vcpus.clone(),
        })
    }

    fn context(&self, session: &mut Session, memory: &PreparedMemory, run: &GuestRun, seen: &Observation) -> Context {
        for reason in seen.absent.iter().chain(&run.notes) {
            if !session.evidence.absent.contains(reason) {
                session.evidence.absent.push(reason.clone());
            }
        }
        session.evidence.trace_lost += seen.lost();
        let detector = hostfacts::detector::read(Path::new("/"));
        Context {
            page_bytes: memory.host.page_bytes,
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
        memory: &PreparedMemory,
        run: &GuestRun,
        result: &mut CaseResult,
    ) -> Result<(), Error> {
        self.learn(run);
        if let Some(boot) = run.vcpus.first() {
            result.predicted = Some(predicted(boot.machine_ctr(), memory.block_bytes, memory.host.page_bytes));
        }
        result.boot = Some(Boot { descriptor_writes: run.boot.descriptor_writes, ticks: run.boot.ticks });
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
    asked: &[MemoryKind],
    region: Option<Size>,
    region_bytes: impl Fn(MemoryKind, &HostBlocks) -> u64,
) -> Result<Vec<MemoryKind>, Error> {
    let host = host_blocks();
    if asked.is_empty() {
        return Ok(memory::all(&host, |block| {
            let bytes = region_bytes(block, &host);
            bytes > 0 && memory::check(block, bytes, &host).is_ok()
        }));
    }
    for block in asked {
        if let (Some(region), Ok(bytes)) = (region, memory::block_bytes(*block, &host))
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

/// Appends rows to a CSV file of the run directory. A new file begins with the names of the columns.
///
/// # Errors
///
/// If the file cannot be written.
pub fn append<const N: usize>(
    session: &Session,
    name: &str,
    columns: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<(), Error> {
    let path = session.dir.path().join(name);
    let write = || -> csv::Result<()> {
        let is_new = !path.exists();
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let mut writer = csv::Writer::from_writer(file);
        if is_new {
            writer.write_record(columns)?;
        }
        for row in rows {
            writer.write_record(row)?;
        }
        Ok(writer.flush()?)
    };
    write().map_err(|error| Error::Store(store::Error::Write(path.clone(), error.into())))
}

/// Appends every timed element to `samples.csv`, with the name that `op` gives its tag.
///
/// # Errors
///
/// If it cannot be written.
pub fn write_samples(
    session: &Session,
    block: MemoryKind,
    run: &GuestRun,
    op: impl Fn(u32) -> &'static str,
) -> Result<(), Error> {
    let rows = run.vcpus.iter().enumerate().flat_map(|(n, vcpu)| {
        let elements = vcpu.records.iter().filter_map(|r| Some((r, r.element()?)));
        let op = &op;
        elements.map(move |(r, Element { ipa, ticks, began_ticks, .. })| {
            let numbers = [u64::from(r.pass), ticks, u64::from(r.raw_outcome()), began_ticks];
            let [round, ticks, outcome, began] = numbers.map(|number| number.to_string());
            [block.to_string(), n.to_string(), round, op(r.tag).into(), format!("{ipa:#x}"), ticks, outcome, began]
        })
    });
    let columns = ["block", "vcpu", "round", "op", "ipa", "ticks", "outcome", "began"];
    append(session, "samples.csv", columns, rows)
}

/// Returns the name of a case for formats: the kind of memory and, where several vCPUs ran, their number and what they
/// shared.
pub fn racers_id(kind: MemoryKind, vcpus: u64, how: &str) -> String {
    if vcpus > 1 { format!("{kind}.{vcpus}vcpus-{how}") } else { kind.to_string() }
}
