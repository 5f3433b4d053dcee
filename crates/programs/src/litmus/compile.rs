//! Compiler from the symbolic threads of a litmus test to machine code.
//!
//! A thread becomes a function that conforms to AAPCS64. The function puts all constants into registers, executes the
//! thread's instructions, and returns the observed values, each at its place in the outcome. Addresses do not change
//! the length of the code. The code can therefore be compiled once to place it, and a second time with the final
//! addresses.

use crate::litmus::a64::{
    self, LINK, NOP, Reg, ZERO, add, b, b_ne, bfi, bl, br, cbnz, cmp, cmp_w, cset_eq, dc_cvau, eor, ic_ivau, ldr_w,
    ldr_x, mov, mov_w, movk, movz, orr, ret, str_w, str_x,
};
use crate::litmus::test::{Code, Data, Instruction, Position, Source, Test, VALUE_BITS};

/// Addresses that the code uses, indexed by [`Code`] or [`Data`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Addresses of the modified instructions.
    pub code: [u64; 2],
    /// Addresses after the modified instructions that are in a thread, and after the instructions that these jump over.
    pub after: [u64; 2],
    /// Addresses of the data.
    pub data: [u64; 2],
}

/// Store to the doorbell, which asks the host for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorbellWrite {
    /// Address of the doorbell.
    pub address: u64,
    /// Value to store: the vCPU, and the index of an event op in its program.
    pub value: u64,
}

/// Doorbell writes of one iteration of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DoorbellWrites {
    /// Writes before the initial state is restored.
    pub before_init: Vec<DoorbellWrite>,
    /// Writes after the initial state is restored and before the race.
    pub before_race: Vec<DoorbellWrite>,
    /// Write in the race, after thread 0 first writes a modified instruction.
    pub during_race: Option<DoorbellWrite>,
}

/// Compiled code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Instructions.
    pub words: Vec<u32>,
    /// Index of each modified instruction that is in this code.
    pub code: [Option<usize>; 2],
    /// Index after each of these, and after the instructions that it jumps over.
    pub after: [Option<usize>; 2],
}

/// Registers that hold constants.
const CONSTANTS: [Reg; 15] = {
    let mut all = [ZERO; 15];
    let mut n = 0;
    while n < 15 {
        // These are x1 to x8 and x11 to x17.
        all[n] = Reg(if n < 8 { n as u8 + 1 } else { n as u8 + 3 });
        n += 1;
    }
    all
};
/// First register of those that hold observed values.
const FIRST_OBSERVED: u8 = 19;
/// Register in which a function that begins with a modified instruction returns its version.
const RETURNED: Reg = Reg(9);
/// Register for values within one symbolic instruction.
const SCRATCH: Reg = Reg(10);
/// Register of the thread's own return address.
const RETURN_ADDRESS: Reg = Reg(27);
/// Register of the outcome.
const RESULT: Reg = Reg(0);
/// Number of instructions that load an address. They are enough for 48 bits.
const ADDRESS_PARTS: u32 = 3;

/// Constant that a thread needs in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Constant {
    Code(Code),
    Data(Data),
    Version(Code, u8),
    Value(u8),
    DoorbellAddress,
    DoorbellValue,
}

/// Code under construction.
struct Assembler<'a> {
    test: &'a Test,
    addresses: &'a Addresses,
    /// Address of the first instruction.
    at: u64,
    out: Compiled,
    constants: Vec<Constant>,
    /// Doorbell write of the thread.
    doorbell: Option<DoorbellWrite>,
    /// Number of values observed so far.
    observed: u8,
}

/// Returns the encoding of a version of a modified instruction.
///
/// The last version continues with the next instruction. It is NOP in the tests of herdtools7, and a branch in the
/// tests of the paper. The other versions branch to the instructions that make the thread observe them. An older
/// version branches farther.
pub fn version(test: &Test, code: Code, version: u8) -> u32 {
    let newer = i64::from(test.versions(code) - 1 - version);
    match (newer, test.source) {
        (0, Source::Herdtools7) => NOP,
        // If there are two versions in a thread, the first jumps over the only instruction that the second executes.
        (1, _) if test.position(code) == Some(Position::Inline) && test.versions(code) == 2 => b(8),
        _ => b(4 + 8 * newer),
    }
}

/// Returns the function that begins with the modified instruction `code` and returns its version in x9.
pub fn function(test: &Test, code: Code) -> Compiled {
    let mut words = vec![version(test, code, 0)];
    for version in (0..test.versions(code)).rev() {
        words.extend([movz(RETURNED, version.into()), ret(LINK)]);
    }
    let mut out = Compiled { words, ..Compiled::default() };
    out.code[code as usize] = Some(0);
    out
}

/// Returns the thread of this number as a function at `at`. The function writes the doorbell after it first writes a
/// modified instruction.
pub fn thread(test: &Test, number: usize, at: u64, addresses: &Addresses, doorbell: Option<DoorbellWrite>) -> Compiled {
    let thread = test.threads[number];
    let mut assembler = Assembler::new(test, at, addresses, doorbell);
    thread.iter().for_each(|instruction| assembler.need(*instruction));
    assembler.prologue(thread.iter().map(|instruction| instruction.observes()).sum());
    let mut doorbell = doorbell;
    for instruction in thread {
        assembler.instruction(*instruction);
        if matches!(instruction, Instruction::Write(..)) && doorbell.take().is_some() {
            assembler.write_doorbell();
        }
    }
    assembler.epilogue(thread, test.first_value(number));
    assembler.out
}

/// Returns the function that restores the initial state, with all maintenance on every machine.
///
/// The function writes the doorbell before and after that. In between, it loads from the addresses `touched`, so that
/// stage 2 maps them as data.
pub fn init(test: &Test, at: u64, addresses: &Addresses, doorbell: &DoorbellWrites, touched: &[u64]) -> Compiled {
    let mut assembler = Assembler::new(test, at, addresses, None);
    let (address, value) = (Reg(1), Reg(2));
    let codes = || Code::ALL.into_iter().filter(|code| test.position(*code).is_some());
    doorbell.before_init.iter().for_each(|write| assembler.write_doorbell_directly(*write));
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
    doorbell.before_race.iter().for_each(|write| assembler.write_doorbell_directly(*write));
    assembler.emit([ret(LINK)]);
    assembler.out
}

/// Returns the first value of a location: the address after the modified instruction if a thread jumps through the
/// location, and 0 otherwise.
fn first_value(test: &Test, data: Data, addresses: &Addresses) -> u64 {
    let through = test.instructions().find_map(|instruction| match instruction {
        Instruction::JumpThrough(known, code) | Instruction::SwitchOn(known, code) if known == data => Some(code),
        _ => None,
    });
    through.map_or(0, |code| addresses.after[code as usize])
}

/// Returns the function that calls every function that begins with a modified instruction, so that the caller's I-cache
/// holds the old version. Returns `None` if the test has no such function.
pub fn prime(test: &Test, at: u64, addresses: &Addresses) -> Option<Compiled> {
    let mut assembler = Assembler::new(test, at, addresses, None);
    assembler.emit([mov(RETURN_ADDRESS, LINK)]);
    for code in Code::ALL.into_iter().filter(|code| test.position(*code) == Some(Position::Function)) {
        assembler.call(code);
    }
    assembler.emit([ret(RETURN_ADDRESS)]);
    (assembler.out.words.len() > 2).then_some(assembler.out)
}

/// Returns the function that observes the final values of locations. Returns `None` if the outcome contains no final
/// value.
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
    fn new(test: &'a Test, at: u64, addresses: &'a Addresses, doorbell: Option<DoorbellWrite>) -> Self {
        Self { test, addresses, at, out: Compiled::default(), constants: Vec::new(), doorbell, observed: 0 }
    }

    fn emit<const N: usize>(&mut self, words: [u32; N]) {
        self.out.words.extend(words);
    }

    /// Emits `parts` instructions that load a constant.
    fn constant(&mut self, to: Reg, value: u64, parts: u32) {
        for part in 0..parts {
            let bits = (value >> (16 * part)) as u16;
            self.emit([if part == 0 { movz(to, bits) } else { movk(to, bits, part) }]);
        }
    }

    /// Emits the instructions that load an address.
    fn address(&mut self, to: Reg, address: u64) {
        self.constant(to, address, ADDRESS_PARTS);
    }

    /// Adds the constants that an instruction needs.
    fn need(&mut self, instruction: Instruction) {
        use Constant::{Code, Data, DoorbellAddress, DoorbellValue, Value, Version};
        let needed = match instruction {
            Instruction::Write(code, version) => {
                vec![Code(code), Version(code, version), DoorbellAddress, DoorbellValue]
            }
            Instruction::Read(code)
            | Instruction::Clean(code)
            | Instruction::CleanDependent(code)
            | Instruction::Invalidate(code) => vec![Code(code)],
            Instruction::Store(data, value) => vec![Data(data), Value(value)],
            Instruction::Load(data) => vec![Data(data)],
            Instruction::StoreAddress(data, code)
            | Instruction::JumpThrough(data, code)
            | Instruction::SwitchOn(data, code) => vec![Data(data), Code(code)],
            Instruction::Fence(_)
            | Instruction::Control
            | Instruction::Nop
            | Instruction::Fetch(_)
            | Instruction::Call(_) => Vec::new(),
        };
        for constant in needed {
            let of_doorbell = matches!(constant, DoorbellAddress | DoorbellValue);
            if !self.constants.contains(&constant) && (!of_doorbell || self.doorbell.is_some()) {
                self.constants.push(constant);
            }
        }
    }

    /// Returns the register of a constant.
    fn of(&self, constant: Constant) -> Reg {
        match self.constants.iter().position(|known| *known == constant) {
            Some(n) => CONSTANTS[n],
            None => unreachable!("the constants of every instruction were added"),
        }
    }

    /// Emits the start of a thread, which sets `observed` values to 0 and loads the constants.
    fn prologue(&mut self, observed: usize) {
        self.emit([mov(RETURN_ADDRESS, LINK)]);
        for n in 0..observed as u8 {
            self.emit([mov(Reg(FIRST_OBSERVED + n), ZERO)]);
        }
        for (n, constant) in self.constants.clone().into_iter().enumerate() {
            let doorbell = self.doorbell.unwrap_or(DoorbellWrite { address: 0, value: 0 });
            let value = match constant {
                Constant::Code(code) => self.addresses.code[code as usize],
                Constant::Data(data) => self.addresses.data[data as usize],
                Constant::Version(code, number) => version(self.test, code, number).into(),
                Constant::Value(value) => value.into(),
                Constant::DoorbellAddress => doorbell.address,
                Constant::DoorbellValue => doorbell.value,
            };
            self.address(CONSTANTS[n], value);
        }
    }

    /// Returns the register for the next observed value.
    fn observe(&mut self) -> Reg {
        self.observed += 1;
        Reg(FIRST_OBSERVED + self.observed - 1)
    }

    /// Returns the register of the last observed value.
    fn last(&self) -> Reg {
        Reg(FIRST_OBSERVED + self.observed - 1)
    }

    fn instruction(&mut self, instruction: Instruction) {
        use Constant::{Code, Data, Value, Version};
        match instruction {
            Instruction::Write(code, version) => {
                self.emit([str_w(self.of(Version(code, version)), self.of(Code(code)))])
            }
            Instruction::Store(data, value) => self.emit([str_w(self.of(Value(value)), self.of(Data(data)))]),
            Instruction::StoreAddress(data, code) => self.emit([str_x(self.of(Code(code)), self.of(Data(data)))]),
            Instruction::Read(code) => {
                let to = self.observe();
                self.emit([ldr_w(to, self.of(Code(code)))]);
            }
            Instruction::Load(data) => {
                let to = self.observe();
                self.emit([ldr_w(to, self.of(Data(data)))]);
            }
            Instruction::Clean(code) => self.emit([dc_cvau(self.of(Code(code)))]),
            Instruction::CleanDependent(code) => {
                let (last, address) = (self.last(), self.of(Code(code)));
                self.emit([eor(SCRATCH, last, last), add(SCRATCH, SCRATCH, address), dc_cvau(SCRATCH)]);
            }
            Instruction::Invalidate(code) => self.emit([ic_ivau(self.of(Code(code)))]),
            Instruction::Fence(fence) => self.emit([fence.encode()]),
            Instruction::Control => self.emit([cbnz(self.last(), 4)]),
            Instruction::Nop => self.emit([NOP]),
            Instruction::Fetch(code) => self.inline(code),
            Instruction::Call(code) => {
                let to = self.observe();
                self.call(code);
                self.emit([mov_w(to, RETURNED)]);
            }
            Instruction::JumpThrough(data, code) => {
                let pointer = self.observe();
                self.emit([ldr_x(pointer, self.of(Data(data))), br(pointer)]);
                self.inline(code);
            }
            Instruction::SwitchOn(data, code) => self.switch(data, code),
        }
    }

    /// Emits the first version of a modified instruction.
    fn place(&mut self, code: Code) {
        self.out.code[code as usize] = Some(self.out.words.len());
        self.emit([version(self.test, code, 0)]);
    }

    /// Sets this place as the one after a modified instruction.
    fn end(&mut self, code: Code) {
        self.out.after[code as usize] = Some(self.out.words.len());
    }

    /// Emits a modified instruction and the instructions that its versions continue with.
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

    /// Emits a modified instruction that is executed if `data` holds its address.
    fn switch(&mut self, data: Data, code: Code) {
        let to = self.observe();
        let (pointer, address) = (self.of(Constant::Data(data)), self.of(Constant::Code(code)));
        self.emit([ldr_x(SCRATCH, pointer), cmp(SCRATCH, address), b_ne(20)]);
        self.place(code);
        self.emit([movz(to, 2), b(8), movz(to, 1)]);
        self.end(code);
    }

    /// Emits a call of the function that begins with a modified instruction.
    fn call(&mut self, code: Code) {
        let here = self.at + 4 * self.out.words.len() as u64;
        self.emit([bl(self.addresses.code[code as usize].wrapping_sub(here) as i64)]);
    }

    /// Emits the thread's doorbell write.
    fn write_doorbell(&mut self) {
        self.emit([str_x(self.of(Constant::DoorbellValue), self.of(Constant::DoorbellAddress))]);
    }

    /// Emits a doorbell write whose constants are not in registers.
    fn write_doorbell_directly(&mut self, write: DoorbellWrite) {
        let (address, value) = (Reg(1), Reg(2));
        self.address(address, write.address);
        self.address(value, write.value);
        self.emit([str_x(value, address)]);
    }

    /// Emits the end of a thread, which returns the observed values. The first of them has this number in the outcome.
    fn epilogue(&mut self, thread: &[Instruction], first: usize) {
        self.emit([mov(RESULT, ZERO)]);
        let mut n = 0;
        for instruction in thread {
            for part in 0..instruction.observes() {
                let register = Reg(FIRST_OBSERVED + n);
                let shift = VALUE_BITS * (first as u32 + u32::from(n));
                match (instruction, part) {
                    (Instruction::Read(code), _) => self.observed_version(*code, register, shift),
                    (Instruction::JumpThrough(_, code), 0) => {
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

    /// Emits the instructions that add the version of a loaded instruction to the outcome.
    fn observed_version(&mut self, code: Code, loaded: Reg, shift: u32) {
        for number in 1..self.test.versions(code) {
            self.constant(SCRATCH, version(self.test, code, number).into(), 2);
            self.emit([cmp_w(loaded, SCRATCH), cset_eq(SCRATCH)]);
            self.emit([orr(RESULT, RESULT, SCRATCH, shift + u32::from(number) - 1)]);
        }
    }
}
