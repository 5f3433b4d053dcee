//! Litmus test as data: threads of symbolic instructions, the outcome of interest, and its published verdict.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::litmus::a64::Fence;

/// Location of one instruction that is modified while it may be fetched.
///
/// Each version of the instruction is a branch or NOP. The architecture allows such an instruction to be modified while
/// another CPU executes it (Arm ARM (DDI 0487) "Concurrent modification and execution of instructions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// First location.
    F,
    /// Second location.
    G,
}

impl Code {
    /// Both locations.
    pub const ALL: [Self; 2] = [Self::F, Self::G];

    /// Returns the name in outcomes.
    pub fn name(self) -> &'static str {
        match self {
            Self::F => "f",
            Self::G => "g",
        }
    }
}

/// Location of data. It holds 0 at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// First location.
    X,
    /// Second location.
    Y,
}

impl Data {
    /// Both locations.
    pub const ALL: [Self; 2] = [Self::X, Self::Y];

    /// Returns the name in outcomes.
    pub fn name(self) -> &'static str {
        match self {
            Self::X => "x",
            Self::Y => "y",
        }
    }
}

/// Symbolic instruction of a thread. Some of them observe a value, which is part of the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Store this version of the modified instruction.
    Write(Code, u8),
    /// Load the modified instruction as data, and observe its version.
    Read(Code),
    /// Store a value.
    Store(Data, u8),
    /// Load a value, and observe it.
    Load(Data),
    /// Store the address of the modified instruction.
    StoreAddress(Data, Code),
    /// `DC CVAU`.
    Clean(Code),
    /// `DC CVAU` at an address that depends on the last value loaded.
    CleanDependent(Code),
    /// `IC IVAU`.
    Invalidate(Code),
    /// Barrier.
    Fence(Fence),
    /// Conditional branch on the last observed value. Both ways continue with the next instruction.
    Control,
    /// `NOP`.
    Nop,
    /// Execute the modified instruction at this place in the thread, and observe its version.
    Fetch(Code),
    /// Call the function that begins with the modified instruction, and observe its version.
    Call(Code),
    /// Load an address and jump to it. It is the address of the modified instruction, which is at this place, or at
    /// first the address after it. Observe 1 if it was the address of the instruction and 0 otherwise. Then observe the
    /// version that was executed, or 0 if none was.
    JumpThrough(Data, Code),
    /// Do the same with a conditional branch on the address. Observe 0 if the modified instruction was not executed, or
    /// its version plus 1.
    SwitchOn(Data, Code),
}

/// Term of the condition that describes the outcome of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// This thread's value of this number, counted from 0, is this one.
    Is(usize, usize, u8),
    /// This thread's value of this number is not this one.
    Not(usize, usize, u8),
    /// The location holds this value at the end.
    Final(Data, u8),
}

/// Published verdict on the outcome of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// The architecture allows it.
    Allowed,
    /// The architecture forbids it.
    Forbidden,
    /// No verdict is published for this class of machines. Without IDC and DIC, the outcome is allowed.
    Unpublished,
}

impl Published {
    /// Returns the word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Forbidden => "forbidden",
            Self::Unpublished => "unpublished",
        }
    }
}

/// Class of machines that a verdict is published for, by the maintenance that they make unnecessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineClass {
    /// Neither IDC nor DIC.
    Neither,
    /// IDC, from CTR_EL0 or implied by CLIDR_EL1: no D-cache clean is necessary.
    Idc,
    /// IDC and DIC: no I-cache invalidation is necessary, either.
    IdcDic,
}

impl MachineClass {
    /// Returns the class of a machine. Nothing is published about DIC without IDC, so that counts as neither.
    pub fn of(idc: bool, dic: bool) -> Self {
        match (idc, dic) {
            (true, true) => Self::IdcDic,
            (true, false) => Self::Idc,
            (false, _) => Self::Neither,
        }
    }

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neither => "DIC0-IDC0",
            Self::Idc => "DIC0-IDC1",
            Self::IdcDic => "DIC1-IDC1",
        }
    }
}

/// Publication of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Simner et al., "ARMv8-A system semantics: instruction fetch in relaxed architectures", ESOP 2020.
    Esop2020,
    /// herdtools7, catalogue/aarch64-ifetch.
    Herdtools7,
}

/// A litmus test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Published name.
    pub name: &'static str,
    /// Publication.
    pub source: Source,
    /// Instructions of each thread.
    pub threads: &'static [&'static [Instruction]],
    /// Condition of the outcome of interest: all of these terms at once.
    pub exists: &'static [Term],
    /// Published verdicts for [`MachineClass::Neither`], [`MachineClass::Idc`] and [`MachineClass::IdcDic`].
    pub published: [Published; 3],
}

/// Number of bits that one observed value takes in an outcome.
pub(crate) const VALUE_BITS: u32 = 2;

/// Position of a modified instruction in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// In a thread, between other instructions.
    Inline,
    /// In a thread, as part of an [`Instruction::SwitchOn`].
    Switch,
    /// At the start of a function.
    Function,
}

impl Instruction {
    /// Returns the number of values that the instruction observes.
    pub(crate) fn observes(self) -> usize {
        match self {
            Self::Read(_) | Self::Load(_) | Self::Fetch(_) | Self::Call(_) | Self::SwitchOn(..) => 1,
            Self::JumpThrough(..) => 2,
            _ => 0,
        }
    }

    /// Returns the names of the values that the instruction observes.
    fn names(self) -> Vec<String> {
        match self {
            Self::Load(data) => vec![data.name().into()],
            Self::Read(code) => vec![format!("[{}]", code.name())],
            Self::Fetch(code) | Self::Call(code) | Self::SwitchOn(_, code) => vec![code.name().into()],
            Self::JumpThrough(data, code) => vec![data.name().into(), code.name().into()],
            _ => Vec::new(),
        }
    }

    /// Returns the modified instruction that is executed here, and its position.
    fn executes(self) -> Option<(Code, Position)> {
        match self {
            Self::Fetch(code) | Self::JumpThrough(_, code) => Some((code, Position::Inline)),
            Self::SwitchOn(_, code) => Some((code, Position::Switch)),
            Self::Call(code) => Some((code, Position::Function)),
            _ => None,
        }
    }
}

impl Test {
    /// Returns the published verdict on the outcome of interest for this class of machines.
    pub fn published_for(&self, class: MachineClass) -> Published {
        self.published[class as usize]
    }

    /// Returns the instructions of all threads.
    pub(crate) fn instructions(&self) -> impl Iterator<Item = Instruction> {
        self.threads.iter().flat_map(|thread| thread.iter().copied())
    }

    /// Returns the position of a modified instruction in the code; `None` if the test does not use the location.
    pub(crate) fn position(&self, code: Code) -> Option<Position> {
        self.instructions().filter_map(Instruction::executes).find(|(known, _)| *known == code).map(|(_, at)| at)
    }

    /// Returns the number of versions of a modified instruction. It has the first version at the start.
    pub(crate) fn versions(&self, code: Code) -> u8 {
        let written = self.instructions().filter_map(|instruction| match instruction {
            Instruction::Write(known, version) if known == code => Some(version),
            _ => None,
        });
        written.max().unwrap_or(0) + 1
    }

    /// Returns the number of the first value that a thread observes, among the values of all threads.
    pub(crate) fn first_value(&self, thread: usize) -> usize {
        self.threads[..thread].iter().flat_map(|thread| thread.iter()).map(|instruction| instruction.observes()).sum()
    }

    /// Returns the locations whose final value is part of the outcome.
    pub(crate) fn finals(&self) -> impl Iterator<Item = Data> {
        self.exists.iter().filter_map(|term| match term {
            Term::Final(data, _) => Some(*data),
            _ => None,
        })
    }

    /// Returns the names of the values of an outcome, in their order in the outcome.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (number, thread) in self.threads.iter().enumerate() {
            for name in thread.iter().flat_map(|instruction| instruction.names()) {
                let mut name = format!("{number}:{name}");
                while names.contains(&name) {
                    name.push('\'');
                }
                names.push(name);
            }
        }
        names.extend(self.finals().map(|data| data.name().to_owned()));
        names
    }

    /// Returns one value of an outcome.
    fn value(outcome: u64, number: usize) -> u8 {
        (outcome >> (VALUE_BITS * number as u32) & ((1 << VALUE_BITS) - 1)) as u8
    }

    /// Returns whether an outcome is the outcome of interest.
    pub fn is_met(&self, outcome: u64) -> bool {
        let value = |number| Self::value(outcome, number);
        let finals = self.names().len() - self.finals().count();
        self.exists.iter().all(|term| match *term {
            Term::Is(thread, n, wanted) => value(self.first_value(thread) + n) == wanted,
            Term::Not(thread, n, other) => value(self.first_value(thread) + n) != other,
            Term::Final(data, wanted) => {
                let number = self.finals().position(|known| known == data).unwrap_or(0);
                value(finals + number) == wanted
            }
        })
    }

    /// Returns an outcome in words.
    pub fn describe(&self, outcome: u64) -> String {
        let values = self.names().into_iter().enumerate();
        values.map(|(n, name)| format!("{name}={}", Self::value(outcome, n))).collect::<Vec<_>>().join(" ")
    }

    /// Returns the condition of the outcome of interest in words.
    pub fn condition(&self) -> String {
        let names = self.names();
        let name = |thread: usize, n: usize| &names[self.first_value(thread) + n];
        let term = |term: &Term| match *term {
            Term::Is(thread, n, value) => format!("{}={value}", name(thread, n)),
            Term::Not(thread, n, value) => format!("{}≠{value}", name(thread, n)),
            Term::Final(data, value) => format!("{}={value}", data.name()),
        };
        self.exists.iter().map(term).collect::<Vec<_>>().join(" ")
    }
}
