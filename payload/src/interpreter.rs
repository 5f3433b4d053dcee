//! Runs programs: an op at a time, a record per op, a record per element where asked.

use abi::op::{Attr, Barrier, CACHES_OFF, CHECK, EACH, FORCE, MISMATCH_CAP, NON_CACHEABLE, SLEEP, SLOT};
use abi::record::{Body, Element, Mismatch, Place, Summary};
use abi::{Ctr, Op, OpCode, Outcome, Record, channel::State, slot};

mod race;

/// The deepest nest of [`OpCode::Repeat`].
const MAX_REPEATS: usize = 8;

/// What one timed access saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Access {
    /// Counter just before the access.
    pub began: u64,
    /// Counter just after it.
    pub ended: u64,
    /// What a load or a call returned.
    pub value: u64,
    /// ESR_EL1 if the access took an exception, else 0. An exception leaves `ended` as it was.
    pub esr: u64,
    /// FAR_EL1 of that exception.
    pub far: u64,
    /// ELR_EL1 of that exception.
    pub elr: u64,
}

impl Access {
    fn ticks(&self) -> u64 {
        self.ended.wrapping_sub(self.began)
    }
}

/// Which D-cache clean [`Cpu::clean_d`] executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clean {
    /// `DC CVAU`, to the PoU.
    ToPou,
    /// `DC CVAC`, to the PoC.
    ToPoc,
    /// `DC CIVAC`, clean and invalidate to the PoC.
    AndInvalidate,
}

/// How [`Cpu::load`] looks at memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Through the data caches.
    Cacheable,
    /// Through a Non-cacheable mapping.
    NonCacheable,
    /// With SCTLR_EL1.C cleared.
    CachesOff,
}

impl Look {
    fn of(flags: u16) -> Self {
        match flags {
            flags if flags & CACHES_OFF != 0 => Self::CachesOff,
            flags if flags & NON_CACHEABLE != 0 => Self::NonCacheable,
            _ => Self::Cacheable,
        }
    }
}

/// What the interpreter needs from a CPU. Addresses are IPAs, mapped one to one at stage 1.
pub trait Cpu {
    /// Returns CTR_EL0.
    fn ctr(&self) -> Ctr;
    /// Returns whether CLIDR_EL1 implies IDC.
    fn clidr_implies_idc(&self) -> bool;
    /// Returns the counter, ordered against earlier and later instructions.
    fn ticks(&mut self) -> u64;
    /// Calls the code at `ipa`.
    fn fetch(&mut self, ipa: u64) -> Access;
    /// Loads the `u64` at `ipa`.
    fn load(&mut self, ipa: u64, look: Look) -> Access;
    /// Prepares loads that look past the caches in a range; returns whether that is possible.
    fn prepare(&mut self, look: Look, ipa: u64, bytes: u64) -> bool;
    /// Stores `value` at `ipa`.
    fn store(&mut self, ipa: u64, value: u64) -> Access;
    /// Executes the clean on the line that holds `ipa`.
    fn clean_d(&mut self, clean: Clean, ipa: u64);
    /// Executes `IC IVAU` on the line that holds `ipa`.
    fn inval_i(&mut self, ipa: u64);
    /// Executes `IC IALLUIS`.
    fn inval_i_all(&mut self);
    /// Executes a barrier.
    fn barrier(&mut self, barrier: Barrier);
    /// Maps a range anew with break-before-make; returns whether that was possible.
    fn remap(&mut self, ipa: u64, bytes: u64, attr: Attr, max_block_bytes: u64) -> bool;
    /// Waits until `vcpus` vCPUs are at rendezvous `number`; `op` is for waiting in the host.
    fn rendezvous(&mut self, number: u64, vcpus: u64, sleep: bool, op: u32);
    /// Asks the host for the event of `op`.
    fn event(&mut self, op: u32);
    /// Waits.
    fn wait(&mut self, ticks: u64);
    /// Calls the code at `ipa` with nothing around the call: no barrier, no time.
    fn call(&mut self, ipa: u64) -> Access;
    /// Reads a word that other vCPUs may write.
    fn peek(&mut self, ipa: u64) -> u64;
    /// Writes a word that other vCPUs may read.
    fn poke(&mut self, ipa: u64, value: u64);
    /// Waits until `vcpus` vCPUs have arrived at the meeting that is counted at `ipa`.
    fn meet(&mut self, ipa: u64, vcpus: u64);
    /// Goes around a loop of nothing.
    fn spin(&mut self, rounds: u64);
}

/// Where records and progress go.
pub trait Sink {
    /// Says which op runs next.
    fn at(&mut self, op: u32);
    /// Takes a record; drops and counts it when there is no room.
    fn record(&mut self, record: Record);
}

/// Runs `ops` to the end and returns how it ended.
pub fn run(cpu: &mut impl Cpu, ops: &[Op], sink: &mut impl Sink) -> State {
    let mut interpreter = Interpreter::new(ops);
    loop {
        if let Some(state) = interpreter.step(cpu, sink) {
            return state;
        }
    }
}

/// A program under way, an op at a time, so that tests can interleave several.
pub struct Interpreter<'a> {
    ops: &'a [Op],
    index: u32,
    machine: Machine,
}

impl<'a> Interpreter<'a> {
    /// Returns a program at its first op.
    pub const fn new(ops: &'a [Op]) -> Self {
        Self { ops, index: 0, machine: Machine { repeats: [(u32::MAX, 0); MAX_REPEATS], pass: 0 } }
    }

    /// Runs one op; returns how the program ended, if it did.
    #[inline(always)]
    pub fn step(&mut self, cpu: &mut impl Cpu, sink: &mut impl Sink) -> Option<State> {
        let Some(op) = self.ops.get(self.index as usize) else { return Some(State::BadProgram) };
        sink.at(self.index);
        match self.machine.step(cpu, op, self.index, sink) {
            Next::Op => self.index += 1,
            Next::Jump(target) => self.index = target,
            Next::Stop(state) => return Some(state),
        }
        None
    }
}

enum Next {
    Op,
    Jump(u32),
    Stop(State),
}

struct Machine {
    /// Op index and count of each repeat under way.
    repeats: [(u32, u64); MAX_REPEATS],
    /// Jumps taken so far.
    pass: u32,
}

impl Machine {
    fn step(&mut self, cpu: &mut impl Cpu, op: &Op, index: u32, sink: &mut impl Sink) -> Next {
        let Some(code) = OpCode::from_raw(op.code) else { return Next::Stop(State::BadProgram) };
        let place = Place { op: index, tag: op.tag, pass: self.pass };
        let mut tally = Tally::new(place, op.flags, cpu.ticks());
        match code {
            OpCode::End => return Next::Stop(State::Ended),
            OpCode::Next => return Next::Stop(State::BetweenPrograms),
            OpCode::Repeat => return self.repeat(op, index),
            OpCode::WriteCode => write_code(cpu, op, &mut tally, sink),
            OpCode::Load => {
                if !load(cpu, op, &mut tally, sink) {
                    return Next::Stop(State::BadProgram);
                }
            }
            OpCode::Store => {
                elements(op, &mut tally, sink, |ipa| cpu.store(ipa, op.args[0]), |_, access| access.value);
            }
            OpCode::Fetch => {
                let expected = |ipa, _: &Access| slot::token(ipa, op.args[0] as u16);
                elements(op, &mut tally, sink, |ipa| cpu.fetch(ipa), expected);
            }
            OpCode::CleanD => clean_d(cpu, op, &mut tally),
            OpCode::InvalI => inval_i(cpu, op, &mut tally),
            OpCode::InvalIAll => {
                cpu.inval_i_all();
                tally.count = 1;
            }
            OpCode::Barrier => match Barrier::from_raw(op.args[0]) {
                Some(barrier) => cpu.barrier(barrier),
                None => return Next::Stop(State::BadProgram),
            },
            OpCode::Remap => {
                let Some(attr) = Attr::from_raw(op.args[0]) else { return Next::Stop(State::BadProgram) };
                if !cpu.remap(op.start, op.bytes, attr, op.args[1]) {
                    return Next::Stop(State::BadProgram);
                }
            }
            OpCode::Rendezvous => cpu.rendezvous(op.args[0], op.args[1], op.flags & SLEEP != 0, index),
            OpCode::Event => cpu.event(index),
            OpCode::Wait => cpu.wait(op.args[0]),
            OpCode::Race => {
                if !race::run(cpu, op, &mut tally, sink) {
                    return Next::Stop(State::BadProgram);
                }
            }
        }
        sink.record(tally.summary(cpu));
        Next::Op
    }

    /// Jumps back until the op has been reached as often as it says, then forgets the count.
    fn repeat(&mut self, op: &Op, index: u32) -> Next {
        let [target, times, ..] = op.args;
        let Some(entry) = self
            .repeats
            .iter()
            .position(|(at, _)| *at == index)
            .or_else(|| self.repeats.iter().position(|(at, _)| *at == u32::MAX))
        else {
            return Next::Stop(State::BadProgram);
        };
        let count = self.repeats[entry].1 + 1;
        if count >= times || target >= u64::from(index) {
            self.repeats[entry] = (u32::MAX, 0);
            return Next::Op;
        }
        self.repeats[entry] = (index, count);
        self.pass = self.pass.wrapping_add(1);
        Next::Jump(target as u32)
    }
}

/// Counts over the elements of one op.
struct Tally {
    place: Place,
    flags: u16,
    /// The worst outcome so far.
    outcome: Outcome,
    count: u64,
    mismatches: u64,
    min: u64,
    max: u64,
    sum: u64,
    began: u64,
    whole_op: bool,
}

impl Tally {
    fn new(place: Place, flags: u16, began: u64) -> Self {
        let (outcome, min) = (Outcome::Ok, u64::MAX);
        Self { place, flags, outcome, count: 0, mismatches: 0, min, max: 0, sum: 0, began, whole_op: true }
    }

    /// Writes what an element was, where every one is asked for or this one is wrong.
    #[inline(never)]
    fn element(&mut self, ipa: u64, access: &Access, expected: u64, sink: &mut impl Sink) {
        let wrong = access.esr != 0 || (self.flags & CHECK != 0 && access.value != expected);
        if self.flags & EACH != 0 {
            let outcome = if wrong { outcome(access) } else { Outcome::Ok };
            let element = Element {
                ipa,
                ticks: access.ticks(),
                value: access.value,
                esr_el1: access.esr,
                far_el1: access.far,
                began_ticks: access.began,
            };
            sink.record(Record::new(self.place, outcome, Body::Element(element)));
        }
        if wrong {
            self.mismatch(ipa, access, expected, sink);
        }
    }

    #[cold]
    fn mismatch(&mut self, ipa: u64, access: &Access, expected: u64, sink: &mut impl Sink) {
        let outcome = outcome(access);
        self.mismatches += 1;
        self.outcome = self.outcome.max(outcome);
        if self.mismatches <= MISMATCH_CAP {
            let Access { value, esr, far, elr, .. } = *access;
            let mismatch = Mismatch { ipa, value, expected, esr_el1: esr, far_el1: far, elr_el1: elr };
            sink.record(Record::new(self.place, outcome, Body::Mismatch(mismatch)));
        }
    }

    /// Returns the summary. An op without timed elements counts as one stretch of time.
    fn summary(&self, cpu: &mut impl Cpu) -> Record {
        let (min, max, sum) = if self.whole_op {
            let ticks = cpu.ticks().saturating_sub(self.began);
            (ticks, ticks, ticks)
        } else {
            (if self.count == 0 { 0 } else { self.min }, self.max, self.sum)
        };
        let summary = Summary {
            elements: self.count,
            mismatches: self.mismatches,
            min_ticks: min,
            max_ticks: max,
            sum_ticks: sum,
            began_ticks: self.began,
        };
        Record::new(self.place, self.outcome, Body::Summary(summary))
    }
}

fn outcome(access: &Access) -> Outcome {
    if access.esr == 0 { Outcome::Wrong } else { Outcome::from_esr(access.esr) }
}

/// Visits the op's elements with a timed access, and compares the value it returned with what is expected.
///
/// Counts stay in locals and the access where it was returned, so that an element costs little outside its window.
#[inline(always)]
fn elements(
    op: &Op,
    tally: &mut Tally,
    sink: &mut impl Sink,
    mut access: impl FnMut(u64) -> Access,
    expected: impl Fn(u64, &Access) -> u64,
) {
    let (each, check) = (op.flags & EACH != 0, op.flags & CHECK != 0);
    let (mut sum, mut min, mut max) = (0, u64::MAX, 0);
    let count = for_each(op, op.stride, |ipa| {
        let access = access(ipa);
        let expected = expected(ipa, &access);
        let ticks = access.ticks();
        sum += ticks;
        min = min.min(ticks);
        max = max.max(ticks);
        if each || access.esr != 0 || (check && access.value != expected) {
            tally.element(ipa, &access, expected, sink);
        }
    });
    tally.whole_op = false;
    (tally.count, tally.sum, tally.min, tally.max) = (count, sum, min, max);
}

/// Visits `start`, `start + stride`, … below the end of the range; a stride of 0 visits the start alone. Returns how
/// many it visited.
#[inline(always)]
fn for_each(op: &Op, stride: u64, mut visit: impl FnMut(u64)) -> u64 {
    // A range that ends beyond the address space ends there.
    let bytes = op.bytes.min(u64::MAX - op.start);
    let count = if stride == 0 { u64::from(bytes > 0) } else { bytes.div_ceil(stride) };
    let mut ipa = op.start;
    let mut left = count;
    while left > 0 {
        visit(ipa);
        ipa = ipa.wrapping_add(stride);
        left -= 1;
    }
    count
}

/// Loads; returns whether the op's look is possible.
fn load(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally, sink: &mut impl Sink) -> bool {
    let look = Look::of(op.flags);
    if look != Look::Cacheable && !cpu.prepare(look, op.start, op.bytes) {
        return false;
    }
    if op.flags & SLOT == 0 {
        elements(op, tally, sink, |ipa| cpu.load(ipa, look), |_, _| op.args[0]);
    } else {
        let expected = |ipa, _: &Access| slot::first_doubleword(ipa, op.args[0] as u16);
        elements(op, tally, sink, |ipa| cpu.load(ipa, look), expected);
    }
    true
}

/// Writes the slots; the timed access of each is the store of its first two instructions.
fn write_code(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally, sink: &mut impl Sink) {
    let write = |ipa| {
        let [a, b, c, d, e] = slot::encode(ipa, op.args[0] as u16).map(u64::from);
        let access = cpu.store(ipa, a | b << 32);
        if access.esr == 0 {
            cpu.store(ipa + 8, c | d << 32);
            cpu.store(ipa + 16, e);
        }
        access
    };
    elements(op, tally, sink, write, |_, access| access.value);
}

/// Goes line by line through the range, from the start of its first line.
fn lines(op: &Op, line_bytes: u64, tally: &mut Tally, visit: impl FnMut(u64)) {
    let stride = if op.stride == 0 { line_bytes } else { op.stride };
    let start = op.start & !(line_bytes - 1);
    let aligned = Op { start, bytes: op.bytes.saturating_add(op.start - start), ..*op };
    tally.count = for_each(&aligned, stride, visit);
}

fn clean_d(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally) {
    let clean = match op.args[0] {
        1 => Clean::ToPoc,
        2 => Clean::AndInvalidate,
        _ => Clean::ToPou,
    };
    let needed = clean != Clean::ToPou || !(cpu.ctr().idc() || cpu.clidr_implies_idc());
    if needed || op.flags & FORCE != 0 {
        lines(op, cpu.ctr().dmin_line_bytes(), tally, |ipa| cpu.clean_d(clean, ipa));
    }
}

fn inval_i(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally) {
    if !cpu.ctr().dic() || op.flags & FORCE != 0 {
        lines(op, cpu.ctr().imin_line_bytes(), tally, |ipa| cpu.inval_i(ipa));
    }
}

#[cfg(test)]
pub(crate) mod tests;
