//! CPUs, caches and memory of a fake machine. Everything that may happen at any time happens at random times.

use abi::slot;
use payload::interpreter::{Clean, LoadMode};

use crate::fake::defect::Defect;
use crate::fake::seen::Seen;
use crate::oracle::CacheFeatures;
use crate::program::Program;
use crate::slots::Slots;
use units::random::Random;

/// Maximum number of vCPUs.
pub const MAX_VCPUS: usize = 4;

/// Number of CPUs: one for each vCPU, and one that a vCPU can move to.
pub const CPUS: usize = MAX_VCPUS + 1;

/// Size of a cache line in bytes.
pub const LINE_BYTES: u64 = 64;

/// Number of lines that one stage-2 page of this machine holds. Only lines with slots count.
pub const PAGE_LINES: usize = 4;

/// Line with a slot. Every place holds the first doubleword of the slot.
#[derive(Clone, Debug)]
pub struct Line {
    pub ipa: u64,
    /// Value that coherent accesses see.
    pub coherent: u64,
    pub pou: u64,
    pub poc: u64,
    /// Value in the I-cache of each CPU.
    pub icache: [Option<u64>; CPUS],
    /// Value that each CPU has fetched and not yet executed.
    pub pipeline: [Option<u64>; CPUS],
    /// vCPU that still reaches the old frame of the line, and the value there.
    pub old_frame: Option<(usize, u64)>,
}

/// Maintenance that has been issued and is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Clean of a line.
    Clean { line: usize, to: Clean },
    /// Invalidation of a line in the I-cache of one CPU.
    Invalidate { line: usize, cpu: usize },
}

/// Stage-2 mapping of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    No,
    /// Without execute permission.
    Data,
    /// With execute permission.
    Code,
}

/// Page of stage 2.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub mapped: Mapped,
    /// True if the host copies the page at the guest's next write.
    pub copy_on_write: bool,
}

/// State of a fake machine.
pub struct Machine {
    pub features: CacheFeatures,
    pub defect: Option<Defect>,
    pub random: Random,
    /// Lines with slots, by rising IPA.
    pub lines: Vec<Line>,
    /// Pages, each of which holds the next [`PAGE_LINES`] lines.
    pub pages: Vec<Page>,
    /// CPU of each vCPU.
    pub cpu_of: Vec<usize>,
    /// Incomplete maintenance of each vCPU.
    pub pending: Vec<Vec<Pending>>,
    /// Everything that has happened.
    pub seen: Vec<Seen>,
    /// Tag of the guest op that runs: the number of its op in the program plus one.
    pub tag: usize,
}

impl Machine {
    pub fn new(program: &Program, base_ipa: u64, features: CacheFeatures, defect: Option<Defect>, seed: u64) -> Self {
        assert!(program.vcpus <= MAX_VCPUS, "a fake machine has at most {MAX_VCPUS} vCPUs");
        let line = |offset| {
            let ipa = base_ipa + offset;
            let word = slot::first_doubleword(ipa, 0);
            let nowhere = [None; CPUS];
            Line { ipa, coherent: word, pou: word, poc: word, icache: nowhere, pipeline: nowhere, old_frame: None }
        };
        let lines: Vec<_> = Slots::of(program).offsets().map(line).collect();
        let mut random = Random::new(seed);
        let mapped = random.pick(&[Mapped::No, Mapped::Data, Mapped::Code]);
        let pages = vec![Page { mapped, copy_on_write: false }; lines.len().div_ceil(PAGE_LINES)];
        let pending = vec![Vec::new(); program.vcpus];
        let is_mapped = mapped != Mapped::No;
        let seen = (0..pages.len()).filter(|_| is_mapped).map(|page| Seen::Map {
            pe: 0,
            page,
            execute: mapped == Mapped::Code,
        });
        let seen = seen.collect();
        Self { features, defect, random, lines, pages, cpu_of: (0..program.vcpus).collect(), pending, seen, tag: 0 }
    }

    pub fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn line(&self, ipa: u64) -> Option<usize> {
        self.lines.binary_search_by_key(&ipa, |line| line.ipa).ok()
    }

    /// Returns the value that a fetch gets if it misses in the I-cache.
    fn at_pou(&self, line: usize) -> u64 {
        let coherent = self.features.idc && !self.has(Defect::IdcUntrue);
        if coherent { self.lines[line].coherent } else { self.lines[line].pou }
    }

    /// Returns whether fetches always see the PoU.
    fn coherent_icache(&self) -> bool {
        self.features.dic && !self.has(Defect::DicUntrue)
    }

    /// Does up to three things that may happen at any time: a write-back, a fill, an eviction, a prefetch, or the
    /// completion of maintenance.
    pub fn disturb(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        for _ in 0..self.random.below(4) {
            let line = self.random.below(self.lines.len() as u64) as usize;
            let cpu = self.random.below(CPUS as u64) as usize;
            match self.random.below(8) {
                // A write-back is rare, so that old lines stay old for long.
                0 => self.write_back(line),
                1..4 => self.lines[line].icache[cpu] = Some(self.at_pou(line)),
                4 => self.lines[line].icache[cpu] = None,
                5..7 => self.prefetch(line, cpu),
                _ => self.complete_one(),
            }
        }
    }

    fn write_back(&mut self, line: usize) {
        let deep = self.random.one_in(2);
        let line = &mut self.lines[line];
        line.pou = line.coherent;
        if deep {
            line.poc = line.coherent;
        }
    }

    fn prefetch(&mut self, line: usize, cpu: usize) {
        if self.lines[line].pipeline[cpu].is_none() {
            self.lines[line].pipeline[cpu] = Some(self.read_icache(line, cpu));
        }
    }

    /// Completes one piece of maintenance.
    fn complete_one(&mut self) {
        let vcpu = self.random.below(self.pending.len() as u64) as usize;
        let count = self.pending[vcpu].len();
        if count > 0 {
            let index = self.random.below(count as u64) as usize;
            let pending = self.pending[vcpu].swap_remove(index);
            self.complete(pending);
        }
    }

    fn complete(&mut self, pending: Pending) {
        match pending {
            Pending::Clean { line, to } => {
                let line = &mut self.lines[line];
                line.pou = line.coherent;
                if to != Clean::ToPou {
                    line.poc = line.coherent;
                }
            }
            Pending::Invalidate { line, cpu } => self.lines[line].icache[cpu] = None,
        }
    }

    fn read_icache(&mut self, line: usize, cpu: usize) -> u64 {
        let at_pou = self.at_pou(line);
        if self.coherent_icache() { at_pou } else { *self.lines[line].icache[cpu].get_or_insert(at_pou) }
    }

    /// Completes the maintenance of a vCPU, in random order.
    pub fn dsb(&mut self, vcpu: usize) {
        self.seen.push(Seen::Dsb { pe: self.cpu_of[vcpu] });
        while !self.pending[vcpu].is_empty() {
            let index = self.random.below(self.pending[vcpu].len() as u64) as usize;
            let pending = self.pending[vcpu].swap_remove(index);
            self.complete(pending);
            self.disturb();
        }
    }

    pub fn isb(&mut self, vcpu: usize) {
        if !self.has(Defect::NoIsb) {
            self.empty_pipeline(vcpu);
        }
    }

    /// Discards the instructions that a vCPU has fetched, as ISB and every exception do.
    pub fn empty_pipeline(&mut self, vcpu: usize) {
        let cpu = self.cpu_of[vcpu];
        self.lines.iter_mut().for_each(|line| line.pipeline[cpu] = None);
    }

    pub fn fetch(&mut self, vcpu: usize, ipa: u64) -> u64 {
        let Some(line) = self.line(ipa) else { return 0 };
        if let Some((by, word)) = self.lines[line].old_frame
            && by == vcpu
        {
            return word;
        }
        self.access_code(vcpu, line);
        let cpu = self.cpu_of[vcpu];
        self.seen.push(Seen::Fetch { pe: cpu, op: self.tag.saturating_sub(1), line });
        self.prefetch(line, cpu);
        self.lines[line].pipeline[cpu].unwrap_or_default()
    }

    pub fn load(&mut self, vcpu: usize, ipa: u64, mode: LoadMode) -> u64 {
        let Some(line) = self.line(ipa) else { return 0 };
        if let Some((by, word)) = self.lines[line].old_frame
            && by == vcpu
        {
            return word;
        }
        self.access_data(vcpu, line);
        let (pe, op, cached) = (self.cpu_of[vcpu], self.tag.saturating_sub(1), mode == LoadMode::Cacheable);
        self.seen.push(Seen::Load { pe, op, line, cached });
        let hits = mode == LoadMode::Cacheable || self.features.fwb || self.random.one_in(4);
        if hits { self.lines[line].coherent } else { self.lines[line].poc }
    }

    pub fn store(&mut self, vcpu: usize, ipa: u64, word: u64) {
        let Some(line) = self.line(ipa) else { return };
        self.break_copy_on_write(line);
        self.access_data(vcpu, line);
        self.seen.push(Seen::Store { pe: self.cpu_of[vcpu], line });
        self.lines[line].coherent = word;
        self.lines[line].old_frame = None;
    }

    pub fn clean(&mut self, vcpu: usize, ipa: u64, to: Clean) {
        let Some(line) = self.line(ipa) else { return };
        let left_out = self.has(Defect::CleanEverySecond) && every_second(ipa);
        self.access_data(vcpu, line);
        self.seen.push(Seen::Clean { pe: self.cpu_of[vcpu], line, poc: to != Clean::ToPou, host: false });
        if !left_out && !self.has(Defect::NoClean) {
            self.pending[vcpu].push(Pending::Clean { line, to });
        }
    }

    pub fn invalidate(&mut self, vcpu: usize, ipa: u64) {
        let Some(line) = self.line(ipa) else { return };
        let left_out = self.has(Defect::InvalidateEverySecond) && every_second(ipa);
        self.access_data(vcpu, line);
        self.seen.push(Seen::Invalidate { pe: self.cpu_of[vcpu], line, host: false });
        if !left_out && !self.has(Defect::NoInvalidate) {
            self.broadcast(vcpu, line);
        }
    }

    pub fn invalidate_all(&mut self, vcpu: usize) {
        self.seen.push(Seen::InvalidateAll { pe: self.cpu_of[vcpu] });
        if !self.has(Defect::NoInvalidateAll) {
            (0..self.lines.len()).for_each(|line| self.broadcast(vcpu, line));
        }
    }

    fn broadcast(&mut self, vcpu: usize, line: usize) {
        let own = self.cpu_of[vcpu];
        let forgotten = self.has(Defect::ForgottenCpu);
        let reached = (0..CPUS).filter(|cpu| !(forgotten && *cpu == 0 && own != 0));
        self.pending[vcpu].extend(reached.map(|cpu| Pending::Invalidate { line, cpu }));
    }
}

/// Returns whether a loop that leaves out every second line leaves out this one.
pub fn every_second(ipa: u64) -> bool {
    ipa / LINE_BYTES % 2 == 1
}
