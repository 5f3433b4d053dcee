//! What a correct hypervisor does on this machine: stage 2, and host events.

use abi::{Op, slot};

use crate::fake::Fault;
use crate::fake::machine::{CPUS, Machine, Mapped, PAGE_LINES, Pending, every_second};
use guest::event::{Contents, Event, Mappings};

impl Machine {
    fn lines_of(&self, page: usize) -> std::ops::Range<usize> {
        page * PAGE_LINES..((page + 1) * PAGE_LINES).min(self.lines.len())
    }

    /// A data access: maps the page at a translation fault.
    pub fn reach_data(&mut self, vcpu: usize, line: usize) {
        let page = line / PAGE_LINES;
        if self.pages[page].mapped == Mapped::No {
            self.host_clean(page);
            self.empty_pipeline(vcpu);
            self.pages[page].mapped = if self.geometry.dic { Mapped::Code } else { Mapped::Data };
        }
    }

    /// A fetch: maps the page, or grants execute permission.
    pub fn reach_code(&mut self, vcpu: usize, line: usize) {
        self.reach_data(vcpu, line);
        let page = line / PAGE_LINES;
        if self.pages[page].mapped == Mapped::Data {
            self.host_invalidate(page);
            self.empty_pipeline(vcpu);
            self.pages[page].mapped = Mapped::Code;
        }
    }

    fn host_clean(&mut self, page: usize) {
        if self.geometry.fwb || self.is(Fault::HostNoClean) {
            return;
        }
        for line in self.lines_of(page) {
            let line = &mut self.lines[line];
            (line.pou, line.poc) = (line.coherent, line.coherent);
        }
    }

    fn host_invalidate(&mut self, page: usize) {
        if self.is(Fault::HostNoInvalidate) {
            return;
        }
        for line in self.lines_of(page) {
            let left_out = self.is(Fault::HostInvalidateEverySecond) && every_second(self.lines[line].ipa);
            if !left_out {
                self.lines[line].icache = [None; CPUS];
            }
        }
    }

    pub fn break_copy_on_write(&mut self, line: usize) {
        let page = line / PAGE_LINES;
        if self.pages[page].copy_on_write {
            self.other_frame(page);
            self.pages[page].copy_on_write = false;
        }
    }

    /// The host copies a page elsewhere. What caches hold of the new frame is whatever was there; what was under way
    /// is for the old one.
    fn other_frame(&mut self, page: usize) {
        let lines = self.lines_of(page);
        for line in lines.clone() {
            let stale = self.stale(line);
            let held = std::array::from_fn(|_| self.random.one_in(2).then_some(stale));
            let line = &mut self.lines[line];
            (line.pou, line.poc, line.icache) = (stale, stale, held);
        }
        let moved = |pending: &Pending| match pending {
            Pending::Clean { line, .. } | Pending::Invalidate { line, .. } => lines.contains(line),
        };
        self.pending.iter_mut().for_each(|pending| pending.retain(|pending| !moved(pending)));
        self.pages[page].mapped = Mapped::No;
    }

    /// Some older generation, or no code at all.
    fn stale(&mut self, line: usize) -> u64 {
        let newest = slot::generation_of(self.lines[line].coherent);
        let generation = self.random.below(u64::from(newest) + 1) as u16;
        if self.random.one_in(4) { 0 } else { slot::first_doubleword(self.lines[line].ipa, generation) }
    }

    pub fn event(&mut self, vcpu: usize, op: &Op) {
        let Some(event) = Event::from_raw(op.args[0]) else { panic!("no event {}", op.args[0]) };
        let before: Vec<u64> = self.lines.iter().map(|line| line.coherent).collect();
        match event.mappings() {
            Mappings::Kept => {}
            Mappings::Unmapped => self.pages.iter_mut().for_each(|page| page.mapped = Mapped::No),
            Mappings::Copied => (0..self.pages.len()).for_each(|page| self.other_frame(page)),
        }
        match event {
            Event::MoveVcpu => self.move_vcpu(vcpu),
            Event::Fork => self.pages.iter_mut().for_each(|page| page.copy_on_write = true),
            Event::CopyOnWrite => self.pages.iter_mut().for_each(|page| page.copy_on_write = false),
            _ => {}
        }
        if event.contents() == Contents::Written {
            self.host_writes(op);
        }
        if event.mappings() == Mappings::Copied && self.is(Fault::OldFrames) {
            self.lines.iter_mut().zip(before).for_each(|(line, before)| line.old_frame = Some((vcpu, before)));
        }
        if self.is(Fault::ContentsLost) {
            self.lose(op, event);
        }
    }

    fn host_writes(&mut self, op: &Op) {
        for line in &mut self.lines {
            if in_span(op, line.ipa) {
                line.coherent = slot::first_doubleword(line.ipa, op.args[1] as u16);
            }
        }
    }

    fn lose(&mut self, op: &Op, event: Event) {
        let line = self.random.below(self.lines.len() as u64) as usize;
        let Some(line) = self.lines.get_mut(line) else { return };
        if event.contents() == Contents::Kept || !in_span(op, line.ipa) {
            line.coherent = 0;
        }
    }

    /// The scheduler executes a DSB before another task runs, and enters the guest by an exception return.
    fn move_vcpu(&mut self, vcpu: usize) {
        self.dsb(vcpu);
        self.empty_pipeline(vcpu);
        if let Some(free) = (0..CPUS).find(|cpu| !self.cpu_of.contains(cpu)) {
            self.cpu_of[vcpu] = free;
            self.empty_pipeline(vcpu);
        }
    }
}

fn in_span(op: &Op, ipa: u64) -> bool {
    (op.start..op.start + op.bytes).contains(&ipa) && (ipa - op.start).is_multiple_of(op.stride)
}
