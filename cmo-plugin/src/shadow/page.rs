// SPDX-License-Identifier: GPL-2.0-or-later
//! Shadow of memory: the maintenance that each 64-byte line has had since its last stores.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Size of a line of the shadow in bytes. An operation on a longer cache line covers several of them.
pub(crate) const LINE: u64 = 64;
/// Size of a page of the shadow in bytes. It does not depend on the translation granule.
pub(crate) const PAGE: u64 = 4096;
/// Number of lines of a page.
pub(crate) const LINES: usize = (PAGE / LINE) as usize;
/// Number of 32-bit words of a page.
const WORDS: usize = (PAGE / 4) as usize;
/// Size in bytes of the memory of one chunk of the directory.
const CHUNK: u64 = 2 << 20;
/// A store that a line remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The newest store of any context.
    Newest,
    /// The newest store of the host. Only maintenance by the host counts for it.
    Host,
}

impl Version {
    /// Both versions.
    pub(crate) const BOTH: [Self; 2] = [Self::Newest, Self::Host];

    /// Returns the versions that maintenance in a context counts for.
    pub(crate) fn served_by(guest: bool) -> &'static [Self] {
        if guest { &Self::BOTH[..1] } else { &Self::BOTH }
    }

    /// Returns the index in arrays of two.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// State of a line: the words written, and the maintenance completed, in one word that changes atomically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State(u32);

impl State {
    /// Bits of the words that were stored since the line was last coherent.
    const WORDS: u32 = 0xffff;
    /// Cleaned to the point of unification, by version.
    const POU: [u32; 2] = [1 << 16, 1 << 17];
    /// Cleaned to the point of coherency, by version.
    const POC: [u32; 2] = [1 << 18, 1 << 19];
    /// I-cache invalidated after the clean, by version.
    const INVALIDATED: [u32; 2] = [1 << 20, 1 << 21];
    /// An I-cache invalidation was executed before the D side was clean.
    const EARLY: u32 = 1 << 22;
    /// The host stored here while a guest could read the line.
    const IN_PLACE: u32 = 1 << 23;
    /// The newest store did not go through the caches, which may hold an older copy.
    const UNCACHED: u32 = 1 << 24;

    /// Everything that a store of a guest makes void.
    const VOID_BY_GUEST: u32 = Self::POU[0] | Self::POC[0] | Self::INVALIDATED[0] | Self::EARLY;
    /// Everything that a store of the host makes void.
    const VOID_BY_HOST: u32 = Self::VOID_BY_GUEST | Self::POU[1] | Self::POC[1] | Self::INVALIDATED[1];

    /// Returns everything that a store in a context makes void.
    fn void(guest: bool) -> u32 {
        if guest { Self::VOID_BY_GUEST } else { Self::VOID_BY_HOST }
    }

    /// Returns whether the version is clean to the point of unification.
    pub(crate) fn pou(self, version: Version) -> bool {
        self.0 & Self::POU[version.index()] != 0
    }

    /// Returns whether the version is clean to the point of coherency.
    pub(crate) fn poc(self, version: Version) -> bool {
        self.0 & Self::POC[version.index()] != 0
    }

    /// Returns whether the I-cache was invalidated by line after the clean.
    pub(crate) fn invalidated(self, version: Version) -> bool {
        self.0 & Self::INVALIDATED[version.index()] != 0
    }

    /// Returns whether an invalidation came before the clean.
    pub(crate) fn early(self) -> bool {
        self.0 & Self::EARLY != 0
    }

    /// Returns whether caches may hold a copy that is older than the newest store.
    pub(crate) fn uncached(self) -> bool {
        self.0 & Self::UNCACHED != 0
    }

    /// Returns whether the word with this index was stored to since the line was last coherent.
    pub(crate) fn written(self, word: usize) -> bool {
        self.0 >> word & 1 != 0
    }
}

/// A store, as a line remembers its writer: an index of a place in the code, and a PE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Writer(u32);

impl Writer {
    /// Returns the writer for the place with this index, from 1, on a PE.
    pub(crate) fn new(site: u32, pe: usize) -> Self {
        Self(site << 8 | pe as u32 & 0xff)
    }

    /// Returns the index of the place.
    pub(crate) fn site(self) -> u32 {
        self.0 >> 8
    }

    /// Returns the PE.
    pub(crate) fn pe(self) -> u32 {
        self.0 & 0xff
    }
}

/// Shadow of one version of a line.
#[derive(Default)]
struct LineVersion {
    /// Time of the store, and of the completion of the clean to the point of unification after that.
    base: AtomicU32,
    writer: AtomicU32,
}

/// Shadow of a line. Everything that a store changes lies together, because most of its time goes to cache misses.
#[derive(Default)]
struct Line {
    state: AtomicU32,
    versions: [LineVersion; 2],
}

/// Words that were fetched from a page, as QEMU translated them.
struct Fetched {
    words: Box<[AtomicU32; WORDS]>,
}

/// Shadow of a page.
pub(crate) struct Page {
    lines: [Line; LINES],
    fetched: OnceLock<Fetched>,
    /// One bit for each word of `fetched` that is known.
    known: [AtomicU32; WORDS / 32],
    /// True if the page holds a stage-2 table.
    pub(crate) is_table: AtomicBool,
    /// True if some guest can read the page.
    pub(crate) is_published: AtomicBool,
}

/// Result of a store for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing more is to do.
    Done,
    /// The host stored to a line of a published page for the first time since its publication.
    InPlace,
}

/// The times that decide whether an invalidation of the whole I-cache counts.
pub(crate) struct Marks {
    /// Time of the newest invalidation of all PEs, by version.
    pub(crate) all: [AtomicU32; 2],
}

/// One store to one line.
#[derive(Clone, Copy)]
pub(crate) struct LineStore {
    /// Index of the line in its page.
    pub(crate) line: usize,
    /// Bits of the words.
    pub(crate) words: u32,
    /// Present time.
    pub(crate) now: u32,
    /// Writer.
    pub(crate) writer: Writer,
    /// True if a guest stores.
    pub(crate) guest: bool,
    /// True if the store goes around the caches.
    pub(crate) uncached: bool,
}

impl Page {
    pub(crate) fn new() -> Self {
        Self {
            lines: std::array::from_fn(|_| Line::default()),
            fetched: OnceLock::new(),
            known: std::array::from_fn(|_| AtomicU32::new(0)),
            is_table: AtomicBool::new(false),
            is_published: AtomicBool::new(false),
        }
    }

    /// Returns the state of a line.
    pub(crate) fn state(&self, line: usize) -> State {
        State(self.lines[line].state.load(Relaxed))
    }

    /// Returns the time after which an I-cache invalidation counts: that of the clean, or else that of the store.
    pub(crate) fn base(&self, line: usize, version: Version) -> u32 {
        self.lines[line].versions[version.index()].base.load(Relaxed)
    }

    /// Returns the last writer of a version; none if there was no store.
    pub(crate) fn writer(&self, line: usize, version: Version) -> Option<Writer> {
        Some(self.lines[line].versions[version.index()].writer.load(Relaxed)).filter(|raw| *raw != 0).map(Writer)
    }

    /// Records a store.
    #[inline(always)]
    pub(crate) fn store(&self, store: &LineStore, marks: &Marks, idc: bool, dic: bool) -> Stored {
        let LineStore { line, words, now, writer, guest, uncached } = *store;
        let Line { state, versions: [newest, host] } = &self.lines[line];
        let before = state.load(Relaxed);
        // Most stores go to a line that was stored to before, and change nothing but its time and its writer.
        let void = State::void(guest);
        let is_new_in_place = !guest && before & State::IN_PLACE == 0 && self.is_published.load(Relaxed);
        let same = before & (void | State::UNCACHED | words) == words && !uncached && !is_new_in_place;
        if !same || (idc && !dic && marks.all[0].load(Relaxed) > newest.base.load(Relaxed)) {
            self.change(store, marks, idc, dic, is_new_in_place);
        }
        newest.base.store(now, Relaxed);
        newest.writer.store(writer.0, Relaxed);
        if !guest {
            host.base.store(now, Relaxed);
            host.writer.store(writer.0, Relaxed);
        }
        if is_new_in_place { Stored::InPlace } else { Stored::Done }
    }

    /// Changes the state of a line for a store.
    #[inline(never)]
    fn change(&self, store: &LineStore, marks: &Marks, idc: bool, dic: bool, is_new_in_place: bool) {
        let LineStore { line, words, guest, uncached, .. } = *store;
        let Line { state, versions: [newest, _] } = &self.lines[line];
        let before = state.load(Relaxed);
        let coherent = (idc || before & State::POU[0] != 0)
            && (dic || before & State::INVALIDATED[0] != 0 || marks.all[0].load(Relaxed) > newest.base.load(Relaxed));
        let change = |old: u32| {
            let kept = if coherent { old & !State::WORDS } else { old };
            let mark = if is_new_in_place { State::IN_PLACE } else { 0 };
            let uncached = if uncached { State::UNCACHED } else { 0 };
            Some((kept & !State::void(guest) & !State::UNCACHED) | words | mark | uncached)
        };
        // The closure never refuses.
        let _ = state.fetch_update(Relaxed, Relaxed, change);
    }

    /// Completes a clean of a line, if it was executed at `issued`, after the store. `now` is the time of the barrier.
    pub(crate) fn complete_clean(&self, line: usize, version: Version, clean: Clean, issued: u32, now: u32) {
        let base = self.base(line, version);
        // The same barrier may have completed a clean to the point of unification just now.
        if self.writer(line, version).is_none() || (base >= issued && base != now) {
            return;
        }
        let state = self.state(line);
        if !state.pou(version) && !clean.idc {
            self.lines[line].versions[version.index()].base.store(now, Relaxed);
        }
        let poc = if clean.poc { State::POC[version.index()] } else { 0 };
        self.lines[line].state.fetch_or(State::POU[version.index()] | poc, Relaxed);
        if clean.poc && clean.invalidates {
            self.lines[line].state.fetch_and(!State::UNCACHED, Relaxed);
        }
    }

    /// Completes an invalidation of a line, if it was executed at `issued`, after the clean.
    pub(crate) fn complete_invalidation(&self, line: usize, version: Version, issued: u32, idc: bool) {
        let good = idc || self.state(line).pou(version);
        if good && self.writer(line, version).is_some() && self.base(line, version) < issued {
            self.lines[line].state.fetch_or(State::INVALIDATED[version.index()], Relaxed);
        }
    }

    /// Records that an invalidation was executed before the line was clean.
    pub(crate) fn mark_early(&self, line: usize) {
        self.lines[line].state.fetch_or(State::EARLY, Relaxed);
    }

    /// Forgets that the host stored here in place, for a guest that can read the page only now.
    pub(crate) fn forget_in_place(&self) {
        for Line { state, .. } in &self.lines {
            if state.load(Relaxed) & State::IN_PLACE != 0 {
                state.fetch_and(!State::IN_PLACE, Relaxed);
            }
        }
    }

    /// Returns the word that was last fetched here, and coherent then.
    pub(crate) fn fetched(&self, word: usize) -> Option<u32> {
        let known = self.known[word / 32].load(Relaxed) >> (word % 32) & 1 != 0;
        self.fetched.get().filter(|_| known).map(|fetched| fetched.words[word].load(Relaxed))
    }

    /// Remembers a word that was fetched, and is coherent.
    pub(crate) fn set_fetched(&self, word: usize, value: u32) {
        let new = || Fetched { words: Box::new(std::array::from_fn(|_| AtomicU32::new(0))) };
        self.fetched.get_or_init(new).words[word].store(value, Relaxed);
        self.known[word / 32].fetch_or(1 << (word % 32), Relaxed);
    }

    /// Returns the size in bytes of what was allocated for fetches.
    pub(crate) fn fetched_bytes(&self) -> u64 {
        self.fetched.get().map_or(0, |_| PAGE)
    }
}

/// Kind of a clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clean {
    /// To the point of coherency.
    pub(crate) poc: bool,
    /// With an invalidation.
    pub(crate) invalidates: bool,
    /// True if fetches need no clean, so that the time of the store remains the base.
    pub(crate) idc: bool,
}

type Chunk = Box<[OnceLock<Box<Page>>]>;

/// Shadow of all memory.
pub(crate) struct Memory {
    chunks: Vec<OnceLock<Chunk>>,
    pages: AtomicU32,
}

impl Memory {
    /// Returns the shadow of memory below the physical address `end`.
    pub(crate) fn new(end: u64) -> Self {
        let chunks = (0..end / CHUNK).map(|_| OnceLock::new()).collect();
        Self { chunks, pages: AtomicU32::new(0) }
    }

    /// Returns the shadow of the page that holds `pa`, if there is one.
    #[inline]
    pub(crate) fn page(&self, pa: u64) -> Option<&Page> {
        let chunk = self.chunks.get((pa / CHUNK) as usize)?.get()?;
        chunk[(pa % CHUNK / PAGE) as usize].get().map(Box::as_ref)
    }

    /// Returns the shadow of the page that holds `pa`, which is created if there is none; none above the last address.
    /// The second value is true if the page is new.
    pub(crate) fn touch(&self, pa: u64) -> Option<(&Page, bool)> {
        let new_chunk = || (0..CHUNK / PAGE).map(|_| OnceLock::new()).collect();
        let chunk = self.chunks.get((pa / CHUNK) as usize)?.get_or_init(new_chunk);
        let mut is_new = false;
        let page = chunk[(pa % CHUNK / PAGE) as usize].get_or_init(|| {
            is_new = true;
            self.pages.fetch_add(1, Relaxed);
            Box::new(Page::new())
        });
        Some((page, is_new))
    }

    /// Returns the number of pages that have a shadow.
    pub(crate) fn pages(&self) -> u64 {
        u64::from(self.pages.load(Relaxed))
    }

    /// Returns the size in bytes of all allocations for pages: shadows, and words that were fetched.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let chunks = self.chunks.iter().filter_map(OnceLock::get);
        let pages = chunks.flat_map(|chunk| chunk.iter().filter_map(OnceLock::get));
        let fetched = pages.map(|page| page.fetched_bytes()).sum();
        (self.pages() * size_of::<Page>() as u64, fetched)
    }
}

/// Sets a flag so that later readers on other threads see what was written before.
pub(crate) fn raise(flag: &AtomicBool) {
    flag.store(true, Release);
}

/// Reads a flag that [`raise`] sets.
#[inline]
pub(crate) fn is_raised(flag: &AtomicBool) -> bool {
    flag.load(Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_takes_at_most_a_kilobyte_and_a_half() {
        assert!(size_of::<Page>() + 2 * size_of::<OnceLock<Box<Page>>>() <= 1536, "{}", size_of::<Page>());
    }
}
