//! The guest's program for one case of `relax`.
//!
//! The guest first touches each block as data, and KVM maps the block without X. Then the guest executes the block. KVM
//! relaxes the permission, and does the I-cache maintenance for the block within this one fault.

use abi::op::{Barrier, CHECK, EACH, FORCE, SLEEP};
use abi::{Op, OpCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::region::{GENERATION, REGION_IPA, event, region};
use guest::run::{Backing, GuestSpec};

/// Assignment of blocks to vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Each vCPU has blocks of its own.
    Distinct,
    /// vCPU 0 touches all blocks as data, then all vCPUs execute all blocks at the same time.
    Shared,
}

/// The program of one case, which runs on one kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseProgram {
    /// Size in bytes of the block or page that KVM should map.
    pub block_bytes: u64,
    /// Size of the region in bytes; a multiple of the block size.
    pub region_bytes: u64,
    /// Host memory behind the region.
    pub backing: Backing,
    /// Number of vCPUs.
    pub vcpus: u64,
    /// Assignment of blocks to vCPUs.
    pub sharing: Sharing,
    /// Number of rounds.
    pub rounds: u64,
}

/// Tags of the ops whose records are results.
pub mod tag {
    /// First touch, as data.
    pub const TOUCH: u32 = 1;
    /// First execution.
    pub const EXEC: u32 = 2;
    /// Later execution, which takes no fault.
    pub const RESIDENT: u32 = 3;
}

impl CaseProgram {
    /// Returns the default size of the region: one block for each vCPU, or more if blocks are small, for a
    /// distribution.
    pub fn default_region_bytes(block_bytes: u64, vcpus: u64, sharing: Sharing) -> u64 {
        let each = if block_bytes >= 32 << 20 {
            1
        } else if block_bytes >= 1 << 20 {
            8
        } else {
            64
        };
        let owners = if sharing == Sharing::Distinct { vcpus } else { 1 };
        block_bytes * each * owners
    }

    /// Returns the blocks that vCPU `n` touches and executes, as start, length and stride.
    fn blocks_of(&self, n: u64) -> (u64, u64, u64) {
        match self.sharing {
            Sharing::Shared => (REGION_IPA, self.region_bytes, self.block_bytes),
            Sharing::Distinct => {
                let skip = n * self.block_bytes;
                let stride = self.vcpus * self.block_bytes;
                (REGION_IPA + skip, self.region_bytes.saturating_sub(skip), stride)
            }
        }
    }

    /// Returns the ops of vCPU `n`.
    fn ops(&self, n: u64) -> Vec<Op> {
        let (start, bytes, stride) = self.blocks_of(n);
        let over = |code, arg| Op::range(code, start, bytes, stride, arg);
        let meet = |number| Op::rendezvous(number, self.vcpus).with_flags(SLEEP);
        let touches = self.sharing == Sharing::Distinct || n == 0;
        let mut ops = vec![meet(0)];
        if n == 0 {
            ops.push(Op::plain(OpCode::Event, [event::ROUND, 0, 0, 0]));
        }
        ops.push(meet(1));
        if touches {
            // The guest maintains the lines of the slots that it wrote, and no other line. `FORCE` makes it ignore
            // CTR_EL0, because a kernel change may change the CTR_EL0 that guests read, and the program must stay the
            // same.
            ops.push(over(OpCode::WriteCode, GENERATION).with_flags(EACH).with_tag(tag::TOUCH));
            ops.push(over(OpCode::CleanD, 0).with_flags(FORCE));
            ops.push(Op::barrier(Barrier::DsbIsh));
            ops.push(over(OpCode::InvalI, 0).with_flags(FORCE));
            ops.push(Op::barrier(Barrier::DsbIsh));
        }
        ops.push(meet(2));
        ops.push(Op::barrier(Barrier::Isb));
        ops.push(over(OpCode::Fetch, GENERATION).with_flags(EACH | CHECK).with_tag(tag::EXEC));
        ops.push(meet(3));
        ops.push(over(OpCode::Fetch, GENERATION).with_flags(EACH | CHECK).with_tag(tag::RESIDENT));
        ops.push(Op::plain(OpCode::Repeat, [0, self.rounds, 0, 0]));
        ops.push(Op::end());
        ops
    }

    /// Returns the guest that runs the program.
    pub fn guest(&self) -> GuestSpec {
        let programs: Vec<_> = (0..self.vcpus).map(|n| self.ops(n)).collect();
        let ops = programs.iter().map(Vec::len).max().unwrap_or(0) as u64;
        let elements = self.region_bytes / self.block_bytes;
        // A round leaves three records for each element, a summary for each op, and up to two full sets of mismatches.
        let records = self.rounds * (3 * elements + ops + 2 * abi::op::MISMATCH_CAP) + 1;
        GuestSpec { regions: vec![region(self.region_bytes, self.backing)], programs, records, ..GuestSpec::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(vcpus: u64, sharing: Sharing) -> CaseProgram {
        let (block_bytes, backing) = (2 << 20, Backing::Hugetlb(2 << 20));
        CaseProgram { block_bytes, region_bytes: 16 << 20, backing, vcpus, sharing, rounds: 2 }
    }

    /// Returns the addresses that ops with this tag visit.
    fn visits(program: &CaseProgram, tag: u32) -> Vec<u64> {
        let mut all = Vec::new();
        for ops in program.guest().programs {
            for op in ops.iter().filter(|op| op.tag == tag) {
                all.extend((op.start..op.start + op.bytes).step_by(op.stride as usize));
            }
        }
        all
    }

    #[test]
    fn distinct_covers_each_block_once() {
        for vcpus in [1, 3, 8] {
            let program = program(vcpus, Sharing::Distinct);
            for tag in [tag::TOUCH, tag::EXEC, tag::RESIDENT] {
                let mut visited = visits(&program, tag);
                visited.sort_unstable();
                assert_eq!(visited, (0..8).map(|n| REGION_IPA + n * (2 << 20)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn shared_blocks_are_touched_once_and_executed_by_all() {
        let program = program(3, Sharing::Shared);
        assert_eq!(visits(&program, tag::TOUCH).len(), 8);
        assert_eq!(visits(&program, tag::EXEC).len(), 24);
    }

    #[test]
    fn all_vcpus_have_the_same_rendezvous() {
        let programs = program(3, Sharing::Shared).guest().programs;
        let meets = |ops: &[Op]| -> Vec<_> {
            ops.iter().filter(|op| op.code == OpCode::Rendezvous as u16).map(|op| op.args).collect()
        };
        assert!(programs.iter().all(|ops| meets(ops) == meets(&programs[0])));
    }
}
