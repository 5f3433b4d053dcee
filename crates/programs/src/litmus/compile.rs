//! From symbolic threads to machine code.
//!
//! A thread is a function that keeps to AAPCS64. It puts all constants into registers, runs the steps, and returns what
//! it observed, each value at its place in the outcome. Where the addresses are changes no length, so that code is compiled
//! once to be placed and once more to be run.

use crate::litmus::a64::{
    self, LINK, NOP, Reg, ZERO, add, b, b_ne, bfi, bl, br, cbnz, cmp, cmp_w, cset_eq, dc_cvau, eor, ic_ivau, ldr_w,
    ldr_x, mov, mov_w, movk, movz, orr, ret, str_w, str_x,
};
use crate::litmus::test::{Code, Data, Shape, Source, Step, Test, VALUE_BITS};

/// Where everything is that code refers to, by [`Code`] and [`Data`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The instructions that are changed.
    pub code: [u64; 2],
    /// What follows those that stand in a thread, with what they jump over.
    pub behind: [u64; 2],
    /// The data.
    pub data: [u64; 2],
}

/// A store to the doorbell: which event to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Address to write to.
    pub doorbell: u64,
    /// What to write: the vCPU, and the index of an event op in its program.
    pub value: u64,
}

/// Compiled code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The instructions.
    pub words: Vec<u32>,
    /// Where each instruction that is changed stands in them, as an index, if it does.
    pub code: [Option<usize>; 2],
    /// What follows each of these, as an index.
    pub behind: [Option<usize>; 2],
}

/// Registers that hold constants.
const CONSTANTS: [Reg; 15] = {
    let mut all = [ZERO; 15];
    let mut n = 0;
    while n < 15 {
        // x1 to x8, x11 to x17.
        all[n] = Reg(if n < 8 { n as u8 + 1 } else { n as u8 + 3 });
        n += 1;
    }
    all
};
/// First of the registers that hold what was observed.
const FIRST_OBSERVED: u8 = 19;
/// What functions that begin with a changed instruction return.
const RETURNED: Reg = Reg(9);
/// For what lives no longer than a step.
const SCRATCH: Reg = Reg(10);
/// The thread's own return address.
const RETURN_ADDRESS: Reg = Reg(27);
/// The outcome.
const RESULT: Reg = Reg(0);
/// Instructions that an address takes: enough for 48 bits.
const ADDRESS_PARTS: u32 = 3;

/// A constant that a thread needs in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Constant {
    Code(Code),
    Data(Data),
    Version(Code, u8),
    Value(u8),
    Doorbell,
    Ring,
}

struct Assembler<'a> {
    test: &'a Test,
    addresses: &'a Addresses,
    /// Address of the first instruction.
    at: u64,
    out: Compiled,
    constants: Vec<Constant>,
    ring: Option<Ring>,
    /// How many values were observed so far.
    observed: u8,
}

/// Returns the encoding of a version of an instruction.
///
/// The last version goes on to the next instruction: as NOP in herdtools7's tests, as a branch in those of the paper. The
/// others jump to what their version makes the thread observe, the older the farther.
pub fn version(test: &Test, code: Code, version: u8) -> u32 {
    let newer = i64::from(test.versions(code) - 1 - version);
    match (newer, test.source) {
        (0, Source::Herdtools7) => NOP,
        // Two versions in a thread: the first jumps over the only instruction that the second executes.
        (1, _) if test.shape(code) == Some(Shape::Inline) && test.versions(code) == 2 => b(8),
        _ => b(4 + 8 * newer),
    }
}

/// Returns the function that begins with `code` and returns its version in x9.
pub fn function(test: &Test, code: Code) -> Compiled {
    let mut words = vec![version(test, code, 0)];
    for version in (0..test.versions(code)).rev() {
        words.extend([movz(RETURNED, version.into()), ret(LINK)]);
    }
    let mut out = Compiled { words, ..Compiled::default() };
    out.code[code as usize] = Some(0);
    out
}

/// Returns thread `thread` as a function at `at`; it rings behind its first change of an instruction.
pub fn thread(test: &Test, thread: usize, at: u64, addresses: &Addresses, ring: Option<Ring>) -> Compiled {
    let steps = test.threads[thread];
    let mut assembler = Assembler::new(test, at, addresses, ring);
    steps.iter().for_each(|step| assembler.need(*step));
    assembler.prologue(steps.iter().map(|step| step.observes()).sum());
    let mut ring = ring;
    for step in steps {
        assembler.step(*step);
        if matches!(step, Step::Write(..)) && ring.take().is_some() {
            assembler.ring();
        }
    }
    assembler.epilogue(steps, test.first_value(thread));
    assembler.out
}

/// Returns the function that makes everything as it is at first, with all maintenance whatever the machine needs. It rings
/// before and after, and loads from `touched` in between, so that stage 2 maps these as data.
pub fn init(
    test: &Test,
    at: u64,
    addresses: &Addresses,
    (before, after): (&[Ring], &[Ring]),
    touched: &[u64],
) -> Compiled {
    let mut assembler = Assembler::new(test, at, addresses, None);
    let (address, value) = (Reg(1), Reg(2));
    let codes = || Code::ALL.into_iter().filter(|code| test.shape(*code).is_some());
    before.iter().for_each(|ring| assembler.ring_directly(*ring));
    for code in codes() {
        assembler.address(address, addresses.code[code as usize]);
        assembler.constant(value, version(test, code, 0).into(), 2);
        assembler.emit([str_w(value, address), dc_cvau(address)]);
    }
    for data in Data::ALL {
        assembler.address(address, addresses.data[data as usize]);
        assembler.address(value, first_value(test, data, addresses));
        assembler.emit([str_x(value, address)]);
    }
    for touched in touched {
        assembler.address(address, *touched);
        assembler.emit([ldr_w(value, address)]);
    }
    assembler.emit([a64::Fence::DsbIsh.encode()]);
    for code in codes() {
        assembler.address(address, addresses.code[code as usize]);
        assembler.emit([ic_ivau(address)]);
    }
    assembler.emit([a64::Fence::DsbIsh.encode(), a64::Fence::Isb.encode()]);
    after.iter().for_each(|ring| assembler.ring_directly(*ring));
    assembler.emit([ret(LINK)]);
    assembler.out
}

/// Returns what a location holds at first: 0, or, where a thread jumps through it, the address behind the instruction.
fn first_value(test: &Test, data: Data, addresses: &Addresses) -> u64 {
    let through = test.steps().find_map(|step| match step {
        Step::JumpThrough(known, code) | Step::SwitchOn(known, code) if known == data => Some(code),
        _ => None,
    });
    through.map_or(0, |code| addresses.behind[code as usize])
}

/// Returns the function that calls every function that begins with a changed instruction, so that the old one is held by
/// the I-cache of whoever calls it; `None` if there is none.
pub fn prime(test: &Test, at: u64, addresses: &Addresses) -> Option<Compiled> {
    let mut assembler = Assembler::new(test, at, addresses, None);
    assembler.emit([mov(RETURN_ADDRESS, LINK)]);
    for code in Code::ALL.into_iter().filter(|code| test.shape(*code) == Some(Shape::Function)) {
        assembler.call(code);
    }
    assembler.emit([ret(RETURN_ADDRESS)]);
    (assembler.out.words.len() > 2).then_some(assembler.out)
}

/// Returns the function that observes what locations hold in the end; `None` if the outcome does not depend on it.
pub fn finish(test: &Test, at: u64, addresses: &Addresses) -> Option<Compiled> {
    test.finals().next()?;
    let mut assembler = Assembler::new(test, at, addresses, None);
    let (address, value) = (Reg(1), Reg(2));
    assembler.emit([mov(RESULT, ZERO)]);
    let first = test.first_value(test.threads.len());
    for (n, data) in test.finals().enumerate() {
        assembler.address(address, addresses.data[data as usize]);
        assembler.emit([ldr_w(value, address), bfi(RESULT, value, VALUE_BITS * (first + n) as u32, VALUE_BITS)]);
    }
    assembler.emit([ret(LINK)]);
    Some(assembler.out)
}

impl<'a> Assembler<'a> {
    fn new(test: &'a Test, at: u64, addresses: &'a Addresses, ring: Option<Ring>) -> Self {
        Self { test, addresses, at, out: Compiled::default(), constants: Vec::new(), ring, observed: 0 }
    }

    fn emit<const N: usize>(&mut self, words: [u32; N]) {
        self.out.words.extend(words);
    }

    /// Loads a constant with this many instructions.
    fn constant(&mut self, to: Reg, value: u64, parts: u32) {
        for part in 0..parts {
            let bits = (value >> (16 * part)) as u16;
            self.emit([if part == 0 { movz(to, bits) } else { movk(to, bits, part) }]);
        }
    }

    fn address(&mut self, to: Reg, address: u64) {
        self.constant(to, address, ADDRESS_PARTS);
    }

    /// Notes the constants that a step needs.
    fn need(&mut self, step: Step) {
        use Constant::{Code, Data, Doorbell, Ring, Value, Version};
        let needed = match step {
            Step::Write(code, version) => vec![Code(code), Version(code, version), Doorbell, Ring],
            Step::Read(code) | Step::Clean(code) | Step::CleanDependent(code) | Step::Invalidate(code) => {
                vec![Code(code)]
            }
            Step::Store(data, value) => vec![Data(data), Value(value)],
            Step::Load(data) => vec![Data(data)],
            Step::StoreAddress(data, code) | Step::JumpThrough(data, code) | Step::SwitchOn(data, code) => {
                vec![Data(data), Code(code)]
            }
            Step::Fence(_) | Step::Control | Step::Nop | Step::Fetch(_) | Step::Call(_) => Vec::new(),
        };
        for constant in needed {
            let rings = matches!(constant, Doorbell | Ring);
            if !self.constants.contains(&constant) && (!rings || self.ring.is_some()) {
                self.constants.push(constant);
            }
        }
    }

    /// Returns the register of a constant.
    fn of(&self, constant: Constant) -> Reg {
        match self.constants.iter().position(|known| *known == constant) {
            Some(n) => CONSTANTS[n],
            None => unreachable!("every step's constants were noted"),
        }
    }

    fn prologue(&mut self, observed: usize) {
        self.emit([mov(RETURN_ADDRESS, LINK)]);
        for n in 0..observed as u8 {
            self.emit([mov(Reg(FIRST_OBSERVED + n), ZERO)]);
        }
        for (n, constant) in self.constants.clone().into_iter().enumerate() {
            let ring = self.ring.unwrap_or(Ring { doorbell: 0, value: 0 });
            let value = match constant {
                Constant::Code(code) => self.addresses.code[code as usize],
                Constant::Data(data) => self.addresses.data[data as usize],
                Constant::Version(code, number) => version(self.test, code, number).into(),
                Constant::Value(value) => value.into(),
                Constant::Doorbell => ring.doorbell,
                Constant::Ring => ring.value,
            };
            self.address(CONSTANTS[n], value);
        }
    }

    /// Returns the register for the next value observed.
    fn observe(&mut self) -> Reg {
        self.observed += 1;
        Reg(FIRST_OBSERVED + self.observed - 1)
    }

    /// Returns the register of the last value observed.
    fn last(&self) -> Reg {
        Reg(FIRST_OBSERVED + self.observed - 1)
    }

    fn step(&mut self, step: Step) {
        use Constant::{Code, Data, Value, Version};
        match step {
            Step::Write(code, version) => self.emit([str_w(self.of(Version(code, version)), self.of(Code(code)))]),
            Step::Store(data, value) => self.emit([str_w(self.of(Value(value)), self.of(Data(data)))]),
            Step::StoreAddress(data, code) => self.emit([str_x(self.of(Code(code)), self.of(Data(data)))]),
            Step::Read(code) => {
                let to = self.observe();
                self.emit([ldr_w(to, self.of(Code(code)))]);
            }
            Step::Load(data) => {
                let to = self.observe();
                self.emit([ldr_w(to, self.of(Data(data)))]);
            }
            Step::Clean(code) => self.emit([dc_cvau(self.of(Code(code)))]),
            Step::CleanDependent(code) => {
                let (last, address) = (self.last(), self.of(Code(code)));
                self.emit([eor(SCRATCH, last, last), add(SCRATCH, SCRATCH, address), dc_cvau(SCRATCH)]);
            }
            Step::Invalidate(code) => self.emit([ic_ivau(self.of(Code(code)))]),
            Step::Fence(fence) => self.emit([fence.encode()]),
            Step::Control => self.emit([cbnz(self.last(), 4)]),
            Step::Nop => self.emit([NOP]),
            Step::Fetch(code) => self.inline(code),
            Step::Call(code) => {
                let to = self.observe();
                self.call(code);
                self.emit([mov_w(to, RETURNED)]);
            }
            Step::JumpThrough(data, code) => {
                let pointer = self.observe();
                self.emit([ldr_x(pointer, self.of(Data(data))), br(pointer)]);
                self.inline(code);
            }
            Step::SwitchOn(data, code) => self.switch(data, code),
        }
    }

    /// Emits an instruction that is changed.
    fn place(&mut self, code: Code) {
        self.out.code[code as usize] = Some(self.out.words.len());
        self.emit([version(self.test, code, 0)]);
    }

    /// Notes that this is behind an instruction that is changed.
    fn end(&mut self, code: Code) {
        self.out.behind[code as usize] = Some(self.out.words.len());
    }

    /// Emits an instruction that is changed with what its versions execute.
    fn inline(&mut self, code: Code) {
        let to = self.observe();
        let versions = self.test.versions(code);
        self.place(code);
        if versions <= 2 {
            self.emit([movz(to, 1)]);
        } else {
            for version in (0..versions).rev() {
                let rest = i64::from(version);
                self.emit([movz(to, version.into()), b(4 + 8 * rest)]);
            }
        }
        self.end(code);
    }

    /// Emits an instruction that is changed, to be executed if that is what the address in `data` says.
    fn switch(&mut self, data: Data, code: Code) {
        let to = self.observe();
        let (pointer, address) = (self.of(Constant::Data(data)), self.of(Constant::Code(code)));
        self.emit([ldr_x(SCRATCH, pointer), cmp(SCRATCH, address), b_ne(20)]);
        self.place(code);
        self.emit([movz(to, 2), b(8), movz(to, 1)]);
        self.end(code);
    }

    /// Calls a function that begins with an instruction that is changed.
    fn call(&mut self, code: Code) {
        let here = self.at + 4 * self.out.words.len() as u64;
        self.emit([bl(self.addresses.code[code as usize].wrapping_sub(here) as i64)]);
    }

    fn ring(&mut self) {
        self.emit([str_x(self.of(Constant::Ring), self.of(Constant::Doorbell))]);
    }

    fn ring_directly(&mut self, ring: Ring) {
        let (address, value) = (Reg(1), Reg(2));
        self.address(address, ring.doorbell);
        self.address(value, ring.value);
        self.emit([str_x(value, address)]);
    }

    /// Returns what was observed, each value at its place.
    fn epilogue(&mut self, steps: &[Step], first: usize) {
        self.emit([mov(RESULT, ZERO)]);
        let mut n = 0;
        for step in steps {
            for part in 0..step.observes() {
                let register = Reg(FIRST_OBSERVED + n);
                let shift = VALUE_BITS * (first as u32 + u32::from(n));
                match (step, part) {
                    (Step::Read(code), _) => self.observed_version(*code, register, shift),
                    (Step::JumpThrough(_, code), 0) => {
                        let address = self.of(Constant::Code(*code));
                        self.emit([cmp(register, address), cset_eq(SCRATCH), orr(RESULT, RESULT, SCRATCH, shift)]);
                    }
                    _ => self.emit([bfi(RESULT, register, shift, VALUE_BITS)]),
                }
                n += 1;
            }
        }
        self.emit([ret(RETURN_ADDRESS)]);
    }

    /// Adds the version that a loaded instruction is to the outcome.
    fn observed_version(&mut self, code: Code, loaded: Reg, shift: u32) {
        for number in 1..self.test.versions(code) {
            self.constant(SCRATCH, version(self.test, code, number).into(), 2);
            self.emit([cmp_w(loaded, SCRATCH), cset_eq(SCRATCH)]);
            self.emit([orr(RESULT, RESULT, SCRATCH, shift + u32::from(number) - 1)]);
        }
    }
}
