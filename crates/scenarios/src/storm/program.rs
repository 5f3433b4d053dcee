//! `storm`: vCPUs race into the same block, so that each of them relaxes its permission at the same time.

use abi::op::{Barrier, CHECK, EACH, FORCE, SLEEP};
use abi::{Op, OpCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::event::RoundEvent;
use guest::region::{GENERATION, REGION_IPA, region};
use guest::spec::{Backing, GuestSpec};

/// Who races into which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All into one block.
    Shared,
    /// Each into a block of its own, at the same time.
    Distinct,
    /// Two into each block.
    Mixed,
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The block is mapped as data, then executed: permission faults, which multiply.
    DataFirst,
    /// The guest's first access is the fetch: translation faults, where one winner does the maintenance. The control.
    ExecFirst,
}

/// One case: one kind of block and one number of racers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Size in bytes of what KVM should map at once.
    pub block_bytes: u64,
    /// Region size in bytes; a multiple of the block size.
    pub region_bytes: u64,
    /// What stands behind the region.
    pub backing: Backing,
    /// vCPUs that race.
    pub racers: u64,
    /// Who races into which block.
    pub mode: Mode,
    /// What comes first.
    pub order: Order,
    /// How often all of it is done.
    pub rounds: u64,
}

/// Kinds of op whose records are results; the tag holds the race's number within the round above it.
pub mod tag {
    /// First touch, as data.
    pub const TOUCH: u32 = 1;
    /// The raced fetch.
    pub const RACE: u32 = 2;
    /// The same fetch once everything is mapped.
    pub const RESIDENT: u32 = 3;

    const KIND_BITS: u32 = 2;

    /// Returns the tag of `kind` in race `number`.
    pub const fn of(kind: u32, number: u32) -> u32 {
        number << KIND_BITS | kind
    }

    /// Returns kind and race of a tag.
    pub const fn split(tag: u32) -> (u32, u32) {
        (tag & ((1 << KIND_BITS) - 1), tag >> KIND_BITS)
    }
}

/// Records that one guest may leave, over all its vCPUs: an eighth of the channel in bytes.
const RECORDS_MAX: u64 = (128 << 20) / 64;

impl Mode {
    /// Returns how many blocks `racers` race into at a time.
    pub fn blocks_at_once(self, racers: u64) -> u64 {
        match self {
            Self::Shared => 1,
            Self::Distinct => racers,
            Self::Mixed => racers.div_ceil(2),
        }
    }

    /// Returns which of these blocks vCPU `n` races into.
    fn block_of(self, n: u64) -> u64 {
        match self {
            Self::Shared => 0,
            Self::Distinct => n,
            Self::Mixed => n / 2,
        }
    }
}

impl Mode {
    /// Returns the name used in formats.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Distinct => "distinct",
            Self::Mixed => "mixed",
        }
    }
}

impl Case {
    /// Returns a region with one race into large blocks, several into smaller ones.
    pub fn default_region_bytes(block_bytes: u64, racers: u64, mode: Mode) -> u64 {
        let races = if block_bytes >= 32 << 20 { 1 } else { 8 };
        block_bytes * races * mode.blocks_at_once(racers)
    }

    /// Returns the races of one round.
    pub fn races(&self) -> u64 {
        self.region_bytes / (self.block_bytes * self.mode.blocks_at_once(self.racers))
    }

    /// Returns the block that vCPU `n` executes in race `race`.
    pub fn block_ipa(&self, race: u64, n: u64) -> u64 {
        let block = race * self.mode.blocks_at_once(self.racers) + self.mode.block_of(n);
        REGION_IPA + block * self.block_bytes
    }

    /// Returns where the host has to put code: blocks that the guest never touches as data.
    pub fn host_code(&self) -> Vec<u64> {
        match self.order {
            Order::DataFirst => Vec::new(),
            Order::ExecFirst => {
                (REGION_IPA..REGION_IPA + self.region_bytes).step_by(self.block_bytes as usize).collect()
            }
        }
    }

    /// Returns the rounds for which there is room, at most `wanted`.
    pub fn rounds_within(&self, wanted: u64) -> u64 {
        let one = Self { rounds: 1, ..*self };
        wanted.min(RECORDS_MAX / (one.records() * self.racers)).max(1)
    }

    fn program(&self, n: u64) -> Vec<Op> {
        let meet = |number| Op::rendezvous(number, self.racers).with_flags(SLEEP);
        let mut ops = vec![meet(0)];
        if n == 0 {
            ops.push(RoundEvent::Begin.op());
            if self.order == Order::DataFirst {
                ops.extend(self.touch());
            }
        }
        for race in 0..self.races() {
            let fetch = Op::range(OpCode::Fetch, self.block_ipa(race, n), 1, 0, GENERATION).with_flags(CHECK);
            // Two numbers, so that nobody arrives at the next race before all have left this one's.
            ops.push(meet(1 + race % 2));
            ops.push(Op::barrier(Barrier::Isb));
            ops.push(fetch.with_tag(tag::of(tag::RACE, race as u32)));
        }
        ops.push(meet(3));
        for race in 0..self.races() {
            let fetch = Op::range(OpCode::Fetch, self.block_ipa(race, n), 1, 0, GENERATION).with_flags(CHECK);
            ops.push(fetch.with_tag(tag::of(tag::RESIDENT, race as u32)));
        }
        ops.push(Op::plain(OpCode::Repeat, [0, self.rounds, 0, 0]));
        ops.push(Op::end());
        ops
    }

    /// Writes the code of every block, with the maintenance for the guest's own store, whatever CTR_EL0 says.
    fn touch(&self) -> [Op; 5] {
        let over = |code, arg| Op::range(code, REGION_IPA, self.region_bytes, self.block_bytes, arg);
        [
            over(OpCode::WriteCode, GENERATION).with_flags(EACH).with_tag(tag::TOUCH),
            over(OpCode::CleanD, 0).with_flags(FORCE),
            Op::barrier(Barrier::DsbIsh),
            over(OpCode::InvalI, 0).with_flags(FORCE),
            Op::barrier(Barrier::DsbIsh),
        ]
    }

    /// Returns the records that one vCPU may leave: one an op and a touched block, and mismatches.
    fn records(&self) -> u64 {
        let ops = 4 * self.races() + 10;
        let blocks = self.region_bytes / self.block_bytes;
        self.rounds * (ops + blocks + 2 * self.races()) + 1
    }

    /// Returns the guest that runs this case.
    pub fn guest(&self) -> GuestSpec {
        let programs = (0..self.racers).map(|n| self.program(n)).collect();
        GuestSpec {
            regions: vec![region(self.region_bytes, self.backing)],
            programs,
            records: self.records(),
            ..GuestSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 2 << 20;

    fn case(racers: u64, mode: Mode, order: Order) -> Case {
        let region_bytes = Case::default_region_bytes(BLOCK, racers, mode);
        Case { block_bytes: BLOCK, region_bytes, backing: Backing::Hugetlb(BLOCK), racers, mode, order, rounds: 2 }
    }

    /// The block that each vCPU races into, by race.
    fn races(case: &Case) -> Vec<Vec<u64>> {
        let of =
            |ops: Vec<Op>| ops.into_iter().filter(|op| tag::split(op.tag).0 == tag::RACE).map(|op| op.start).collect();
        case.guest().programs.into_iter().map(of).collect()
    }

    #[test]
    fn modes() {
        let shared = races(&case(4, Mode::Shared, Order::DataFirst));
        assert!(shared.iter().all(|blocks| blocks == &shared[0]) && shared[0].len() == 8);
        let distinct = races(&case(4, Mode::Distinct, Order::DataFirst));
        let mut all: Vec<_> = distinct.concat();
        all.sort_unstable();
        assert_eq!(all, (0..32).map(|n| REGION_IPA + n * BLOCK).collect::<Vec<_>>());
        let mixed = races(&case(3, Mode::Mixed, Order::DataFirst));
        assert_eq!(mixed[0], mixed[1]);
        assert!(mixed[2].iter().all(|block| !mixed[0].contains(block)));
    }

    #[test]
    fn the_control_is_never_touched_as_data() {
        for (order, touches) in [(Order::DataFirst, 1), (Order::ExecFirst, 0)] {
            let case = case(2, Mode::Shared, order);
            let ops = case.guest().programs.concat();
            assert_eq!(ops.iter().filter(|op| op.code == OpCode::WriteCode as u16).count(), touches);
            assert_eq!(case.host_code().len(), if touches == 0 { 8 } else { 0 });
        }
    }

    #[test]
    fn every_vcpu_meets_the_same_rendezvous() {
        let programs = case(4, Mode::Mixed, Order::DataFirst).guest().programs;
        let meets = |ops: &[Op]| -> Vec<_> {
            ops.iter().filter(|op| op.code == OpCode::Rendezvous as u16).map(|op| op.args).collect()
        };
        assert!(programs.iter().all(|ops| meets(ops) == meets(&programs[0])));
    }

    #[test]
    fn records_fit_the_channel() {
        let case = case(64, Mode::Shared, Order::DataFirst);
        let rounds = case.rounds_within(10_000);
        assert!(Case { rounds, ..case }.records() * 64 * 64 <= 128 << 20, "{rounds}");
        let ops = case.program(0).len() as u64;
        assert!(case.records() >= case.rounds * ops, "{ops}");
    }
}
