//! Host of a fake machine: a correct hypervisor, unless a defect is planted. It does stage 2 and host events.

use abi::{Op, slot};

use crate::fake::defect::Defect;
use crate::fake::machine::{CPUS, Machine, Mapped, PAGE_LINES, Pending, every_second};
use crate::fake::seen::Seen;
use guest::event::{Contents, Event, Mappings};

impl Machine {
    fn lines_of(&self, page: usize) -> std::ops::Range<usize> {
        page * PAGE_LINES..((page + 1) * PAGE_LINES).min(self.lines.len())
    }

    /// Takes the translation fault of a data access, if the page is not mapped.
    pub fn access_data(&mut self, vcpu: usize, line: usize) {
        let page = line / PAGE_LINES;
        if self.pages[page].mapped == Mapped::No {
            self.host_clean(vcpu, page);
            self.empty_pipeline(vcpu);
            self.pages[page].mapped = if self.features.dic { Mapped::Code } else { Mapped::Data };
            self.seen.push(Seen::Map { pe: self.cpu_of[vcpu], page, execute: self.features.dic });
        }
    }

    /// Takes the faults of a fetch: the translation fault if the page is not mapped, and the permission fault if the
    /// mapping is not executable.
    pub fn access_code(&mut self, vcpu: usize, line: usize) {
        self.access_data(vcpu, line);
        let page = line / PAGE_LINES;
        if self.pages[page].mapped == Mapped::Data {
            self.host_invalidate(vcpu, page);
            self.empty_pipeline(vcpu);
            self.pages[page].mapped = Mapped::Code;
            self.seen.push(Seen::Map { pe: self.cpu_of[vcpu], page, execute: true });
        }
    }

    /// Cleans a page before it is mapped, unless FWB makes that unnecessary.
    fn host_clean(&mut self, vcpu: usize, page: usize) {
        if self.features.fwb || self.has(Defect::HostNoClean) {
            return;
        }
        let pe = self.cpu_of[vcpu];
        let lines = self.lines_of(page);
        self.seen.extend(lines.clone().map(|line| Seen::Clean { pe, line, poc: true, host: true }));
        self.seen.push(Seen::Dsb { pe });
        for line in lines {
            let line = &mut self.lines[line];
            (line.pou, line.poc) = (line.coherent, line.coherent);
        }
    }

    /// Invalidates a page before it becomes executable.
    fn host_invalidate(&mut self, vcpu: usize, page: usize) {
        if self.has(Defect::HostNoInvalidate) {
            return;
        }
        let pe = self.cpu_of[vcpu];
        for line in self.lines_of(page) {
            let left_out = self.has(Defect::HostInvalidateEverySecond) && every_second(self.lines[line].ipa);
            if !left_out {
                self.seen.push(Seen::Invalidate { pe, line, host: true });
                self.lines[line].icache = [None; CPUS];
            }
        }
        self.seen.push(Seen::Dsb { pe });
    }

    /// Copies the page of a line if it is copy-on-write.
    pub fn break_copy_on_write(&mut self, line: usize) {
        let page = line / PAGE_LINES;
        if self.pages[page].copy_on_write {
            self.copy_page(page);
            self.pages[page].copy_on_write = false;
        }
    }

    /// Copies a page to another frame. The caches may hold the former contents of the new frame. Maintenance that is
    /// not complete belongs to the old frame.
    fn copy_page(&mut self, page: usize) {
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
        self.seen.push(Seen::Copy { page });
    }

    /// Returns former contents of a frame: an older generation of the slot, or no code.
    fn stale(&mut self, line: usize) -> u64 {
        let newest = slot::generation_of(self.lines[line].coherent);
        let generation = self.random.below(u64::from(newest) + 1) as u16;
        if self.random.one_in(4) { 0 } else { slot::first_doubleword(self.lines[line].ipa, generation) }
    }

    /// Does the host event that an op of a vCPU asks for.
    pub fn event(&mut self, vcpu: usize, op: &Op) {
        let Some(event) = Event::from_raw(op.args[0]) else { panic!("no event {}", op.args[0]) };
        let before: Vec<u64> = self.lines.iter().map(|line| line.coherent).collect();
        match event.mappings() {
            Mappings::Kept => {}
            Mappings::Unmapped => {
                self.pages.iter_mut().for_each(|page| page.mapped = Mapped::No);
                self.seen.extend((0..self.pages.len()).map(|page| Seen::Unmap { page }));
            }
            Mappings::Copied => (0..self.pages.len()).for_each(|page| self.copy_page(page)),
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
        if event.mappings() == Mappings::Copied && self.has(Defect::OldFrames) {
            self.lines.iter_mut().zip(before).for_each(|(line, before)| line.old_frame = Some((vcpu, before)));
        }
        if self.has(Defect::ContentsLost) {
            self.lose(op, event);
        }
    }

    /// Writes the slots of an event's span.
    fn host_writes(&mut self, op: &Op) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            if in_span(op, line.ipa) {
                self.seen.push(Seen::HostStore { line: index });
                line.coherent = slot::first_doubleword(line.ipa, op.args[1] as u16);
            }
        }
    }

    /// Loses the contents of a random line, if the event has not just written it.
    fn lose(&mut self, op: &Op, event: Event) {
        let line = self.random.below(self.lines.len() as u64) as usize;
        let Some(line) = self.lines.get_mut(line) else { return };
        if event.contents() == Contents::Kept || !in_span(op, line.ipa) {
            line.coherent = 0;
        }
    }

    /// Moves a vCPU to a free CPU. The host's scheduler executes a DSB before another task runs, and the return to the
    /// guest is a context synchronization event.
    fn move_vcpu(&mut self, vcpu: usize) {
        self.dsb(vcpu);
        self.empty_pipeline(vcpu);
        if let Some(free) = (0..CPUS).find(|cpu| !self.cpu_of.contains(cpu)) {
            self.cpu_of[vcpu] = free;
            self.empty_pipeline(vcpu);
        }
    }
}

/// Returns whether an event's span contains the slot at an IPA.
fn in_span(op: &Op, ipa: u64) -> bool {
    (op.start..op.start + op.bytes).contains(&ipa) && (ipa - op.start).is_multiple_of(op.stride)
}
