//! Programs of hostile guests. They write random values to the channel, the doorbell and the UART, and ask for
//! impossible events. The runner must survive every one of them.

use abi::op::{EACH, SLEEP};
use abi::{Op, OpCode};

use guest::run::GuestSpec;
use units::random::Random;

/// Targets of a hostile guest, as IPAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// First byte of the channel, which holds the counters, programs and records of every vCPU.
    pub channel: u64,
    /// Length of the channel in bytes.
    pub channel_bytes: u64,
    /// First byte of the doorbell page.
    pub doorbell: u64,
    /// First register of the UART.
    pub uart: u64,
}

/// Room for the records of each vCPU. It is small, so that some guests run out of it.
const RECORDS: u64 = 64;
/// Upper limit for the ops of a program.
const OPS: u64 = 48;
/// Number of kinds of ops that write to the channel only. In [`op`], they come first.
const CHANNEL_KINDS: u64 = 10;
/// Number of kinds of ops.
const ALL_KINDS: u64 = 16;
/// Number of op codes above the largest one that exists.
const UNKNOWN: u64 = 8;

/// Returns a number of the sorts that software gets wrong: small, close to the maximum, a power of two, or noise.
fn hostile_value(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.below(4),
        1 => u64::MAX - random.below(4),
        2 => 1 << random.below(64),
        _ => random.bits(),
    }
}

/// Returns the guest of a seed. The same seed returns the same guest.
pub fn guest(seed: u64, vcpus: u64, targets: &Targets) -> GuestSpec {
    let mut random = Random::new(seed);
    let programs = (0..vcpus).map(|n| program(&mut random, n, targets)).collect();
    GuestSpec { regions: Vec::new(), programs, records: RECORDS, ..GuestSpec::default() }
}

fn program(random: &mut Random, vcpu: u64, targets: &Targets) -> Vec<Op> {
    // The other kinds of ops often stop a guest at once. Half of the guests have none of them, so that they run on.
    let kinds = if random.below(2) == 0 { CHANNEL_KINDS } else { ALL_KINDS };
    let mut ops: Vec<_> = (0..random.below(OPS)).map(|_| op(random, kinds, vcpu, targets)).collect();
    ops.push(Op::end());
    ops
}

fn op(random: &mut Random, kinds: u64, vcpu: u64, targets: &Targets) -> Op {
    let words = targets.channel_bytes / 8;
    let store = |at: u64, value: u64| Op::range(OpCode::Store, at, 8, 0, value);
    match random.below(kinds) {
        // Header and vCPU entries are at the start of the channel, so most stores go there.
        0..6 => store(targets.channel + 8 * random.below(64), hostile_value(random)),
        6..9 => store(targets.channel + 8 * random.below(words), hostile_value(random)),
        9 => {
            let first = random.below(words);
            let bytes = 8 * random.below(words - first);
            Op::range(OpCode::Store, targets.channel + 8 * first, bytes, 8, hostile_value(random))
        }
        // With the number of the vCPU in the upper half, some of these requests are valid.
        10 => store(targets.doorbell + 8 * random.below(2), vcpu << 32 | random.below(OPS)),
        11 => store(targets.doorbell + 8 * random.below(512), hostile_value(random)),
        12 => store(targets.uart + random.below(8), hostile_value(random)),
        13 => Op::plain(OpCode::Event, [hostile_value(random), hostile_value(random), 0, 0]),
        14 => Op::rendezvous(random.below(64), random.below(4)).with_flags(SLEEP),
        _ => Op {
            code: random.below(OpCode::ALL.len() as u64 + UNKNOWN) as u16,
            flags: random.bits() as u16,
            tag: random.bits() as u32,
            start: targets.channel + 8 * random.below(words),
            bytes: random.below(4096),
            stride: random.below(128),
            args: [hostile_value(random), random.below(64), hostile_value(random), hostile_value(random)],
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
    fn all_targets_are_written_to() {
        let ops: Vec<Op> = (0..100).flat_map(|seed| guest(seed, 2, &TARGETS).programs.concat()).collect();
        let at = |low: u64, high: u64| {
            ops.iter().any(|op| op.code == OpCode::Store as u16 && (low..high).contains(&op.start))
        };
        assert!(at(TARGETS.channel, TARGETS.channel + 512) && at(TARGETS.channel + 512, TARGETS.channel + (64 << 10)));
        assert!(at(TARGETS.doorbell, TARGETS.doorbell + 4096) && at(TARGETS.uart, TARGETS.uart + 8));
        assert!(ops.iter().any(|op| OpCode::from_raw(op.code).is_none()), "unknown ops");
    }
}
