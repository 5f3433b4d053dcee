//! Layout of a test in memory: the addresses of its code and data.

use abi::race::{self, Setup};

use crate::litmus::compile::{Addresses, Compiled, DoorbellWrites, finish, function, init, prime, thread};
use crate::litmus::test::{Code, Data, Position, Test};

/// Alignment of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// Every function begins a cache line.
    Lines,
    /// Each modified instruction is the last one of its cache line.
    LineEnds,
    /// The code is packed, so that modified instructions may share a cache line.
    Packed,
    /// Each modified instruction is the first one of a page of any host. The page holds no other code except the code
    /// that follows the instruction.
    Pages,
}

/// Size of the largest page of any host, in bytes.
pub const PAGE_BYTES: u64 = 64 << 10;

/// Test in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Pieces of code with their addresses.
    pub code: Vec<(u64, Vec<u32>)>,
    /// Functions that the guest calls.
    pub setup: Setup,
    /// First address after all code.
    pub end: u64,
    /// Addresses that the code uses.
    pub addresses: Addresses,
}

/// Place for a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// First address for code; a multiple of [`PAGE_BYTES`].
    pub code: u64,
    /// First address of [`DATA_BYTES`] for data.
    pub data: u64,
    /// Alignment of the code.
    pub alignment: Alignment,
    /// Size of a cache line in bytes.
    pub line_bytes: u64,
}

/// Size of the data of one test in bytes. Each location has its own cache line.
pub const DATA_BYTES: u64 = Data::ALL.len() as u64 * race::LINE_BYTES;

impl Placement {
    /// Returns the first address at or after `at` for a piece of code. `modified` is the index of the modified
    /// instruction in it.
    fn start(&self, at: u64, modified: Option<usize>) -> u64 {
        // Returns the first address at or after `at` with this remainder.
        let first = |remainder: u64, modulus: u64| at + (remainder.wrapping_sub(at) & (modulus - 1));
        let offset = 4 * modified.unwrap_or(0) as u64;
        match (self.alignment, modified) {
            (Alignment::Packed, _) => at,
            (Alignment::LineEnds, Some(_)) => first(0_u64.wrapping_sub(4 + offset), self.line_bytes),
            (Alignment::Pages, Some(_)) => first(0_u64.wrapping_sub(offset), PAGE_BYTES),
            _ => first(0, self.line_bytes),
        }
    }

    /// Returns the first address after a piece of code that other code may use.
    fn end(&self, at: u64, bytes: u64, modified: Option<usize>) -> u64 {
        match (self.alignment, modified) {
            (Alignment::Pages, Some(_)) => (at + bytes).next_multiple_of(PAGE_BYTES),
            _ => at + bytes,
        }
    }
}

/// Compiles a test for a place in memory.
pub fn place(test: &Test, placement: Placement, doorbell: &DoorbellWrites) -> Placed {
    let mut addresses = Addresses::default();
    for data in Data::ALL {
        addresses.data[data as usize] = placement.data + data as u64 * race::LINE_BYTES;
    }
    // Lengths and offsets do not depend on addresses, so they come from a first pass without addresses.
    let draft = compile(test, &[0; PARTS], &addresses, doorbell);
    let mut at = [0; PARTS];
    let mut end = placement.code;
    for (n, part) in draft.iter().enumerate() {
        let Some(part) = part else { continue };
        let modified = part.code.iter().flatten().min().copied();
        at[n] = placement.start(end, modified);
        for code in Code::ALL.map(|code| code as usize) {
            let address = |index: usize| at[n] + 4 * index as u64;
            addresses.code[code] = part.code[code].map_or(addresses.code[code], address);
            addresses.after[code] = part.after[code].map_or(addresses.after[code], address);
        }
        end = placement.end(at[n], 4 * part.words.len() as u64, modified);
    }
    let parts = compile(test, &at, &addresses, doorbell);
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

/// Maximum number of threads of a test.
const THREADS: usize = 3;
// Numbers of the parts of a test, in their order in memory. The functions with modified instructions come first.
const THREAD: usize = Code::ALL.len();
const INIT: usize = THREAD + THREADS;
const PRIME: usize = INIT + 1;
const FINISH: usize = PRIME + 1;
const PARTS: usize = FINISH + 1;

/// Compiles the parts of a test for these addresses.
fn compile(
    test: &Test,
    at: &[u64; PARTS],
    addresses: &Addresses,
    doorbell: &DoorbellWrites,
) -> [Option<Compiled>; PARTS] {
    let plain = *doorbell == DoorbellWrites::default();
    let mut parts = [const { None }; PARTS];
    for code in Code::ALL.into_iter().filter(|code| test.position(*code) == Some(Position::Function)) {
        parts[code as usize] = Some(function(test, code));
    }
    for n in 0..test.threads.len() {
        let during_race = doorbell.during_race.filter(|_| n == 0);
        parts[THREAD + n] = Some(thread(test, n, at[THREAD + n], addresses, during_race));
    }
    let touched = if plain { &[] } else { &at[THREAD..THREAD + test.threads.len()] };
    parts[INIT] = Some(init(test, at[INIT], addresses, doorbell, touched));
    // Across an event, a call before the race would take the fault that the race is meant to take.
    if plain {
        parts[PRIME] = prime(test, at[PRIME], addresses);
    }
    parts[FINISH] = finish(test, at[FINISH], addresses);
    parts
}
