//! Interpreter of programs. It runs one op after the other and writes a record for each, and for each element if the op
//! asks for that.

use abi::channel::State;
use abi::op::{Attr, Barrier, SLEEP};
use abi::record::Place;
use abi::{Op, OpCode};

mod cpu;
mod race;
mod ranges;
mod tally;

pub use cpu::{Access, Clean, Cpu, LoadMode, WaitIn};
pub use tally::Sink;

use tally::Tally;

/// Maximum depth of nested [`OpCode::Repeat`] loops.
const MAX_REPEATS: usize = 8;

/// Runs `ops` until the program ends, and returns the state in which it ended.
pub fn run(cpu: &mut impl Cpu, ops: &[Op], sink: &mut impl Sink) -> State {
    let mut interpreter = Interpreter::new(ops);
    loop {
        if let Some(state) = interpreter.step(cpu, sink) {
            return state;
        }
    }
}

/// Running program. It advances one op at a time, so that tests can interleave several programs.
pub struct Interpreter<'a> {
    ops: &'a [Op],
    /// Index of the next op.
    index: u32,
    /// Repeat loops that have begun and not ended.
    repeats: [Option<Repeat>; MAX_REPEATS],
    /// Number of jumps so far.
    pass: u32,
}

/// Repeat loop that has begun.
#[derive(Clone, Copy)]
struct Repeat {
    /// Index of the repeat op.
    op: u32,
    /// Number of times that the op has been reached.
    count: u64,
}

/// Continuation after an op.
enum Next {
    /// Continue with the next op.
    Op,
    /// Continue with the op of this index.
    Jump(u32),
    /// End the program.
    Stop(State),
}

impl<'a> Interpreter<'a> {
    /// Returns a program that has not begun.
    pub const fn new(ops: &'a [Op]) -> Self {
        Self { ops, index: 0, repeats: [None; MAX_REPEATS], pass: 0 }
    }

    /// Runs one op. Returns the state in which the program ended, if it did.
    #[inline(always)]
    pub fn step(&mut self, cpu: &mut impl Cpu, sink: &mut impl Sink) -> Option<State> {
        let Some(op) = self.ops.get(self.index as usize) else { return Some(State::BadProgram) };
        sink.at(self.index);
        match self.run_op(cpu, op, sink) {
            Next::Op => self.index += 1,
            Next::Jump(target) => self.index = target,
            Next::Stop(state) => return Some(state),
        }
        None
    }

    fn run_op(&mut self, cpu: &mut impl Cpu, op: &Op, sink: &mut impl Sink) -> Next {
        const BAD: Next = Next::Stop(State::BadProgram);
        let Some(code) = OpCode::from_raw(op.code) else { return BAD };
        let place = Place { op: self.index, tag: op.tag, pass: self.pass };
        let mut tally = Tally::new(place, op.flags, cpu.ticks());
        match code {
            OpCode::End => return Next::Stop(State::Ended),
            OpCode::Next => return Next::Stop(State::BetweenPrograms),
            OpCode::Repeat => return self.repeat(op),
            OpCode::WriteCode => ranges::write_code(cpu, op, &mut tally, sink),
            OpCode::Load => {
                if !ranges::load(cpu, op, &mut tally, sink) {
                    return BAD;
                }
            }
            OpCode::Store => ranges::store(cpu, op, &mut tally, sink),
            OpCode::Fetch => ranges::fetch(cpu, op, &mut tally, sink),
            OpCode::CleanD => ranges::clean_d(cpu, op, &mut tally),
            OpCode::InvalI => ranges::inval_i(cpu, op, &mut tally),
            OpCode::InvalIAll => {
                cpu.inval_i_all();
                tally.count = 1;
            }
            OpCode::Barrier => match Barrier::from_raw(op.args[0]) {
                Some(barrier) => cpu.barrier(barrier),
                None => return BAD,
            },
            OpCode::Remap => {
                let Some(attr) = Attr::from_raw(op.args[0]) else { return BAD };
                if !cpu.remap(op.start, op.bytes, attr, op.args[1]) {
                    return BAD;
                }
            }
            OpCode::Rendezvous => {
                let wait = if op.flags & SLEEP == 0 { WaitIn::Guest } else { WaitIn::Host { op: self.index } };
                cpu.rendezvous(op.args[0], op.args[1], wait);
            }
            OpCode::Event => cpu.event(self.index),
            OpCode::Wait => cpu.wait(op.args[0]),
            OpCode::Race => {
                if !race::run(cpu, op, &mut tally, sink) {
                    return BAD;
                }
            }
        }
        sink.record(tally.summary(cpu));
        Next::Op
    }

    /// Jumps back, or ends the loop once the op has been reached as often as it says.
    fn repeat(&mut self, op: &Op) -> Next {
        let [target, times, ..] = op.args;
        let index = self.index;
        let is_own = |entry: &Option<Repeat>| entry.is_some_and(|repeat| repeat.op == index);
        let own = self.repeats.iter().position(is_own);
        let Some(entry) = own.or_else(|| self.repeats.iter().position(Option::is_none)) else {
            return Next::Stop(State::BadProgram);
        };
        let count = self.repeats[entry].map_or(0, |repeat| repeat.count) + 1;
        if count >= times || target >= u64::from(index) {
            self.repeats[entry] = None;
            return Next::Op;
        }
        self.repeats[entry] = Some(Repeat { op: index, count });
        self.pass = self.pass.wrapping_add(1);
        Next::Jump(target as u32)
    }
}

#[cfg(test)]
pub(crate) mod tests;
