//! Records: what the guest writes about the ops that it ran.
//!
//! In memory a record is eight little-endian words. [`Record::new`] encodes a record. [`Record::body`] decodes it, and
//! so do the functions for one kind, such as [`Record::summary`]. They accept any words, because a guest may have
//! written anything.
//!
//! Times are ticks of the guest's counter, CNTVCT_EL0. The channel has its frequency.

use core::mem::size_of;

/// Kind of a record, which gives the meaning of its data words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    Summary = 1,
    Element = 2,
    Mismatch = 3,
    Exception = 4,
    RaceCount = 5,
}

/// Outcome of one element, or the worst outcome of an op's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Outcome {
    /// The value was the expected one, or the op expected nothing.
    #[default]
    Ok = 0,
    /// The value or token was not the expected one.
    Wrong = 1,
    /// The fetched code raised an Undefined Instruction or Illegal Execution state exception.
    Undefined = 2,
    /// The access took an Instruction Abort.
    InstructionAbort = 3,
    /// The access took a Data Abort.
    DataAbort = 4,
    /// The access took another exception.
    OtherException = 5,
}

impl Outcome {
    /// Returns the outcome with this number, if there is one.
    fn from_raw(raw: u16) -> Option<Self> {
        [Self::Ok, Self::Wrong, Self::Undefined, Self::InstructionAbort, Self::DataAbort, Self::OtherException]
            .into_iter()
            .find(|outcome| *outcome as u16 == raw)
    }

    /// Returns the outcome of an access that took an exception with this syndrome. Arm ARM "ESR_EL1", field EC.
    pub const fn from_esr(esr_el1: u64) -> Self {
        match (esr_el1 >> 26) & 0x3f {
            0x00 | 0x0e => Self::Undefined,
            0x20 | 0x21 => Self::InstructionAbort,
            0x24 | 0x25 => Self::DataAbort,
            _ => Self::OtherException,
        }
    }
}

/// Position of an op in the run of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Index of the op in its program.
    pub op: u32,
    /// Tag of the op.
    pub tag: u32,
    /// Number of jumps that the program's repeat ops had taken before.
    pub pass: u32,
}

/// Report of an op that is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of elements that the op visited; for a race, the number of its iterations.
    pub elements: u64,
    /// Number of elements that were not as the op expects, including those without a record of their own.
    pub mismatches: u64,
    /// Shortest time of an element, in ticks. An op that does not time its elements reports the time of the whole op in
    /// this field and the next two.
    pub min_ticks: u64,
    /// Longest time of an element, in ticks.
    pub max_ticks: u64,
    /// Sum of the times of all elements, in ticks.
    pub sum_ticks: u64,
    /// Counter when the op began, in ticks.
    pub began_ticks: u64,
}

/// Report of one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Address of the element.
    pub ipa: u64,
    /// Duration of the access, in ticks; 0 if the access took an exception.
    pub ticks: u64,
    /// Value that was loaded, or token that was returned.
    pub value: u64,
    /// ESR_EL1 if the access took an exception, otherwise 0.
    pub esr_el1: u64,
    /// FAR_EL1 of that exception.
    pub far_el1: u64,
    /// Counter when the access began, in ticks; 0 if the access took an exception.
    pub began_ticks: u64,
}

/// Report of one element that is not as the op expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Address of the element; in a race, the address of the body that took the exception.
    pub ipa: u64,
    /// Value that was loaded, or token that was returned.
    pub value: u64,
    /// Value or token that the op expects.
    pub expected: u64,
    /// ESR_EL1 if the access took an exception, otherwise 0.
    pub esr_el1: u64,
    /// FAR_EL1 of that exception.
    pub far_el1: u64,
    /// ELR_EL1 of that exception.
    pub elr_el1: u64,
}

/// Report of an exception that no op expects. It is the last record of its vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    /// ESR_EL1, the syndrome.
    pub esr_el1: u64,
    /// FAR_EL1, the faulting address.
    pub far_el1: u64,
    /// ELR_EL1, the return address.
    pub elr_el1: u64,
    /// Offset of the exception vector from VBAR_EL1, in bytes.
    pub vector: u64,
}

/// Number of iterations of a race that had one outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaceCount {
    /// Combined return values of the race's functions, or [`crate::race::OUTCOMES`] for iterations with an exception.
    pub outcome: u64,
    /// Number of iterations.
    pub iterations: u64,
}

/// Contents of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// One op is done.
    Summary(Summary),
    /// One element, because the op asks for a record of each.
    Element(Element),
    /// One element was not as the op expects.
    Mismatch(Mismatch),
    /// The vCPU took an exception that no op expects.
    Exception(Exception),
    /// One outcome of a race.
    RaceCount(RaceCount),
}

impl Body {
    fn encode(self) -> (Kind, [u64; 6]) {
        match self {
            Self::Summary(Summary { elements, mismatches, min_ticks, max_ticks, sum_ticks, began_ticks }) => {
                (Kind::Summary, [elements, mismatches, min_ticks, max_ticks, sum_ticks, began_ticks])
            }
            Self::Element(Element { ipa, ticks, value, esr_el1, far_el1, began_ticks }) => {
                (Kind::Element, [ipa, ticks, value, esr_el1, far_el1, began_ticks])
            }
            Self::Mismatch(Mismatch { ipa, value, expected, esr_el1, far_el1, elr_el1 }) => {
                (Kind::Mismatch, [ipa, value, expected, esr_el1, far_el1, elr_el1])
            }
            Self::Exception(Exception { esr_el1, far_el1, elr_el1, vector }) => {
                (Kind::Exception, [esr_el1, far_el1, elr_el1, vector, 0, 0])
            }
            Self::RaceCount(RaceCount { outcome, iterations }) => (Kind::RaceCount, [outcome, iterations, 0, 0, 0, 0]),
        }
    }

    fn decode(kind: u16, data: [u64; 6]) -> Option<Self> {
        const SUMMARY: u16 = Kind::Summary as u16;
        const ELEMENT: u16 = Kind::Element as u16;
        const MISMATCH: u16 = Kind::Mismatch as u16;
        const EXCEPTION: u16 = Kind::Exception as u16;
        const RACE_COUNT: u16 = Kind::RaceCount as u16;
        let [a, b, c, d, e, f] = data;
        Some(match kind {
            SUMMARY => Self::Summary(Summary {
                elements: a,
                mismatches: b,
                min_ticks: c,
                max_ticks: d,
                sum_ticks: e,
                began_ticks: f,
            }),
            ELEMENT => Self::Element(Element { ipa: a, ticks: b, value: c, esr_el1: d, far_el1: e, began_ticks: f }),
            MISMATCH => Self::Mismatch(Mismatch { ipa: a, value: b, expected: c, esr_el1: d, far_el1: e, elr_el1: f }),
            EXCEPTION => Self::Exception(Exception { esr_el1: a, far_el1: b, elr_el1: c, vector: d }),
            RACE_COUNT => Self::RaceCount(RaceCount { outcome: a, iterations: b }),
            _ => return None,
        })
    }
}

/// One record, as it stands in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    kind: u16,
    outcome: u16,
    /// Index of the op in its program.
    pub op: u32,
    /// Tag of the op.
    pub tag: u32,
    /// Number of jumps that the program's repeat ops had taken before.
    pub pass: u32,
    data: [u64; 6],
}

const _: () = assert!(size_of::<Record>() == 64);

impl Record {
    /// Returns a record of the op at `place`.
    #[inline]
    pub fn new(place: Place, outcome: Outcome, body: Body) -> Self {
        let (kind, data) = body.encode();
        let Place { op, tag, pass } = place;
        Self { kind: kind as u16, outcome: outcome as u16, op, tag, pass, data }
    }

    /// Returns the record that these eight words are in memory.
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

    /// Returns the eight words that the record is in memory.
    pub const fn to_words(self) -> [u64; 8] {
        let head = self.kind as u64 | (self.outcome as u64) << 16 | (self.op as u64) << 32;
        let tags = self.tag as u64 | (self.pass as u64) << 32;
        let [a, b, c, d, e, f] = self.data;
        [head, tags, a, b, c, d, e, f]
    }

    /// Returns the number of the outcome as the guest wrote it. It may be that of no [`Outcome`].
    pub const fn raw_outcome(&self) -> u16 {
        self.outcome
    }

    /// Returns the outcome, or `None` if its number is that of no outcome.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::from_raw(self.outcome)
    }

    /// Returns the contents, or `None` if the record is of no known kind.
    pub fn body(&self) -> Option<Body> {
        Body::decode(self.kind, self.data)
    }

    /// Returns the contents of a summary, or `None` if the record is of another kind.
    pub fn summary(&self) -> Option<Summary> {
        if let Some(Body::Summary(summary)) = self.body() { Some(summary) } else { None }
    }

    /// Returns the contents of an element record, or `None` if the record is of another kind.
    pub fn element(&self) -> Option<Element> {
        if let Some(Body::Element(element)) = self.body() { Some(element) } else { None }
    }

    /// Returns the contents of a mismatch record, or `None` if the record is of another kind.
    pub fn mismatch(&self) -> Option<Mismatch> {
        if let Some(Body::Mismatch(mismatch)) = self.body() { Some(mismatch) } else { None }
    }

    /// Returns the contents of an exception record, or `None` if the record is of another kind.
    pub fn exception(&self) -> Option<Exception> {
        if let Some(Body::Exception(exception)) = self.body() { Some(exception) } else { None }
    }

    /// Returns the contents of a race's count, or `None` if the record is of another kind.
    pub fn race_count(&self) -> Option<RaceCount> {
        if let Some(Body::RaceCount(count)) = self.body() { Some(count) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { op: 7, tag: 9, pass: 11 };

    #[test]
    fn syndromes() {
        assert_eq!(Outcome::from_esr(0x0200_0000), Outcome::Undefined);
        assert_eq!(Outcome::from_esr(0x8600_000d), Outcome::InstructionAbort);
        assert_eq!(Outcome::from_esr(0x9600_0045), Outcome::DataAbort);
        assert_eq!(Outcome::from_esr(0xbe00_0000), Outcome::OtherException);
    }

    #[test]
    fn words_are_the_memory_layout() {
        let record = Record { kind: 3, outcome: 2, op: 7, tag: 9, pass: 11, data: [1, 2, 3, 4, 5, 6] };
        // SAFETY: both are 64 bytes of plain integers without padding.
        let words = unsafe { core::mem::transmute::<Record, [u64; 8]>(record) };
        assert_eq!(Record::from_words(words), record);
        assert_eq!(record.to_words(), words);
    }

    #[test]
    fn every_body_round_trips_through_memory_as_its_own_kind() {
        let [a, b, c, d, e, f] = [1, 2, 3, 4, 5, 6];
        let summary = Summary { elements: a, mismatches: b, min_ticks: c, max_ticks: d, sum_ticks: e, began_ticks: f };
        let element = Element { ipa: a, ticks: b, value: c, esr_el1: d, far_el1: e, began_ticks: f };
        let mismatch = Mismatch { ipa: a, value: b, expected: c, esr_el1: d, far_el1: e, elr_el1: f };
        let exception = Exception { esr_el1: a, far_el1: b, elr_el1: c, vector: d };
        let count = RaceCount { outcome: a, iterations: b };
        let through_memory = |body| {
            let record = Record::from_words(Record::new(PLACE, Outcome::Wrong, body).to_words());
            assert_eq!((record.op, record.tag, record.pass), (PLACE.op, PLACE.tag, PLACE.pass));
            assert_eq!((record.outcome(), record.body()), (Some(Outcome::Wrong), Some(body)));
            record
        };
        let records = [
            through_memory(Body::Summary(summary)),
            through_memory(Body::Element(element)),
            through_memory(Body::Mismatch(mismatch)),
            through_memory(Body::Exception(exception)),
            through_memory(Body::RaceCount(count)),
        ];
        assert_eq!(records.map(|r| r.summary()), [Some(summary), None, None, None, None]);
        assert_eq!(records.map(|r| r.element()), [None, Some(element), None, None, None]);
        assert_eq!(records.map(|r| r.mismatch()), [None, None, Some(mismatch), None, None]);
        assert_eq!(records.map(|r| r.exception()), [None, None, None, Some(exception), None]);
        assert_eq!(records.map(|r| r.race_count()), [None, None, None, None, Some(count)]);
    }

    #[test]
    fn words_of_no_kind_are_kept_and_decode_to_nothing() {
        for kind in [0, 6, 0xffff] {
            let words = [kind | 0xabcd << 16, u64::MAX, 1, 2, 3, 4, 5, 6];
            let record = Record::from_words(words);
            assert_eq!((record.body(), record.outcome(), record.raw_outcome()), (None, None, 0xabcd));
            assert_eq!(record.to_words(), words);
        }
    }

    #[test]
    fn outcomes_round_trip() {
        for raw in 0..6 {
            assert_eq!(Outcome::from_raw(raw).map(|outcome| outcome as u16), Some(raw));
        }
        assert_eq!(Outcome::from_raw(6), None);
    }
}
