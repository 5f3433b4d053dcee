//! What a litmus test is: threads of symbolic instructions, the outcome of interest, and what is published about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::litmus::a64::Fence;

/// A location that holds one instruction, which is changed while it may be fetched.
///
/// Its versions differ in that instruction alone, and all are instructions that may be changed so: a branch, or NOP. Arm
/// ARM (DDI 0487) "Concurrent modification and execution of instructions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The first.
    F,
    /// The second.
    G,
}

impl Code {
    /// Both.
    pub const ALL: [Self; 2] = [Self::F, Self::G];

    /// Returns the name used in outcomes.
    pub fn name(self) -> &'static str {
        match self {
            Self::F => "f",
            Self::G => "g",
        }
    }
}

/// A location that holds data, 0 at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// The first.
    X,
    /// The second.
    Y,
}

impl Data {
    /// Both.
    pub const ALL: [Self; 2] = [Self::X, Self::Y];

    /// Returns the name used in outcomes.
    pub fn name(self) -> &'static str {
        match self {
            Self::X => "x",
            Self::Y => "y",
        }
    }
}

/// One step of a thread. Those that say so observe a value, small and not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stores another version of the instruction.
    Write(Code, u8),
    /// Loads the instruction as data, and observes which version it is.
    Read(Code),
    /// Stores a value.
    Store(Data, u8),
    /// Loads and observes a value.
    Load(Data),
    /// Stores the address of the instruction.
    StoreAddress(Data, Code),
    /// `DC CVAU`.
    Clean(Code),
    /// `DC CVAU` at an address that depends on the last value loaded.
    CleanDependent(Code),
    /// `IC IVAU`.
    Invalidate(Code),
    /// A barrier.
    Fence(Fence),
    /// A conditional branch on the last value observed, to the next step either way.
    Control,
    /// `NOP`.
    Nop,
    /// Executes the instruction, which stands here, and observes its version.
    Fetch(Code),
    /// Calls the function that begins with the instruction, and observes its version.
    Call(Code),
    /// Loads an address and jumps there: to the instruction, which stands here, or behind it. Observes whether it was the
    /// instruction's, then the version executed, 0 if none was. Until something is stored, the address is the one behind.
    JumpThrough(Data, Code),
    /// As [`Step::JumpThrough`], but with a conditional branch on the address. Observes 0 if nothing was executed, or the
    /// version and 1.
    SwitchOn(Data, Code),
}

/// Part of the outcome of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// What this thread observed as its n-th value is this.
    Is(usize, usize, u8),
    /// It is anything but this.
    Not(usize, usize, u8),
    /// The location holds this value in the end.
    Final(Data, u8),
}

/// What is published about the outcome of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// The architecture allows it.
    Allowed,
    /// The architecture forbids it.
    Forbidden,
    /// It is published for machines without IDC and DIC alone, as allowed.
    Unpublished,
}

impl Ruling {
    /// Returns the word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Forbidden => "forbidden",
            Self::Unpublished => "unpublished",
        }
    }
}

/// What the machine makes unnecessary for coherence of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Nothing.
    Neither,
    /// Cleaning the D-cache: CTR_EL0.IDC, or what CLIDR_EL1 implies.
    Idc,
    /// Cleaning the D-cache and invalidating the I-cache: CTR_EL0.DIC as well.
    IdcDic,
}

impl Variant {
    /// Returns the variant of a machine. DIC without IDC is none that anything is published about: it counts as neither.
    pub fn of(idc: bool, dic: bool) -> Self {
        match (idc, dic) {
            (true, true) => Self::IdcDic,
            (true, false) => Self::Idc,
            (false, _) => Self::Neither,
        }
    }

    /// Returns the words used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neither => "DIC0-IDC0",
            Self::Idc => "DIC0-IDC1",
            Self::IdcDic => "DIC1-IDC1",
        }
    }
}

/// Where a test is published.
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
    /// Its published name.
    pub name: &'static str,
    /// Where it is published.
    pub source: Source,
    /// What each thread does.
    pub threads: &'static [&'static [Step]],
    /// The outcome of interest: all of this at once.
    pub exists: &'static [Term],
    /// What is published about it for [`Variant::Neither`], [`Variant::Idc`] and [`Variant::IdcDic`].
    pub rulings: [Ruling; 3],
}

/// Bits of an outcome that one observed value takes.
pub const VALUE_BITS: u32 = 2;

/// How an instruction stands in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In a thread, between other steps.
    Inline,
    /// In a thread, as the first of a [`Step::SwitchOn`].
    Switch,
    /// At the start of a function.
    Function,
}

impl Step {
    /// Returns how many values it observes.
    pub fn observes(self) -> usize {
        match self {
            Self::Read(_) | Self::Load(_) | Self::Fetch(_) | Self::Call(_) | Self::SwitchOn(..) => 1,
            Self::JumpThrough(..) => 2,
            _ => 0,
        }
    }

    /// Returns the names of what it observes.
    fn names(self) -> Vec<String> {
        match self {
            Self::Load(data) => vec![data.name().into()],
            Self::Read(code) => vec![format!("[{}]", code.name())],
            Self::Fetch(code) | Self::Call(code) | Self::SwitchOn(_, code) => vec![code.name().into()],
            Self::JumpThrough(data, code) => vec![data.name().into(), code.name().into()],
            _ => Vec::new(),
        }
    }

    /// Returns the instruction that is executed here, and how it stands there.
    fn executes(self) -> Option<(Code, Shape)> {
        match self {
            Self::Fetch(code) | Self::JumpThrough(_, code) => Some((code, Shape::Inline)),
            Self::SwitchOn(_, code) => Some((code, Shape::Switch)),
            Self::Call(code) => Some((code, Shape::Function)),
            _ => None,
        }
    }
}

impl Test {
    /// Returns what is published about the outcome of interest on machines of this variant.
    pub fn ruling(&self, variant: Variant) -> Ruling {
        self.rulings[variant as usize]
    }

    /// Returns all steps.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        self.threads.iter().flat_map(|steps| steps.iter().copied())
    }

    /// Returns how an instruction stands in the code; `None` if the test does not use the location.
    pub fn shape(&self, code: Code) -> Option<Shape> {
        self.steps().filter_map(Step::executes).find(|(known, _)| *known == code).map(|(_, shape)| shape)
    }

    /// Returns how many versions of an instruction there are; the first is there at the start.
    pub fn versions(&self, code: Code) -> u8 {
        let written = self.steps().filter_map(|step| match step {
            Step::Write(known, version) if known == code => Some(version),
            _ => None,
        });
        written.max().unwrap_or(0) + 1
    }

    /// Returns the number of the first value that a thread observes, among those of all threads.
    pub fn first_value(&self, thread: usize) -> usize {
        self.threads[..thread].iter().flat_map(|steps| steps.iter()).map(|step| step.observes()).sum()
    }

    /// Returns the locations whose last value is part of the outcome.
    pub fn finals(&self) -> impl Iterator<Item = Data> {
        self.exists.iter().filter_map(|term| match term {
            Term::Final(data, _) => Some(*data),
            _ => None,
        })
    }

    /// Returns the names of the values that make an outcome, in its order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (thread, steps) in self.threads.iter().enumerate() {
            for name in steps.iter().flat_map(|step| step.names()) {
                let mut name = format!("{thread}:{name}");
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

    /// Says whether an outcome is the one of interest.
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

    /// Describes an outcome.
    pub fn describe(&self, outcome: u64) -> String {
        let values = self.names().into_iter().enumerate();
        values.map(|(n, name)| format!("{name}={}", Self::value(outcome, n))).collect::<Vec<_>>().join(" ")
    }

    /// Describes the outcome of interest.
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
