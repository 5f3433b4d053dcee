//! `chaos`: programs that scribble random values over the channel, the doorbell and the UART, and ask for impossible
//! things. The guest may do what it likes; the runner has to live with it.

use abi::op::{EACH, SLEEP};
use abi::{Op, OpCode};

use guest::spec::GuestSpec;
use units::random::Random;

/// What a hostile guest may aim at, as IPAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The channel, with every vCPU's counters, programs and records.
    pub channel: u64,
    /// How much of it, in bytes.
    pub channel_bytes: u64,
    /// The doorbell page.
    pub doorbell: u64,
    /// The UART.
    pub uart: u64,
}

/// Records that each vCPU has room for: few, so that some find none.
const RECORDS: u64 = 64;
/// Ops of a program, at most.
const OPS: u64 = 48;
/// Kinds of ops that only write to the channel; they come first.
const SCRIBBLES: u64 = 10;
/// Kinds of ops.
const ALL_KINDS: u64 = 16;
/// Op codes beyond those that exist.
const UNKNOWN: u64 = 8;

/// Returns a number as guests get them wrong: nothing, something small, everything, or noise.
fn value(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.below(4),
        1 => u64::MAX - random.below(4),
        2 => 1 << random.below(64),
        _ => random.bits(),
    }
}

/// Returns guest number `seed`.
pub fn guest(seed: u64, vcpus: u64, targets: &Targets) -> GuestSpec {
    let mut random = Random::new(seed);
    let programs = (0..vcpus).map(|n| program(&mut random, n, targets)).collect();
    GuestSpec { regions: Vec::new(), programs, records: RECORDS, ..GuestSpec::default() }
}

fn program(random: &mut Random, vcpu: u64, targets: &Targets) -> Vec<Op> {
    // Half of the guests only scribble: what stops a guest at once would hide what the others still do.
    let kinds = if random.below(2) == 0 { SCRIBBLES } else { ALL_KINDS };
    let mut ops: Vec<_> = (0..random.below(OPS)).map(|_| op(random, kinds, vcpu, targets)).collect();
    ops.push(Op::end());
    ops
}

fn op(random: &mut Random, kinds: u64, vcpu: u64, targets: &Targets) -> Op {
    let words = targets.channel_bytes / 8;
    let one = |at: u64, value: u64| Op::range(OpCode::Store, at, 8, 0, value);
    match random.below(kinds) {
        // Header and vCPU entries are at the start: most shots go there.
        0..6 => one(targets.channel + 8 * random.below(64), value(random)),
        6..9 => one(targets.channel + 8 * random.below(words), value(random)),
        9 => {
            let first = random.below(words);
            let bytes = 8 * random.below(words - first);
            Op::range(OpCode::Store, targets.channel + 8 * first, bytes, 8, value(random))
        }
        // The vCPU's own number in the upper half makes some of them plausible.
        10 => one(targets.doorbell + 8 * random.below(2), vcpu << 32 | random.below(OPS)),
        11 => one(targets.doorbell + 8 * random.below(512), value(random)),
        12 => one(targets.uart + random.below(8), value(random)),
        13 => Op::plain(OpCode::Event, [value(random), value(random), 0, 0]),
        14 => Op::rendezvous(random.below(64), random.below(4)).with_flags(SLEEP),
        _ => Op {
            code: random.below(OpCode::ALL.len() as u64 + UNKNOWN) as u16,
            flags: random.bits() as u16,
            tag: random.bits() as u32,
            start: targets.channel + 8 * random.below(words),
            bytes: random.below(4096),
            stride: random.below(128),
            args: [value(random), random.below(64), value(random), value(random)],
        }
        .with_flags(EACH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets =
        Targets { channel: 0x5000_0000, channel_bytes: 64 << 10, doorbell: 0xa00_0000, uart: 0x900_0000 };

    #[test]
    fn same_seed_same_guest() {
        let (a, b, c) = (guest(7, 2, &TARGETS), guest(7, 2, &TARGETS), guest(8, 2, &TARGETS));
        assert_eq!(a.programs, b.programs);
        assert_ne!(a.programs, c.programs);
    }

    #[test]
    fn every_kind_of_shot_is_fired() {
        let ops: Vec<Op> = (0..100).flat_map(|seed| guest(seed, 2, &TARGETS).programs.concat()).collect();
        let at = |low: u64, high: u64| {
            ops.iter().any(|op| op.code == OpCode::Store as u16 && (low..high).contains(&op.start))
        };
        assert!(at(TARGETS.channel, TARGETS.channel + 512) && at(TARGETS.channel + 512, TARGETS.channel + (64 << 10)));
        assert!(at(TARGETS.doorbell, TARGETS.doorbell + 4096) && at(TARGETS.uart, TARGETS.uart + 8));
        assert!(ops.iter().any(|op| OpCode::from_raw(op.code).is_none()), "unknown ops");
    }
}
