//! CPUs, caches and memory. Whatever may happen at any time happens at random times.

use abi::slot;

use crate::fake::{Fault, LINE_BYTES};
use crate::oracle::Geometry;
use crate::program::Program;
use crate::slots::Slots;
use units::random::Random;

/// Most CPUs: those of four vCPUs, and one to move to.
pub const CPUS: usize = 5;

/// Lines of a page of this machine's stage 2.
pub const PAGE_LINES: usize = 4;

/// One line that holds a slot: its first doubleword, wherever that may be.
#[derive(Clone, Debug)]
pub struct Line {
    pub ipa: u64,
    /// What coherent accesses see.
    pub coherent: u64,
    pub pou: u64,
    pub poc: u64,
    /// By CPU.
    pub icache: [Option<u64>; CPUS],
    /// By CPU: fetched, not yet executed.
    pub pipeline: [Option<u64>; CPUS],
    /// What a vCPU sees that still reaches the frame of before.
    pub old_frame: Option<(usize, u64)>,
}

/// Maintenance under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// A clean, to the PoC or the PoU alone.
    Clean { line: usize, to_poc: bool },
    /// An invalidation of a line in one CPU's I-cache.
    Invalidate { line: usize, cpu: usize },
}

/// How far stage 2 maps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    No,
    Data,
    Code,
}

/// A page of stage 2.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub mapped: Mapped,
    /// The guest's next write makes the host copy it.
    pub copy_on_write: bool,
}

pub struct Machine {
    pub geometry: Geometry,
    pub fault: Option<Fault>,
    pub random: Random,
    /// Lines with slots, by IPA.
    pub lines: Vec<Line>,
    /// Each [`PAGE_LINES`] lines with slots.
    pub pages: Vec<Page>,
    /// On which CPU each vCPU is.
    pub cpu_of: Vec<usize>,
    pub pending: Vec<Vec<Pending>>,
}

impl Machine {
    pub fn new(program: &Program, base_ipa: u64, geometry: Geometry, fault: Option<Fault>, seed: u64) -> Self {
        assert!(program.vcpus < CPUS);
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
        Self { geometry, fault, random, lines, pages, cpu_of: (0..program.vcpus).collect(), pending }
    }

    pub fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn line(&self, ipa: u64) -> Option<usize> {
        self.lines.binary_search_by_key(&ipa, |line| line.ipa).ok()
    }

    /// What a fetch that misses finds.
    fn at_pou(&self, line: usize) -> u64 {
        let coherent = self.geometry.idc && !self.is(Fault::IdcUntrue);
        if coherent { self.lines[line].coherent } else { self.lines[line].pou }
    }

    fn transparent_icache(&self) -> bool {
        self.geometry.dic && !self.is(Fault::DicUntrue)
    }

    /// Lets happen what may happen at any time.
    pub fn happen(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        for _ in 0..self.random.below(4) {
            let line = self.random.below(self.lines.len() as u64) as usize;
            let cpu = self.random.below(CPUS as u64) as usize;
            match self.random.below(8) {
                // Most of the time old lines stay where they are.
                0 => self.write_back(line),
                1..4 => self.lines[line].icache[cpu] = Some(self.at_pou(line)),
                4 => self.lines[line].icache[cpu] = None,
                5..7 => self.prefetch(line, cpu),
                _ => self.some_maintenance(),
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

    fn some_maintenance(&mut self) {
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
            Pending::Clean { line, to_poc } => {
                let line = &mut self.lines[line];
                line.pou = line.coherent;
                if to_poc {
                    line.poc = line.coherent;
                }
            }
            Pending::Invalidate { line, cpu } => self.lines[line].icache[cpu] = None,
        }
    }

    fn read_icache(&mut self, line: usize, cpu: usize) -> u64 {
        let at_pou = self.at_pou(line);
        if self.transparent_icache() { at_pou } else { *self.lines[line].icache[cpu].get_or_insert(at_pou) }
    }

    /// Completes a vCPU's maintenance, in any order.
    pub fn dsb(&mut self, vcpu: usize) {
        while !self.pending[vcpu].is_empty() {
            let index = self.random.below(self.pending[vcpu].len() as u64) as usize;
            let pending = self.pending[vcpu].swap_remove(index);
            self.complete(pending);
            self.happen();
        }
    }

    pub fn isb(&mut self, vcpu: usize) {
        if !self.is(Fault::NoIsb) {
            self.empty_pipeline(vcpu);
        }
    }

    /// What ISB does, and every exception.
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
        self.reach_code(vcpu, line);
        let cpu = self.cpu_of[vcpu];
        self.prefetch(line, cpu);
        self.lines[line].pipeline[cpu].unwrap_or_default()
    }

    pub fn load(&mut self, vcpu: usize, ipa: u64, cacheable: bool) -> u64 {
        let Some(line) = self.line(ipa) else { return 0 };
        if let Some((by, word)) = self.lines[line].old_frame
            && by == vcpu
        {
            return word;
        }
        self.reach_data(vcpu, line);
        let hits = cacheable || self.geometry.fwb || self.random.one_in(4);
        if hits { self.lines[line].coherent } else { self.lines[line].poc }
    }

    pub fn store(&mut self, vcpu: usize, ipa: u64, word: u64) {
        let Some(line) = self.line(ipa) else { return };
        self.break_copy_on_write(line);
        self.reach_data(vcpu, line);
        self.lines[line].coherent = word;
        self.lines[line].old_frame = None;
    }

    pub fn clean(&mut self, vcpu: usize, ipa: u64, to_poc: bool) {
        let Some(line) = self.line(ipa) else { return };
        let left_out = self.is(Fault::CleanEverySecond) && every_second(ipa);
        self.reach_data(vcpu, line);
        if !left_out && !self.is(Fault::NoClean) {
            self.pending[vcpu].push(Pending::Clean { line, to_poc });
        }
    }

    pub fn invalidate(&mut self, vcpu: usize, ipa: u64) {
        let Some(line) = self.line(ipa) else { return };
        let left_out = self.is(Fault::InvalidateEverySecond) && every_second(ipa);
        self.reach_data(vcpu, line);
        if !left_out && !self.is(Fault::NoInvalidate) {
            self.broadcast(vcpu, line);
        }
    }

    pub fn invalidate_all(&mut self, vcpu: usize) {
        if !self.is(Fault::NoInvalidateAll) {
            (0..self.lines.len()).for_each(|line| self.broadcast(vcpu, line));
        }
    }

    fn broadcast(&mut self, vcpu: usize, line: usize) {
        let own = self.cpu_of[vcpu];
        let forgotten = self.is(Fault::ForgottenCpu);
        let reached = (0..CPUS).filter(|cpu| !(forgotten && *cpu == 0 && own != 0));
        self.pending[vcpu].extend(reached.map(|cpu| Pending::Invalidate { line, cpu }));
    }
}

/// Says whether a wrong stride misses a line.
pub fn every_second(ipa: u64) -> bool {
    ipa / LINE_BYTES % 2 == 1
}
