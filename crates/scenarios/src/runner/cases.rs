//! The cases of scenarios that go over kinds of memory: chooses the kinds, prepares the memory, runs the guest, and
//! fills in the parts of the result that every case has.

use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use abi::Record;
use abi::record::Element;
use guest::region::REGION_IPA;
use guest::report::{End, GuestRun, trouble};
use guest::spec::{Backing, GuestSpec};
use hostfacts::memory::{MemoryKinds, memory_kinds};
use hostfacts::phase::phase_of_case;
use record::case::{Boot, CaseResult, TracingCost};
use record::journal::Entry;
use record::maintenance::Predicted;
use record::memory::{MemoryKind, mapped_bytes};
use record::result::VcpuFacts;
use record::status::{Status, Verdict};
use record::store;
use units::size::Size;
use units::stats::{self, Timing};

use crate::budget::monitor::Surroundings;
use crate::memory::{self, Missing};
use crate::options::Common;
use crate::runner::ending::{autopsy, bad_end, facts};
use crate::runner::observer::{Observation, Observer, Setup};
use crate::runner::session::{Build, Error, Session};
use crate::verdict::Context;

/// The cases of one run.
pub struct CaseRunner<'a> {
    /// Name of the scenario.
    pub name: &'static str,
    /// Options that all scenarios share.
    pub common: &'a Common,
    /// True if hugetlb pools that are too small are enlarged, where this user may do that.
    pub enlarges_pools: bool,
    image: Vec<u8>,
    /// Number of cases that are done.
    pub index: usize,
    /// Identification registers of each vCPU, from the guest with the most vCPUs so far.
    pub vcpus: Vec<VcpuFacts>,
}

/// A kind of memory that is ready for a guest.
pub struct PreparedMemory {
    /// Memory of the host, after the hugetlb pools were enlarged.
    pub host: MemoryKinds,
    /// Size in bytes of the block or page that KVM should map.
    pub block_bytes: u64,
    /// Size of the region in bytes.
    pub region_bytes: u64,
    /// Host memory behind the region.
    pub backing: Backing,
}

/// A guest that ran, with the evidence about it.
pub struct CaseRun {
    /// Records and end of the guest.
    pub run: GuestRun,
    /// Evidence that the host collected meanwhile.
    pub observation: Observation,
    /// Facts of the whole run that the verdict needs.
    pub context: Context,
    /// Verdict, if the guest did not end well.
    pub bad_end: Option<Verdict>,
}

impl CaseRun {
    /// Returns the frequency of the guest's counter in Hz.
    pub fn hz(&self) -> u64 {
        self.run.vcpus.first().map_or(1, |vcpu| vcpu.cntfrq_el0)
    }

    /// Returns the times of the elements with this tag in the first `rounds` rounds, which were not traced.
    pub fn timing(&self, tag: u32, rounds: u64) -> Option<Timing> {
        self.timing_of(tag, 0..rounds)
    }

    fn timing_of(&self, tag: u32, rounds: Range<u64>) -> Option<Timing> {
        let records = records(&self.run).filter(|r| r.tag == tag && rounds.contains(&u64::from(r.pass)));
        stats::timing(records.filter_map(Record::element).map(|element| element.ticks).collect(), self.hz())
    }

    /// Returns the time that tracing added to the elements with this tag. The rounds after the first `rounds` were
    /// traced.
    pub fn tracing_cost(&self, tag: u32, rounds: u64) -> Option<TracingCost> {
        let traced_ns = self.timing_of(tag, rounds..u64::MAX)?.ns.p50;
        Some(TracingCost { untraced_ns: self.timing(tag, rounds)?.ns.p50, traced_ns })
    }
}

/// Returns the records of all vCPUs.
pub fn records(run: &GuestRun) -> impl Iterator<Item = &Record> {
    run.vcpus.iter().flat_map(|vcpu| &vcpu.records)
}

impl<'a> CaseRunner<'a> {
    /// Returns a runner for guests with at most `vcpus` vCPUs.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no guest image, KVM cannot be used, or KVM has fewer vCPUs.
    pub fn new(name: &'static str, common: &'a Common, build: &Build, vcpus: u64) -> Result<Self, Error> {
        let image = build.image(common)?;
        vmm::check(vcpus)?;
        Ok(Self { name, common, enlarges_pools: common.hugepages, image, index: 0, vcpus: Vec::new() })
    }

    /// Returns the guest's image.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Keeps the identification registers that a guest read, if it has more vCPUs than all guests before.
    pub fn learn(&mut self, run: &GuestRun) {
        if self.vcpus.len() < run.vcpus.len() {
            self.vcpus = run.vcpus.iter().map(facts).collect();
        }
    }

    /// Returns the number of the round to trace, which follows `rounds` timed ones; none with `--no-trace`.
    pub fn traced(&self, rounds: u64) -> Option<u64> {
        (!self.common.no_trace).then_some(rounds)
    }

    /// Prepares a kind of memory, or returns the reason if the host has too little of it. It first enlarges the hugetlb
    /// pool, if the runner does that.
    ///
    /// # Errors
    ///
    /// Returns an error if `--hugepages` asks for a pool that cannot be changed.
    pub fn prepare(
        &self,
        session: &mut Session,
        kind: MemoryKind,
        region_bytes: impl Fn(&MemoryKinds) -> u64,
    ) -> Result<Result<PreparedMemory, Missing>, Error> {
        let mut host = memory_kinds();
        let mut enlarged = false;
        if let (true, Ok(Backing::Hugetlb(bytes))) = (self.enlarges_pools, memory::backing(kind, &host)) {
            match session.fill_pool(bytes, region_bytes(&host).div_ceil(bytes)) {
                Ok(()) => enlarged = true,
                Err(error) if self.common.hugepages => return Err(error),
                // The case names the command that enlarges the pool.
                Err(_) => (),
            }
            host = memory_kinds();
        }
        let region_bytes = region_bytes(&host);
        let ready = || -> Result<(u64, Backing), Missing> {
            memory::check(kind, region_bytes, &host).map_err(|missing| match missing {
                Missing::Pool { size, needed, free } if enlarged => Missing::NotFilled { size, needed, free },
                missing => missing,
            })?;
            Ok((mapped_bytes(memory::block_bytes(kind, &host)?, host.page_bytes), memory::backing(kind, &host)?))
        };
        Ok(ready().map(|(block_bytes, backing)| PreparedMemory { host, block_bytes, region_bytes, backing }))
    }

    /// Prepares a kind of memory for a case. If the host has too little of it, the case becomes a skip with the reason.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting cannot be changed.
    pub fn prepare_for(
        &self,
        session: &mut Session,
        kind: MemoryKind,
        region_bytes: impl Fn(&MemoryKinds) -> u64,
        result: &mut CaseResult,
    ) -> Result<Option<PreparedMemory>, Error> {
        let prepared = self.prepare(session, kind, region_bytes)?;
        let skip = |missing: Missing| result.verdict = Verdict::new(Status::Skip, missing.to_string());
        Ok(prepared.map_err(skip).ok())
    }

    /// Runs a case on each kind of memory, until a signal ends the run. `case` gets the cases before it.
    ///
    /// # Errors
    ///
    /// Returns the error of the case, or an error if the journal cannot be written.
    pub fn each_kind(
        &mut self,
        session: &mut Session,
        kinds: Vec<MemoryKind>,
        cases: &mut Vec<CaseResult>,
        mut case: impl FnMut(&mut Self, &mut Session, MemoryKind, &[CaseResult]) -> Result<CaseResult, Error>,
    ) -> Result<(), Error> {
        for kind in kinds {
            let mut result = case(self, session, kind, cases)?;
            self.done(session, &mut result)?;
            cases.push(result);
            if session.interrupted() {
                break;
            }
        }
        Ok(())
    }

    /// Runs one guest and fills in the parts of the result that every case has. Returns `None` if this host cannot
    /// provide the guest, for example for lack of memory; `result` is then a skip with the reason.
    ///
    /// # Errors
    ///
    /// Returns an error if the guest cannot be started, or the evidence cannot be read.
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
        let phase = phase_of_case(self.index);
        let is_judged = setup.traced.is_some();
        let mut observer = Observer::new(session, Setup { phase, ..setup });
        let limit = Duration::from_secs(self.common.time_limit);
        let spec = GuestSpec { ctr: self.common.guest_ctr, ..spec.clone() };
        let run = match vmm::run(&spec, &self.image, limit, &mut observer) {
            Ok(run) => run,
            // Another process may have taken the pages since `prepare`, and memory may be short for other reasons.
            Err(error) if error.is_lack() => {
                result.verdict = Verdict::new(Status::Skip, error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let (session, mut observation) = observer.finish()?;
        result.complaints = std::mem::take(&mut observation.complaints);
        result.host = observation.host_side(memory.region_bytes);
        let dic = run.vcpus.first().is_some_and(|vcpu| vcpu.machine_ctr().dic());
        result.budget = is_judged.then(|| observation.budget(Surroundings { dic, ..surroundings(memory, &spec) }));
        let context = self.context(session, memory, &run, &observation);
        self.fill(session, memory, &run, result)?;
        let bad_end = match run.end {
            End::Interrupted if observation.time_over => {
                trouble(&run).map(|reason| Verdict::new(Status::Error, reason))
            }
            _ => bad_end(&run),
        };
        if bad_end.is_some() {
            result.autopsy = autopsy(&run);
        }
        Ok(Some(CaseRun { run, observation, context, bad_end }))
    }

    /// Checks a case against its budget and the kernel log, and writes to the journal that the case is done.
    ///
    /// # Errors
    ///
    /// Returns an error if the journal cannot be written.
    pub fn done(&mut self, session: &mut Session, case: &mut CaseResult) -> Result<(), Error> {
        self.index += 1;
        self.apply_budget(session, case);
        session.check_against_log(case);
        session.journal(&Entry::CaseDone {
            name: case.name.clone(),
            status: case.verdict.status,
            result: Box::new(case.clone()),
            vcpus: self.vcpus.clone(),
        })
    }

    /// Compares a case with its budget. Without a comparison, the evidence says so.
    fn apply_budget(&self, session: &mut Session, case: &mut CaseResult) {
        let why = match &case.budget {
            Some(budget) => {
                case.verdict = budget.apply(case.verdict.clone());
                budget.unjudged.clone()
            }
            None => self.common.no_trace.then(|| "--no-trace".into()),
        };
        let absent = why.map(|why| format!("faults and maintenance were not compared with what is needed: {why}"));
        if let Some(absent) = absent.filter(|absent| !session.evidence.absent.contains(absent)) {
            session.evidence.absent.push(absent);
        }
    }

    fn context(
        &self,
        session: &mut Session,
        memory: &PreparedMemory,
        run: &GuestRun,
        observation: &Observation,
    ) -> Context {
        for reason in observation.absent.iter().chain(&run.notes) {
            if !session.evidence.absent.contains(reason) {
                session.evidence.absent.push(reason.clone());
            }
        }
        session.evidence.trace_lost += observation.lost();
        let detector = hostfacts::detector::read();
        Context {
            page_bytes: memory.host.page_bytes,
            dic: run.vcpus.first().is_some_and(|vcpu| vcpu.machine_ctr().dic()),
            threshold_s: detector.soft_threshold_s(),
            unwatched: session.unwatched(&detector, &run.cpus),
            kmsg_lost: session.evidence.kmsg_lost,
            untraced: observation.untraced(),
            unprobed: observation.probed.unprobed.clone(),
            trace_lost: observation.lost(),
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
        // Only fetches have the flag `CHECK`, so only their summaries count mismatches.
        result.mismatches = records(run).filter_map(Record::summary).map(|summary| summary.mismatches).sum();
        if !run.console.is_empty() {
            let mut console = session.dir.file("guest-console.log")?;
            // The file is for readers only, so a failure to write it is no failure of the run.
            let _ = console.write_all(run.console.as_bytes());
        }
        Ok(())
    }
}

/// Returns what the budget of a guest on this memory depends on. The facts of the running guest are still missing.
pub fn surroundings(memory: &PreparedMemory, spec: &GuestSpec) -> Surroundings {
    let PreparedMemory { host, block_bytes, region_bytes, backing } = memory;
    Surroundings {
        page_bytes: host.page_bytes,
        block_bytes: *block_bytes,
        is_hugetlb: matches!(backing, Backing::Hugetlb(_)),
        region: REGION_IPA..REGION_IPA + region_bytes,
        eager_split: spec.eager_split.is_some(),
        ..Surroundings::default()
    }
}

/// Returns the kinds of memory on the command line, or else every kind that this kernel could have. A case on a kind that
/// the host has too little of is a skip that says so.
///
/// # Errors
///
/// Returns an error if `region` is not a multiple of a block on the command line.
pub fn chosen_kinds(named: &[MemoryKind], region: Option<Size>) -> Result<Vec<MemoryKind>, Error> {
    let host = memory_kinds();
    if named.is_empty() {
        return Ok(memory::all(&host));
    }
    for kind in named {
        if let (Some(region), Ok(bytes)) = (region, memory::block_bytes(*kind, &host))
            && !region.0.is_multiple_of(bytes)
        {
            return Err(Error::Usage(format!("--region {region} is not a multiple of {kind} blocks")));
        }
    }
    Ok(named.to_vec())
}

/// Predicts the I-cache operations of one exec fault from the code of `__invalidate_icache_guest_page`.
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

/// Appends rows to a CSV file in the run directory. A new file begins with the names of the columns.
///
/// # Errors
///
/// Returns an error if the file cannot be written.
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

/// Appends every timed element to `samples.csv`. `op` returns the name for a tag.
///
/// # Errors
///
/// Returns an error if the file cannot be written.
pub fn write_samples(
    session: &Session,
    kind: MemoryKind,
    run: &GuestRun,
    op: impl Fn(u32) -> &'static str,
) -> Result<(), Error> {
    let rows = run.vcpus.iter().enumerate().flat_map(|(n, vcpu)| {
        let elements = vcpu.records.iter().filter_map(|r| Some((r, r.element()?)));
        let op = &op;
        elements.map(move |(r, Element { ipa, ticks, began_ticks, .. })| {
            let numbers = [u64::from(r.pass), ticks, u64::from(r.raw_outcome()), began_ticks];
            let [round, ticks, outcome, began] = numbers.map(|number| number.to_string());
            [kind.to_string(), n.to_string(), round, op(r.tag).into(), format!("{ipa:#x}"), ticks, outcome, began]
        })
    });
    let columns = ["block", "vcpu", "round", "op", "ipa", "ticks", "outcome", "began"];
    append(session, "samples.csv", columns, rows)
}

/// Returns the id of a case, which formats use: the kind of memory and, with several vCPUs, their number and `sharing`,
/// a word for the memory that they share.
pub fn racers_id(kind: MemoryKind, vcpus: u64, sharing: &str) -> String {
    if vcpus > 1 { format!("{kind}.{vcpus}vcpus-{sharing}") } else { kind.to_string() }
}
