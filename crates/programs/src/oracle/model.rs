//! Model of the generations that caches and memory may hold, for one class of slots.
//!
//! In a legal program, all stores to a slot are ordered, so its generations form a list. A cache may be filled or
//! written back at any time, so it may hold some oldest generation and every generation after it. Only maintenance
//! removes the oldest ones. The model therefore keeps one number for each cache: the oldest generation that it may
//! hold.
//!
//! A vCPU can rely only on what is ordered before it. Each vCPU therefore has its own numbers, and a meeting makes them
//! equal.

use crate::oracle::rules::{CacheFeatures, Rule};
use crate::program::Clean;
use guest::event::{Contents, Event, Mappings};

/// Index of a generation in the list of generations that a slot has had.
type Version = usize;

/// Oldest version that a place may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bound {
    /// Oldest version that is still possible.
    oldest: Version,
    /// Rule and op that removed the older versions.
    by: Option<(Rule, usize)>,
}

impl Bound {
    fn raise(&mut self, to: Self) {
        if to.oldest > self.oldest {
            *self = to;
        }
    }
}

/// Bounds that one vCPU can rely on.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    /// Versions at the PoU.
    pou: Bound,
    /// Versions at the PoC.
    poc: Bound,
    /// Versions in the vCPU's I-cache.
    icache: Bound,
    /// Versions that were fetched and not yet executed.
    pipeline: Bound,
    /// Bound of the PoU after the vCPU's next DSB. Its cleans raise it, and with IDC its stores.
    pou_at_dsb: Bound,
    /// Bound of the PoC after the vCPU's next DSB.
    poc_at_dsb: Bound,
    /// Bound of the I-cache after the vCPU's next DSB. Its invalidations raise it.
    icache_at_dsb: Bound,
}

/// Writer of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Guest,
    Host,
}

/// Model of one class of slots.
#[derive(Clone, Debug)]
pub struct Model {
    features: CacheFeatures,
    without: Option<Rule>,
    /// Generation and writer of each version. The generation is `None` for the former contents of a new frame, which
    /// the host overwrites.
    versions: Vec<(Option<u16>, Writer)>,
    /// Oldest version in a frame that some vCPU can reach. It is the newest version unless rule K4 is left out.
    frame: Version,
    /// Version that may have been lost. It is `None` unless rule K3 is left out.
    lost: Option<Version>,
    /// Bounds of each vCPU.
    bounds: Vec<Bounds>,
    /// Op that the model is at.
    op: usize,
}

/// Generations that one look may return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Possible {
    /// Newest generation.
    pub newest: u16,
    /// Older generations that the look may return, too, the newer first. The newest generation is not among them.
    pub older: Vec<u16>,
    /// True if the look may return anything. This is so only if a rule is left out.
    pub anything: bool,
}

impl Model {
    /// Returns slots of generation 0 that all caches agree on. The machine keeps every rule except `without`.
    pub fn new(features: CacheFeatures, vcpus: usize, without: Option<Rule>) -> Self {
        let versions = vec![(Some(0), Writer::Host)];
        Self { features, without, versions, frame: 0, lost: None, bounds: vec![Bounds::default(); vcpus], op: 0 }
    }

    /// Sets the op that the next calls belong to.
    pub fn begin_op(&mut self, op: usize) {
        self.op = op;
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn idc(&self) -> bool {
        self.features.idc && self.keeps(Rule::Idc)
    }

    fn dic(&self) -> bool {
        self.features.dic && self.keeps(Rule::Dic)
    }

    /// Returns whether the machine has IDC and rule A1 is left out. Because of IDC, nobody cleans to the PoU then: not
    /// the guest, and with FWB not the host.
    fn idc_is_false(&self) -> bool {
        self.features.idc && !self.keeps(Rule::Idc)
    }

    /// Returns whether the machine has DIC and rule A2 is left out. Because of DIC, nobody invalidates by line then. A
    /// guest's invalidation of everything may come before the host's clean, which waits for the first access.
    fn dic_is_false(&self) -> bool {
        self.features.dic && !self.keeps(Rule::Dic)
    }

    fn newest(&self) -> Version {
        self.versions.len() - 1
    }

    fn bound(&self, oldest: Version, rule: Rule) -> Bound {
        Bound { oldest, by: Some((rule, self.op)) }
    }

    fn push(&mut self, generation: Option<u16>, writer: Writer) {
        let reachable = self.frame == self.newest();
        self.versions.push((generation, writer));
        if reachable {
            self.frame = self.newest();
        }
    }

    /// Does a store of a vCPU.
    pub fn write(&mut self, vcpu: usize, generation: u16) {
        self.push(Some(generation), Writer::Guest);
        if self.idc() {
            let stored = self.bound(self.newest(), Rule::Idc);
            self.bounds[vcpu].pou_at_dsb.raise(stored);
        }
    }

    /// Marks the contents as possibly lost. Only a machine without rule K3 loses contents.
    pub fn lose(&mut self) {
        self.lost = Some(self.newest());
    }

    /// Does a D-cache clean by line.
    pub fn clean(&mut self, vcpu: usize, to: Clean) {
        if !self.keeps(Rule::Clean) || (to == Clean::Pou && self.idc_is_false()) {
            return;
        }
        let cleaned = self.bound(self.newest(), Rule::Clean);
        self.bounds[vcpu].pou_at_dsb.raise(cleaned);
        if to != Clean::Pou {
            self.bounds[vcpu].poc_at_dsb.raise(cleaned);
        }
    }

    /// Does an I-cache invalidation, which `rule` makes effective. A refill after it finds nothing older than the
    /// version that is known to be at the PoU now.
    pub fn invalidate(&mut self, vcpu: usize, rule: Rule) {
        if self.keeps(rule) && !self.dic_is_false() {
            let refilled = self.bound(self.bounds[vcpu].pou.oldest, rule);
            self.bounds[vcpu].icache_at_dsb.raise(refilled);
        }
    }

    /// Does a DSB, which completes the vCPU's own maintenance and stores.
    pub fn dsb(&mut self, vcpu: usize) {
        let bounds = &mut self.bounds[vcpu];
        bounds.pou.raise(bounds.pou_at_dsb);
        bounds.poc.raise(bounds.poc_at_dsb);
        bounds.icache.raise(bounds.icache_at_dsb);
    }

    /// Does a context synchronization event.
    pub fn isb(&mut self, vcpu: usize) {
        if self.keeps(Rule::Synchronise) {
            let source = if self.dic() { self.bounds[vcpu].pou } else { self.bounds[vcpu].icache };
            let refetched = self.bound(source.oldest, Rule::Synchronise);
            self.bounds[vcpu].pipeline.raise(refetched);
        }
    }

    /// Does a meeting. Every vCPU can then rely on everything that any vCPU could rely on before. A meeting is no DSB
    /// and no ISB.
    pub fn meet(&mut self) {
        let mut common = self.bounds.iter().fold(Bounds::default(), |mut common, bounds| {
            common.pou.raise(bounds.pou);
            common.poc.raise(bounds.poc);
            common.icache.raise(bounds.icache);
            common
        });
        if self.idc() {
            common.pou.raise(self.bound(self.newest(), Rule::Idc));
        }
        let broadcast = self.keeps(Rule::Broadcast);
        for bounds in &mut self.bounds {
            bounds.pou.raise(common.pou);
            bounds.poc.raise(common.poc);
            if broadcast {
                bounds.icache.raise(common.icache);
            }
        }
    }

    /// Does a host event for a vCPU. `written` is the generation that the event stores in these slots if it writes.
    ///
    /// A new frame holds its former contents until the host stores the slot there. A look can return these only if a
    /// promise of KVM is left out.
    pub fn event(&mut self, vcpu: usize, event: Event, written: Option<u16>) {
        let before = self.newest();
        let copied = event.mappings() == Mappings::Copied;
        let contents = self.versions[before].0;
        if copied {
            self.push(None, Writer::Host);
        }
        match written.filter(|_| event.contents() == Contents::Written) {
            Some(generation) => self.push(Some(generation), Writer::Host),
            None => {
                if copied {
                    self.push(contents, Writer::Host);
                }
                if !self.keeps(Rule::ContentsKept) {
                    self.lose();
                }
            }
        }
        if self.idc() && self.newest() > before {
            let stored = self.bound(self.newest(), Rule::Idc);
            self.bounds[vcpu].pou.raise(stored);
        }
        if copied && !self.keeps(Rule::OldFramesGone) {
            self.frame = self.frame.min(before);
        }
        if event.mappings() != Mappings::Kept {
            self.promise(vcpu);
        }
    }

    /// Applies KVM's promise: from now on, the guest reaches these slots through a new mapping.
    fn promise(&mut self, vcpu: usize) {
        let by_host = self.versions.iter().rposition(|(_, writer)| *writer == Writer::Host).unwrap_or(0);
        if self.keeps(Rule::HostClean) && !(self.features.fwb && self.idc_is_false()) {
            let clean = self.bound(by_host, Rule::HostClean);
            self.bounds[vcpu].pou.raise(clean);
            self.bounds[vcpu].poc.raise(clean);
        }
        if self.keeps(Rule::HostInvalidate) && !self.dic_is_false() {
            let refilled = self.bound(by_host.min(self.bounds[vcpu].pou.oldest), Rule::HostInvalidate);
            self.bounds[vcpu].icache.raise(refilled);
        }
    }

    /// Returns the generations that a call by a vCPU may return. The caller applies the barriers before the call.
    pub fn fetch(&self, vcpu: usize) -> Possible {
        self.possible(self.bounds[vcpu].pipeline.oldest)
    }

    /// Returns the generations that a load through the caches may return.
    pub fn load(&self) -> Possible {
        self.possible(if self.keeps(Rule::Coherent) { self.newest() } else { 0 })
    }

    /// Returns the generations that a load past the caches may return.
    pub fn load_poc(&self, vcpu: usize) -> Possible {
        self.possible(self.bounds[vcpu].poc.oldest)
    }

    fn possible(&self, oldest: Version) -> Possible {
        let newest = self.versions[self.newest()].0.unwrap_or_default();
        let possible = &self.versions[oldest.min(self.frame)..self.newest()];
        let mut older: Vec<u16> = Vec::new();
        for generation in possible.iter().rev().filter_map(|(generation, _)| *generation) {
            if generation != newest && !older.contains(&generation) {
                older.push(generation);
            }
        }
        let former_contents = self.versions[oldest..].iter().any(|(generation, _)| generation.is_none());
        Possible { newest, older, anything: former_contents || self.lost.is_some_and(|lost| lost >= oldest) }
    }

    /// Returns the op at which a rule last removed a version that a vCPU could see before.
    pub fn narrowed_by(&self, vcpu: usize, rule: Rule) -> Option<usize> {
        let Bounds { pou, poc, icache, pipeline, .. } = self.bounds[vcpu];
        [pipeline, icache, pou, poc].into_iter().filter_map(|bound| bound.by).find(|(by, _)| *by == rule).map(|by| by.1)
    }
}
