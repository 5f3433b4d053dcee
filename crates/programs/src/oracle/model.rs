//! What each side may still hold, for one class of slots.
//!
//! All stores to a slot are ordered in a legal program, so its generations are a list, and what a cache may hold is the
//! end of that list from some generation on: caches are filled and written back at any time, and maintenance takes the
//! older ones away. One number for each cache says it all. What a vCPU can rely on is what is ordered before it, so each
//! vCPU has numbers of its own, which a meeting makes common.

use crate::oracle::rules::{Geometry, Rule};
use crate::program::Clean;
use guest::event::{Contents, Event, Mappings};

/// Place of a generation in the list of those that a slot has had.
pub type Version = usize;

/// Nothing older than this; and the rule and step that took the older ones away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The oldest that is still possible.
    pub oldest: Version,
    /// Why.
    pub by: Option<(Rule, usize)>,
}

impl Bound {
    fn raise(&mut self, to: Self) {
        if to.oldest > self.oldest {
            *self = to;
        }
    }
}

/// What one vCPU can rely on.
#[derive(Clone, Copy, Debug, Default)]
struct View {
    /// At the PoU.
    pou: Bound,
    /// At the PoC.
    poc: Bound,
    /// In its I-cache.
    icache: Bound,
    /// Fetched, and not yet executed.
    pipeline: Bound,
    /// What its DSB will make of its cleans and, with IDC, its stores.
    pou_at_dsb: Bound,
    /// The same for the PoC.
    poc_at_dsb: Bound,
    /// What its DSB will make of its invalidations.
    icache_at_dsb: Bound,
}

/// Who stored a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Guest,
    Host,
}

/// One class of slots.
#[derive(Clone, Debug)]
pub struct Model {
    geometry: Geometry,
    without: Option<Rule>,
    /// None for what was in a frame before the host stored the contents there.
    versions: Vec<(Option<u16>, Writer)>,
    /// The oldest in a frame that some vCPU may reach: the newest, unless rule K4 is taken away.
    frame: Version,
    /// The version instead of which anything may be there; only without rule K3.
    lost: Option<Version>,
    views: Vec<View>,
    /// The step at hand.
    step: usize,
}

/// What one look may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The newest generation.
    pub newest: u16,
    /// Older ones that may be seen as well, the newer first, without the newest.
    pub older: Vec<u16>,
    /// Whether anything may be seen, because a rule was taken away. Never to be relied on with every rule kept.
    pub anything: bool,
}

impl Model {
    /// Returns slots of generation 0 that every side holds, on a machine where every rule but `without` is kept.
    pub fn new(geometry: Geometry, vcpus: usize, without: Option<Rule>) -> Self {
        let versions = vec![(Some(0), Writer::Host)];
        Self { geometry, without, versions, frame: 0, lost: None, views: vec![View::default(); vcpus], step: 0 }
    }

    /// Says which step the following calls belong to.
    pub fn at(&mut self, step: usize) {
        self.step = step;
    }

    fn kept(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn idc(&self) -> bool {
        self.geometry.idc && self.kept(Rule::Idc)
    }

    fn dic(&self) -> bool {
        self.geometry.dic && self.kept(Rule::Dic)
    }

    /// IDC says that nobody need clean to the PoU. If it lies, nobody has: neither the guest, nor with FWB the host.
    fn idc_lies(&self) -> bool {
        self.geometry.idc && !self.kept(Rule::Idc)
    }

    /// DIC says that nobody need invalidate. If it lies, nobody has by line; and a guest's invalidation of everything may
    /// come before the host's clean, which waits for the first access.
    fn dic_lies(&self) -> bool {
        self.geometry.dic && !self.kept(Rule::Dic)
    }

    fn newest(&self) -> Version {
        self.versions.len() - 1
    }

    fn bound(&self, oldest: Version, rule: Rule) -> Bound {
        Bound { oldest, by: Some((rule, self.step)) }
    }

    fn push(&mut self, generation: Option<u16>, writer: Writer) {
        let in_reach = self.frame == self.newest();
        self.versions.push((generation, writer));
        if in_reach {
            self.frame = self.newest();
        }
    }

    /// vCPU `vcpu` stores.
    pub fn write(&mut self, vcpu: usize, generation: u16) {
        self.push(Some(generation), Writer::Guest);
        if self.idc() {
            let stored = self.bound(self.newest(), Rule::Idc);
            self.views[vcpu].pou_at_dsb.raise(stored);
        }
    }

    /// The contents may be lost; only without rule K3.
    pub fn lose(&mut self) {
        self.lost = Some(self.newest());
    }

    /// A D-cache clean by line.
    pub fn clean(&mut self, vcpu: usize, to: Clean) {
        if !self.kept(Rule::Clean) || (to == Clean::Pou && self.idc_lies()) {
            return;
        }
        let cleaned = self.bound(self.newest(), Rule::Clean);
        self.views[vcpu].pou_at_dsb.raise(cleaned);
        if to != Clean::Pou {
            self.views[vcpu].poc_at_dsb.raise(cleaned);
        }
    }

    /// An I-cache invalidation, by `rule`. What is known to be at the PoU now is the oldest that a refill can find.
    pub fn invalidate(&mut self, vcpu: usize, rule: Rule) {
        if self.kept(rule) && !self.dic_lies() {
            let refilled = self.bound(self.views[vcpu].pou.oldest, rule);
            self.views[vcpu].icache_at_dsb.raise(refilled);
        }
    }

    /// A DSB completes the vCPU's own maintenance and stores.
    pub fn dsb(&mut self, vcpu: usize) {
        let view = &mut self.views[vcpu];
        view.pou.raise(view.pou_at_dsb);
        view.poc.raise(view.poc_at_dsb);
        view.icache.raise(view.icache_at_dsb);
    }

    /// A context synchronization event.
    pub fn isb(&mut self, vcpu: usize) {
        if self.kept(Rule::Synchronise) {
            let source = if self.dic() { self.views[vcpu].pou } else { self.views[vcpu].icache };
            let refetched = self.bound(source.oldest, Rule::Synchronise);
            self.views[vcpu].pipeline.raise(refetched);
        }
    }

    /// All vCPUs meet: what was ordered before for one is for all. No DSB, no ISB.
    pub fn meet(&mut self) {
        let mut common = self.views.iter().fold(View::default(), |mut common, view| {
            common.pou.raise(view.pou);
            common.poc.raise(view.poc);
            common.icache.raise(view.icache);
            common
        });
        if self.idc() {
            common.pou.raise(self.bound(self.newest(), Rule::Idc));
        }
        let broadcast = self.kept(Rule::Broadcast);
        for view in &mut self.views {
            view.pou.raise(common.pou);
            view.poc.raise(common.poc);
            if broadcast {
                view.icache.raise(common.icache);
            }
        }
    }

    /// The host does something for a vCPU; `written` is the generation it stores in these slots, if it does.
    ///
    /// Other frames hold what was in them before; then the host stores the contents there. Only where KVM's promise is
    /// taken away does that show.
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
                if !self.kept(Rule::ContentsKept) {
                    self.lose();
                }
            }
        }
        if self.idc() && self.newest() > before {
            let stored = self.bound(self.newest(), Rule::Idc);
            self.views[vcpu].pou.raise(stored);
        }
        if copied && !self.kept(Rule::OldFramesGone) {
            self.frame = self.frame.min(before);
        }
        if event.mappings() != Mappings::Kept {
            self.promise(vcpu);
        }
    }

    /// The guest reaches these slots through a new mapping from now on: KVM's promise.
    fn promise(&mut self, vcpu: usize) {
        let by_host = self.versions.iter().rposition(|(_, writer)| *writer == Writer::Host).unwrap_or(0);
        if self.kept(Rule::HostClean) && !(self.geometry.fwb && self.idc_lies()) {
            let clean = self.bound(by_host, Rule::HostClean);
            self.views[vcpu].pou.raise(clean);
            self.views[vcpu].poc.raise(clean);
        }
        if self.kept(Rule::HostInvalidate) && !self.dic_lies() {
            let refilled = self.bound(by_host.min(self.views[vcpu].pou.oldest), Rule::HostInvalidate);
            self.views[vcpu].icache.raise(refilled);
        }
    }

    /// Returns what a call by a vCPU may return. The barriers before it are the caller's.
    pub fn fetch(&self, vcpu: usize) -> Window {
        self.window(self.views[vcpu].pipeline.oldest)
    }

    /// Returns what a load through the caches may return.
    pub fn load(&self) -> Window {
        self.window(if self.kept(Rule::Coherent) { self.newest() } else { 0 })
    }

    /// Returns what a load past the caches may return.
    pub fn load_poc(&self, vcpu: usize) -> Window {
        self.window(self.views[vcpu].poc.oldest)
    }

    fn window(&self, oldest: Version) -> Window {
        let newest = self.versions[self.newest()].0.unwrap_or_default();
        let possible = &self.versions[oldest.min(self.frame)..self.newest()];
        let mut older: Vec<u16> = Vec::new();
        for generation in possible.iter().rev().filter_map(|(generation, _)| *generation) {
            if generation != newest && !older.contains(&generation) {
                older.push(generation);
            }
        }
        let foreign = self.versions[oldest..].iter().any(|(generation, _)| generation.is_none());
        Window { newest, older, anything: foreign || self.lost.is_some_and(|lost| lost >= oldest) }
    }

    /// Returns the step at which a rule last took something away from what a vCPU may see.
    pub fn acted(&self, vcpu: usize, rule: Rule) -> Option<usize> {
        let View { pou, poc, icache, pipeline, .. } = self.views[vcpu];
        [pipeline, icache, pou, poc].into_iter().filter_map(|bound| bound.by).find(|(by, _)| *by == rule).map(|by| by.1)
    }
}
