// SPDX-License-Identifier: GPL-2.0-or-later
//! Judgement of fetches, and of loads without caches.

use std::sync::atomic::Ordering::Relaxed;

use super::page::{LINE, PAGE, Page, Version, Writer};
use super::report::{Example, Key, Kind, Missing, Owed};
use super::state::{Place, Ram, Shadow, lock};
use super::text::{MOV_X9_X30, NOP, is_modifiable};

/// A fetch of a word that is not coherent for all PEs, at a translated instruction.
#[derive(Debug)]
pub(crate) struct Suspect {
    place: Place,
    pa: u64,
    word: u32,
    old_word: Option<u32>,
}

impl<R: Ram> Shadow<R> {
    /// Records that an instruction was translated. Returns a suspect if the word is not coherent for all PEs, to be
    /// judged when a PE executes it.
    pub(crate) fn translate(&self, place: Place, pa: u64, word: u32) -> Option<Suspect> {
        let page = match self.memory.page(pa) {
            Some(page) => page,
            None => self.new_page(pa)?,
        };
        let (line, index) = ((pa % PAGE / LINE) as usize, (pa % PAGE / 4) as usize);
        let is_written = page.state(line).written(index % (LINE / 4) as usize);
        if is_written && !self.is_fetchable(page, line, Version::Newest, None) {
            return Some(Suspect { place, pa, word, old_word: page.fetched(index) });
        }
        page.set_fetched(index, word);
        None
    }

    /// Judges a suspect that a PE executes. Returns true if it need not be judged again.
    pub(crate) fn execute(&self, pe: usize, suspect: &Suspect) -> bool {
        let Suspect { place, pa, word, old_word } = *suspect;
        let Some(page) = self.memory.page(pa) else { return true };
        let line = (pa % PAGE / LINE) as usize;
        if !page.state(line).written((pa % LINE / 4) as usize) {
            return true;
        }
        let mut reports = lock(&self.reports);
        reports.section().checked.fetches += 1;
        drop(reports);
        let Some(missing) = self.lacks_i(page, pa, Version::Newest, Some(pe)) else { return false };
        let may_differ = |word: Option<u32>| word.is_none_or(is_modifiable);
        if !place.guest && is_modifiable(word) && may_differ(old_word) {
            return true;
        }
        let vttbr = if place.guest { self.pe(pe).vttbr.load(Relaxed) } else { 0 };
        let owed = if place.guest {
            let host_lacks = self.lacks_i(page, pa, Version::Host, Some(pe)).is_some();
            self.owed(page, pa, host_lacks, vttbr)
        } else if (old_word.unwrap_or(NOP), word) == (NOP, MOV_X9_X30) {
            Owed::TextPatching
        } else {
            Owed::Host
        };
        let version = if place.guest && owed != Owed::Guest { Version::Host } else { Version::Newest };
        let writer = page.writer(line, version);
        self.report_access(pe, place, pa, Kind::Fetch, missing, owed, writer, vttbr, Some((word, old_word)));
        true
    }

    /// Records a load by a guest. `is_cached` tells whether it may hit in a cache, and is asked only where it matters.
    pub(crate) fn load(&self, pe: usize, place: &Place, pa: u64, is_cached: impl FnOnce() -> bool) {
        let Some(page) = self.memory.page(pa) else { return };
        let line = (pa % PAGE / LINE) as usize;
        let state = page.state(line);
        if self.fwb() || !state.written((pa % LINE / 4) as usize) {
            return;
        }
        if state.poc(Version::Newest) || is_cached() {
            return;
        }
        let Some(missing) = self.lacks_d(page, pa, Version::Newest) else { return };
        let vttbr = self.pe(pe).vttbr.load(Relaxed);
        let owed = self.owed(page, pa, self.lacks_d(page, pa, Version::Host).is_some(), vttbr);
        let writer = page.writer(line, Version::Newest);
        self.report_access(pe, *place, pa, Kind::Load, missing, owed, writer, vttbr, None);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one report")]
    fn report_access(
        &self,
        pe: usize,
        place: Place,
        pa: u64,
        kind: Kind,
        missing: Missing,
        owed: Owed,
        writer: Option<Writer>,
        vttbr: u64,
        words: Option<(u32, Option<u32>)>,
    ) {
        let stage2 = lock(&self.stage2);
        let ipa = stage2.root_of(vttbr).and_then(|root| stage2.rewritten(root, pa)).map(|(_, ipa)| ipa + pa % PAGE);
        drop(stage2);
        let writer_pc = writer.and_then(|writer| self.code_of(writer));
        let example = Example {
            lines: 1,
            of: 1,
            pa,
            ipa,
            vmid: (vttbr >> 48) as u16,
            pe: pe as u64,
            el: place.el,
            writer_pe: writer.map_or(0, Writer::pe),
            word: words.map(|(word, _)| word),
            old_word: words.and_then(|(_, old)| old),
            ..Example::default()
        };
        lock(&self.reports).add(Key { kind, missing, owed, pc: place.code(), writer_pc }, example);
    }

    /// Returns who owes the maintenance of a line that a guest reaches and whose newest store is not `fulfilled`.
    fn owed(&self, page: &Page, pa: u64, host_lacks: bool, vttbr: u64) -> Owed {
        let line = (pa % PAGE / LINE) as usize;
        if page.writer(line, Version::Host).is_none() || !host_lacks {
            return Owed::Guest;
        }
        let stage2 = lock(&self.stage2);
        let root = stage2.root_of(vttbr);
        match root.and_then(|root| stage2.rewritten(root, pa)) {
            Some((rewritten, _)) if rewritten >> line & 1 != 0 => Owed::InPlace,
            _ => Owed::Host,
        }
    }
}
