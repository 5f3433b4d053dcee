//! Records: what the guest writes about the ops it ran.

use core::mem::size_of;

/// What a record is about; gives the meaning of [`Record::data`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// One op is done: count, mismatches, min ticks, max ticks, sum of ticks, counter when it began.
    Summary = 1,
    /// One element: address, ticks, value or token, ESR_EL1 if it took an exception, FAR_EL1, counter when it began.
    Element = 2,
    /// One element that was not what the op expects: address, value or token, expected, ESR_EL1, FAR_EL1, ELR_EL1.
    Mismatch = 3,
    /// An exception that no op expects: ESR_EL1, FAR_EL1, ELR_EL1, SPSR_EL1, 0, 0.
    Exception = 4,
}

impl Kind {
    /// Returns the kind a number stands for, if any.
    pub fn from_raw(raw: u16) -> Option<Self> {
        [Self::Summary, Self::Element, Self::Mismatch, Self::Exception].into_iter().find(|k| *k as u16 == raw)
    }
}

/// How an element, or the worst element of an op, came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Outcome {
    /// As expected, or nothing was expected.
    Ok = 0,
    /// The value or token differs from the expected one.
    Wrong = 1,
    /// Undefined instruction, or another exception taken on the fetched code itself.
    Undefined = 2,
    /// Instruction abort.
    InstructionAbort = 3,
    /// Data abort.
    DataAbort = 4,
    /// Any other exception.
    OtherException = 5,
}

impl Outcome {
    /// Returns the outcome a number stands for, if any.
    pub fn from_raw(raw: u16) -> Option<Self> {
        [Self::Ok, Self::Wrong, Self::Undefined, Self::InstructionAbort, Self::DataAbort, Self::OtherException]
            .into_iter()
            .find(|o| *o as u16 == raw)
    }

    /// Returns the outcome that an exception with this syndrome means. Arm ARM "ESR_EL1", field EC.
    pub const fn from_esr(esr_el1: u64) -> Self {
        match (esr_el1 >> 26) & 0x3f {
            0x00 | 0x0e => Self::Undefined,
            0x20 | 0x21 => Self::InstructionAbort,
            0x24 | 0x25 => Self::DataAbort,
            _ => Self::OtherException,
        }
    }
}

/// One record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// [`Kind`] as a number.
    pub kind: u16,
    /// [`Outcome`] as a number.
    pub outcome: u16,
    /// Index of the op in its program.
    pub op: u32,
    /// [`crate::Op::tag`].
    pub tag: u32,
    /// How many jumps the program's repeats had taken before.
    pub pass: u32,
    /// See [`Kind`].
    pub data: [u64; 6],
}

const _: () = assert!(size_of::<Record>() == 64);

impl Record {
    /// Returns the record that stands in memory as these eight little-endian words.
    pub const fn from_words(words: [u64; 8]) -> Self {
        let [head, tags, data @ ..] = words;
        Self {
            kind: head as u16,
            outcome: (head >> 16) as u16,
            op: (head >> 32) as u32,
            tag: tags as u32,
            pass: (tags >> 32) as u32,
            data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syndromes() {
        assert_eq!(Outcome::from_esr(0x0200_0000), Outcome::Undefined);
        assert_eq!(Outcome::from_esr(0x8600_000d), Outcome::InstructionAbort);
        assert_eq!(Outcome::from_esr(0x9600_0045), Outcome::DataAbort);
        assert_eq!(Outcome::from_esr(0xbe00_0000), Outcome::OtherException);
    }

    #[test]
    fn from_words_is_the_memory_layout() {
        let record = Record { kind: 3, outcome: 2, op: 7, tag: 9, pass: 11, data: [1, 2, 3, 4, 5, 6] };
        // SAFETY: both are 64 bytes of plain integers without padding.
        let words = unsafe { core::mem::transmute::<Record, [u64; 8]>(record) };
        assert_eq!(Record::from_words(words), record);
    }

    #[test]
    fn outcomes_round_trip() {
        for raw in 0..6 {
            assert_eq!(Outcome::from_raw(raw).map(|o| o as u16), Some(raw));
        }
        assert_eq!(Outcome::from_raw(6), None);
    }
}
