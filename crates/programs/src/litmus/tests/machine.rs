//! Machine that runs compiled litmus tests, one instruction of one thread at a time. All threads see the same memory.
//! Fetches see that memory, too, or they are stale and see the code as it was at first.

use std::collections::HashMap;

use crate::litmus::layout::Placed;

/// Return address of the outermost functions. It holds no code.
const OUT: u64 = 0;

/// Code that fetches see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetches {
    /// Code that was written last.
    Coherent,
    /// Code at the start.
    Stale,
}

/// Machine, with its memory in words.
#[derive(Clone)]
pub struct Machine {
    memory: HashMap<u64, u32>,
    at_first: HashMap<u64, u32>,
    fetches: Fetches,
}

/// Registers of a thread.
#[derive(Clone)]
pub struct Thread {
    x: [u64; 32],
    pc: u64,
    equal: bool,
}

impl Thread {
    /// Returns a thread at the first instruction of a function.
    pub fn at(pc: u64) -> Self {
        let mut x = [0xdead; 32];
        x[30] = OUT;
        Self { x, pc, equal: false }
    }

    /// Returns whether the function has returned.
    pub fn is_done(&self) -> bool {
        self.pc == OUT
    }

    /// Returns the value that the function returned.
    pub fn result(&self) -> u64 {
        self.x[0]
    }

    fn get(&self, number: u32) -> u64 {
        if number == 31 { 0 } else { self.x[number as usize] }
    }

    fn set(&mut self, number: u32, value: u64) {
        if number != 31 {
            self.x[number as usize] = value;
        }
    }
}

impl Machine {
    /// Returns a machine with a test in its memory, after the test's init function has run.
    pub fn new(placed: &Placed, fetches: Fetches) -> Self {
        let words = |(at, words): &(u64, Vec<u32>)| {
            let at = *at;
            words.clone().into_iter().enumerate().map(move |(n, word)| (at + 4 * n as u64, word))
        };
        let memory: HashMap<_, _> = placed.code.iter().flat_map(words).collect();
        let mut machine = Self { at_first: memory.clone(), memory, fetches };
        machine.call(placed.setup.init);
        machine.at_first = machine.memory.clone();
        machine
    }

    /// Runs a function to its end and returns its result.
    pub fn call(&mut self, function: u64) -> u64 {
        let mut thread = Thread::at(function);
        while !thread.is_done() {
            self.step(&mut thread);
        }
        thread.result()
    }

    /// Returns the word at an address.
    pub fn peek(&self, at: u64) -> u64 {
        self.load(at)
    }

    fn load(&self, at: u64) -> u64 {
        self.memory.get(&at).copied().unwrap_or(0).into()
    }

    /// Executes one instruction.
    pub fn step(&mut self, thread: &mut Thread) {
        let from = if self.fetches == Fetches::Stale { &self.at_first } else { &self.memory };
        let word = *from.get(&thread.pc).unwrap_or_else(|| panic!("nothing to execute at {:#x}", thread.pc));
        let (d, n, m) = (word & 31, word >> 5 & 31, word >> 16 & 31);
        let branch = |bits: u32, low: u32| {
            let field = i64::from(word >> low & ((1 << bits) - 1));
            let signed = if field >> (bits - 1) == 1 { field - (1 << bits) } else { field };
            thread.pc.wrapping_add((4 * signed) as u64)
        };
        let part = word >> 21 & 3;
        let imm = u64::from(word >> 5 & 0xffff) << (16 * part);
        let mut next = thread.pc + 4;
        match word {
            // NOP, barriers, cache maintenance.
            0xd503_201f | 0xd503_3fdf => (),
            _ if word & 0xffff_f09f == 0xd503_309f => (),
            _ if word & !31 == 0xd50b_7b20 || word & !31 == 0xd50b_7520 => (),
            _ if word >> 26 == 0b000101 => next = branch(26, 0),
            _ if word >> 26 == 0b100101 => {
                next = branch(26, 0);
                thread.set(30, thread.pc + 4);
            }
            _ if word & 0xff00_001f == 0x5400_0001 => next = if thread.equal { next } else { branch(19, 5) },
            _ if word >> 24 == 0x35 => next = if thread.get(d) as u32 == 0 { next } else { branch(19, 5) },
            _ if word & !0x3e0 == 0xd61f_0000 || word & !0x3e0 == 0xd65f_0000 => next = thread.get(n),
            _ if word >> 23 == 0x1a5 => thread.set(d, imm),
            _ if word >> 23 == 0x1e5 => thread.set(d, thread.get(d) & !(0xffff << (16 * part)) | imm),
            _ if word >> 10 == 0xb900_0000 >> 10 => {
                self.memory.insert(thread.get(n), thread.get(d) as u32);
            }
            _ if word >> 10 == 0xf900_0000 >> 10 => {
                self.memory.insert(thread.get(n), thread.get(d) as u32);
                self.memory.insert(thread.get(n) + 4, (thread.get(d) >> 32) as u32);
            }
            _ if word >> 10 == 0xb940_0000 >> 10 => thread.set(d, self.load(thread.get(n))),
            _ if word >> 10 == 0xf940_0000 >> 10 => {
                thread.set(d, self.load(thread.get(n)) | self.load(thread.get(n) + 4) << 32);
            }
            _ if word >> 21 == 0xca00_0000 >> 21 => thread.set(d, thread.get(n) ^ thread.get(m)),
            _ if word >> 21 == 0x8b00_0000 >> 21 => thread.set(d, thread.get(n).wrapping_add(thread.get(m))),
            _ if word >> 21 == 0xaa00_0000 >> 21 => {
                thread.set(d, thread.get(n) | thread.get(m) << (word >> 10 & 63));
            }
            _ if word >> 21 == 0x2a00_0000 >> 21 => thread.set(d, (thread.get(n) | thread.get(m)) as u32 as u64),
            _ if word >> 21 == 0xeb00_0000 >> 21 => thread.equal = thread.get(n) == thread.get(m),
            _ if word >> 21 == 0x6b00_0000 >> 21 => thread.equal = thread.get(n) as u32 == thread.get(m) as u32,
            _ if word & !31 == 0x9a9f_17e0 => thread.set(d, thread.equal.into()),
            _ if word >> 22 == 0xb340_0000 >> 22 => {
                let (lsb, mask) = ((64 - (word >> 16 & 63)) % 64, (1_u64 << ((word >> 10 & 63) + 1)) - 1);
                thread.set(d, thread.get(d) & !(mask << lsb) | (thread.get(n) & mask) << lsb);
            }
            _ => panic!("{word:#010x} at {:#x} is no instruction of these tests", thread.pc),
        }
        thread.pc = next;
    }
}
