//! Where the code of a test stands: in how many ways its instructions can lie in cache lines and pages.

use abi::race::{self, Setup};

use crate::litmus::compile::{Addresses, Compiled, Ring, finish, function, init, prime, thread};
use crate::litmus::test::{Code, Data, Shape, Test};

/// How the code lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// Every function begins a cache line.
    Lines,
    /// Instructions that are changed are the last of their cache line.
    LineEnds,
    /// Everything stands as close together as it can: changed instructions may share a line.
    Packed,
    /// Instructions that are changed are the first of a page of any host, which holds no other code but what follows them.
    Pages,
}

/// The largest page of any host, in bytes.
pub const PAGE_BYTES: u64 = 64 << 10;

/// Which host events a test asks for, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// Before everything is made as it was.
    pub before: Vec<Ring>,
    /// After that, before the race.
    pub after: Vec<Ring>,
    /// In the race: behind the first change of an instruction by thread 0.
    pub during: Option<Ring>,
}

/// A test in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Code and its addresses.
    pub code: Vec<(u64, Vec<u32>)>,
    /// What the guest has to call.
    pub setup: Setup,
    /// The first address behind all code.
    pub end: u64,
    /// Where its parts are.
    pub addresses: Addresses,
}

/// Where a test is to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// First address for code; a multiple of [`PAGE_BYTES`].
    pub code: u64,
    /// First address of [`DATA_BYTES`] for data.
    pub data: u64,
    /// How code lies.
    pub alignment: Alignment,
    /// Cache line in bytes.
    pub line_bytes: u64,
}

/// Size in bytes of the data of one test: one location in each line.
pub const DATA_BYTES: u64 = Data::ALL.len() as u64 * race::LINE_BYTES;

impl Room {
    /// Returns the first address from `at` on for code whose instruction number `changed` may be changed.
    fn next(&self, at: u64, changed: Option<usize>) -> u64 {
        // The first address with this remainder.
        let first = |remainder: u64, modulus: u64| at + (remainder.wrapping_sub(at) & (modulus - 1));
        let offset = 4 * changed.unwrap_or(0) as u64;
        match (self.alignment, changed) {
            (Alignment::Packed, _) => at,
            (Alignment::LineEnds, Some(_)) => first(0_u64.wrapping_sub(4 + offset), self.line_bytes),
            (Alignment::Pages, Some(_)) => first(0_u64.wrapping_sub(offset), PAGE_BYTES),
            _ => first(0, self.line_bytes),
        }
    }

    /// Returns the first address behind code of this many bytes at `at` that other code may have.
    fn behind(&self, at: u64, bytes: u64, changed: Option<usize>) -> u64 {
        match (self.alignment, changed) {
            (Alignment::Pages, Some(_)) => (at + bytes).next_multiple_of(PAGE_BYTES),
            _ => at + bytes,
        }
    }
}

/// Puts a test into memory.
pub fn place(test: &Test, room: Room, rings: &Rings) -> Placed {
    let mut addresses = Addresses::default();
    for data in Data::ALL {
        addresses.data[data as usize] = room.data + data as u64 * race::LINE_BYTES;
    }
    // Lengths and offsets do not depend on addresses: the first pass finds these.
    let draft = compile(test, &[0; PARTS], &addresses, rings);
    let mut at = [0; PARTS];
    let mut end = room.code;
    for (n, part) in draft.iter().enumerate() {
        let Some(part) = part else { continue };
        let changed = part.code.iter().flatten().min().copied();
        at[n] = room.next(end, changed);
        for code in Code::ALL.map(|code| code as usize) {
            let address = |index: usize| at[n] + 4 * index as u64;
            addresses.code[code] = part.code[code].map_or(addresses.code[code], address);
            addresses.behind[code] = part.behind[code].map_or(addresses.behind[code], address);
        }
        end = room.behind(at[n], 4 * part.words.len() as u64, changed);
    }
    let parts = compile(test, &at, &addresses, rings);
    let setup = Setup {
        init: at[INIT],
        prime: at[PRIME],
        finish: at[FINISH],
        bodies: std::array::from_fn(|n| if n < THREADS { at[THREAD + n] } else { 0 }),
        ..Setup::default()
    };
    let code = parts.into_iter().zip(at).filter_map(|(part, at)| Some((at, part?.words))).collect();
    Placed { code, setup, end, addresses }
}

/// Threads of a test, at most.
const THREADS: usize = 3;
/// Parts of a test, in the order in which they stand in memory: functions, threads, and what is called besides.
const THREAD: usize = Code::ALL.len();
const INIT: usize = THREAD + THREADS;
const PRIME: usize = INIT + 1;
const FINISH: usize = PRIME + 1;
const PARTS: usize = FINISH + 1;

/// Compiles the parts of a test for these addresses.
fn compile(test: &Test, at: &[u64; PARTS], addresses: &Addresses, rings: &Rings) -> [Option<Compiled>; PARTS] {
    let mut parts = [const { None }; PARTS];
    for code in Code::ALL.into_iter().filter(|code| test.shape(*code) == Some(Shape::Function)) {
        parts[code as usize] = Some(function(test, code));
    }
    for n in 0..test.threads.len() {
        let ring = rings.during.filter(|_| n == 0);
        parts[THREAD + n] = Some(thread(test, n, at[THREAD + n], addresses, ring));
    }
    let touched = if *rings == Rings::default() { &[] } else { &at[THREAD..THREAD + test.threads.len()] };
    parts[INIT] = Some(init(test, at[INIT], addresses, (&rings.before, &rings.after), touched));
    // To take a page's first fault before the race would spoil what the event is there for.
    if *rings == Rings::default() {
        parts[PRIME] = prime(test, at[PRIME], addresses);
    }
    parts[FINISH] = finish(test, at[FINISH], addresses);
    parts
}
