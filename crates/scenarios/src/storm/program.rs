//! The guest's program for one case of `storm`: vCPUs execute the same block at the same time, so that KVM relaxes the
//! permission for all of them at once.

use abi::op::{Barrier, CHECK, EACH, FORCE, SLEEP};
use abi::{Op, OpCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::region::{GENERATION, REGION_IPA, event, region};
use guest::run::{Backing, GuestSpec};

/// Assignment of blocks to racers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All vCPUs race into one block.
    Shared,
    /// Each vCPU executes a block of its own, at the same time.
    Distinct,
    /// Two vCPUs race into each block.
    Mixed,
}

/// First access to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A store maps the block, and the fetch then takes a permission fault, whose maintenance can multiply.
    DataFirst,
    /// The control: the fetch comes first and takes a translation fault, for which only one vCPU does the maintenance.
    ExecFirst,
}

/// The program of one case, which runs on one kind of memory with one number of racers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseProgram {
    /// Size in bytes of the block or page that KVM should map.
    pub block_bytes: u64,
    /// Size of the region in bytes; a multiple of the block size.
    pub region_bytes: u64,
    /// Host memory behind the region.
    pub backing: Backing,
    /// Number of vCPUs, all of which race.
    pub racers: u64,
    /// Assignment of blocks to racers.
    pub mode: Mode,
    /// First access to a block.
    pub order: Order,
    /// Number of rounds.
    pub rounds: u64,
}

/// Tags of the ops whose records are results. The low bits of a tag are one of these kinds, the high bits are the
/// number of the race within its round.
pub mod tag {
    /// First touch, as data.
    pub const TOUCH: u32 = 1;
    /// The raced fetch.
    pub const RACE: u32 = 2;
    /// The same fetch later, when it takes no fault.
    pub const RESIDENT: u32 = 3;

    const KIND_BITS: u32 = 2;

    /// Returns the tag of `kind` in race `number`.
    pub const fn of(kind: u32, number: u32) -> u32 {
        number << KIND_BITS | kind
    }

    /// Returns the kind and the number of the race of a tag.
    pub const fn split(tag: u32) -> (u32, u32) {
        (tag & ((1 << KIND_BITS) - 1), tag >> KIND_BITS)
    }
}

/// Limit on the records of all vCPUs of a guest: 128 MiB of records with 64 bytes each.
const RECORDS_MAX: u64 = (128 << 20) / 64;

impl Mode {
    /// Returns the number of blocks into which `racers` race at the same time.
    pub fn blocks_at_once(self, racers: u64) -> u64 {
        match self {
            Self::Shared => 1,
            Self::Distinct => racers,
            Self::Mixed => racers.div_ceil(2),
        }
    }

    /// Returns the index of the block, among these, into which vCPU `n` races.
    fn block_of(self, n: u64) -> u64 {
        match self {
            Self::Shared => 0,
            Self::Distinct => n,
            Self::Mixed => n / 2,
        }
    }

    /// Returns the name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Distinct => "distinct",
            Self::Mixed => "mixed",
        }
    }
}

impl CaseProgram {
    /// Returns the default size of the region: room for one race into large blocks, or several into smaller ones.
    pub fn default_region_bytes(block_bytes: u64, racers: u64, mode: Mode) -> u64 {
        let races = if block_bytes >= 32 << 20 { 1 } else { 8 };
        block_bytes * races * mode.blocks_at_once(racers)
    }

    /// Returns the number of races in a round.
    pub fn races(&self) -> u64 {
        self.region_bytes / (self.block_bytes * self.mode.blocks_at_once(self.racers))
    }

    /// Returns the IPA of the block that vCPU `n` executes in race `race`.
    pub fn block_ipa(&self, race: u64, n: u64) -> u64 {
        let block = race * self.mode.blocks_at_once(self.racers) + self.mode.block_of(n);
        REGION_IPA + block * self.block_bytes
    }

    /// Returns the IPAs to which the host writes code: the start of each block that the guest does not write itself.
    pub fn host_code(&self) -> Vec<u64> {
        match self.order {
            Order::DataFirst => Vec::new(),
            Order::ExecFirst => {
                (REGION_IPA..REGION_IPA + self.region_bytes).step_by(self.block_bytes as usize).collect()
            }
        }
    }

    /// Returns the number of rounds whose records fit, at most `wanted`.
    pub fn rounds_within(&self, wanted: u64) -> u64 {
        let one = Self { rounds: 1, ..*self };
        wanted.min(RECORDS_MAX / (one.records() * self.racers)).max(1)
    }

    /// Returns the ops of vCPU `n`.
    fn ops(&self, n: u64) -> Vec<Op> {
        let meet = |number| Op::rendezvous(number, self.racers).with_flags(SLEEP);
        let mut ops = vec![meet(0)];
        if n == 0 {
            ops.push(Op::plain(OpCode::Event, [event::ROUND, 0, 0, 0]));
            if self.order == Order::DataFirst {
                ops.extend(self.touch());
            }
        }
        for race in 0..self.races() {
            let fetch = Op::range(OpCode::Fetch, self.block_ipa(race, n), 1, 0, GENERATION).with_flags(CHECK);
            // The rendezvous alternates between two numbers. With one number, a vCPU could arrive at the next
            // rendezvous before the others have left this one.
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

    /// Returns the ops that write code to every block and maintain the lines of that code, whatever CTR_EL0 says.
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

    /// Returns the room for the records of one vCPU: one for each op, each touched block and each mismatch.
    fn records(&self) -> u64 {
        let ops = 4 * self.races() + 10;
        let blocks = self.region_bytes / self.block_bytes;
        self.rounds * (ops + blocks + 2 * self.races()) + 1
    }

    /// Returns the guest that runs the program.
    pub fn guest(&self) -> GuestSpec {
        let programs = (0..self.racers).map(|n| self.ops(n)).collect();
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

    fn program(racers: u64, mode: Mode, order: Order) -> CaseProgram {
        let region_bytes = CaseProgram::default_region_bytes(BLOCK, racers, mode);
        let backing = Backing::Hugetlb(BLOCK);
        CaseProgram { block_bytes: BLOCK, region_bytes, backing, racers, mode, order, rounds: 2 }
    }

    /// Returns the blocks that each vCPU races into, in order.
    fn races(program: &CaseProgram) -> Vec<Vec<u64>> {
        let of =
            |ops: Vec<Op>| ops.into_iter().filter(|op| tag::split(op.tag).0 == tag::RACE).map(|op| op.start).collect();
        program.guest().programs.into_iter().map(of).collect()
    }

    #[test]
    fn modes_assign_blocks() {
        let shared = races(&program(4, Mode::Shared, Order::DataFirst));
        assert!(shared.iter().all(|blocks| blocks == &shared[0]) && shared[0].len() == 8);
        let distinct = races(&program(4, Mode::Distinct, Order::DataFirst));
        let mut all: Vec<_> = distinct.concat();
        all.sort_unstable();
        assert_eq!(all, (0..32).map(|n| REGION_IPA + n * BLOCK).collect::<Vec<_>>());
        let mixed = races(&program(3, Mode::Mixed, Order::DataFirst));
        assert_eq!(mixed[0], mixed[1]);
        assert!(mixed[2].iter().all(|block| !mixed[0].contains(block)));
    }

    #[test]
    fn control_never_touches_as_data() {
        for (order, touches) in [(Order::DataFirst, 1), (Order::ExecFirst, 0)] {
            let program = program(2, Mode::Shared, order);
            let ops = program.guest().programs.concat();
            assert_eq!(ops.iter().filter(|op| op.code == OpCode::WriteCode as u16).count(), touches);
            assert_eq!(program.host_code().len(), if touches == 0 { 8 } else { 0 });
        }
    }

    #[test]
    fn all_vcpus_have_the_same_rendezvous() {
        let programs = program(4, Mode::Mixed, Order::DataFirst).guest().programs;
        let meets = |ops: &[Op]| -> Vec<_> {
            ops.iter().filter(|op| op.code == OpCode::Rendezvous as u16).map(|op| op.args).collect()
        };
        assert!(programs.iter().all(|ops| meets(ops) == meets(&programs[0])));
    }

    #[test]
    fn records_fit_the_channel() {
        let program = program(64, Mode::Shared, Order::DataFirst);
        let rounds = program.rounds_within(10_000);
        assert!(CaseProgram { rounds, ..program }.records() * 64 * 64 <= 128 << 20, "{rounds}");
        let ops = program.ops(0).len() as u64;
        assert!(program.records() >= program.rounds * ops, "{ops}");
    }
}
