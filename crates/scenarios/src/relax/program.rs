//! `relax`: the guest first touches each block as data, so that KVM maps it without X, then executes it, so that KVM
//! relaxes the permission and does its I-cache maintenance inside that one fault.

use abi::op::{Barrier, CHECK, EACH, FORCE, SLEEP};
use abi::{Op, OpCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use guest::event::RoundEvent;
use guest::region::{GENERATION, REGION_IPA, region};
use guest::spec::{Backing, GuestSpec};

/// Who executes which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Each vCPU has blocks of its own.
    Distinct,
    /// vCPU 0 touches all blocks as data, then all vCPUs execute all of them at once.
    Shared,
}

/// One case: one kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Size in bytes of what KVM should map at once.
    pub block_bytes: u64,
    /// Region size in bytes; a multiple of the block size.
    pub region_bytes: u64,
    /// What stands behind the region.
    pub backing: Backing,
    /// vCPUs that run the program.
    pub vcpus: u64,
    /// Who executes what.
    pub sharing: Sharing,
    /// How often all of it is done.
    pub rounds: u64,
}

/// Tags of the ops whose records are results.
pub mod tag {
    /// First touch, as data.
    pub const TOUCH: u32 = 1;
    /// First execution.
    pub const EXEC: u32 = 2;
    /// Execution once everything is mapped: what the fetch costs without a fault.
    pub const RESIDENT: u32 = 3;
}

impl Case {
    /// Returns the fewest blocks that give each vCPU one, or as many as tell a distribution for small blocks.
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

    /// Returns the blocks that vCPU `n` touches and executes, as start, bytes and stride.
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

    /// Returns how many blocks all vCPUs together execute in one round.
    pub fn executions(&self) -> u64 {
        let blocks = self.region_bytes / self.block_bytes;
        if self.sharing == Sharing::Shared { blocks * self.vcpus } else { blocks }
    }

    fn program(&self, n: u64) -> Vec<Op> {
        let (start, bytes, stride) = self.blocks_of(n);
        let over = |code, arg| Op::range(code, start, bytes, stride, arg);
        let meet = |number| Op::rendezvous(number, self.vcpus).with_flags(SLEEP);
        let touches = self.sharing == Sharing::Distinct || n == 0;
        let mut ops = vec![meet(0)];
        if n == 0 {
            ops.push(RoundEvent::Begin.op());
        }
        ops.push(meet(1));
        if touches {
            // Maintenance for the guest's own store, of the slot's line alone, whatever CTR_EL0 says: programs before
            // and after a kernel change must not differ.
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

    /// Returns the guest that runs this case.
    pub fn guest(&self) -> GuestSpec {
        let programs: Vec<_> = (0..self.vcpus).map(|n| self.program(n)).collect();
        let ops = programs.iter().map(Vec::len).max().unwrap_or(0) as u64;
        let elements = self.region_bytes / self.block_bytes;
        // Per round: three records for each element, a summary for each op, and mismatches up to the cap twice.
        let records = self.rounds * (3 * elements + ops + 2 * abi::op::MISMATCH_CAP) + 1;
        GuestSpec { regions: vec![region(self.region_bytes, self.backing)], programs, records, ..GuestSpec::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(vcpus: u64, sharing: Sharing) -> Case {
        let (block_bytes, backing) = (2 << 20, Backing::Hugetlb(2 << 20));
        Case { block_bytes, region_bytes: 16 << 20, backing, vcpus, sharing, rounds: 2 }
    }

    /// Addresses that ops with this tag visit.
    fn visits(case: &Case, tag: u32) -> Vec<u64> {
        let mut all = Vec::new();
        for program in case.guest().programs {
            for op in program.iter().filter(|op| op.tag == tag) {
                all.extend((op.start..op.start + op.bytes).step_by(op.stride as usize));
            }
        }
        all
    }

    #[test]
    fn distinct_covers_each_block_once() {
        for vcpus in [1, 3, 8] {
            let case = case(vcpus, Sharing::Distinct);
            for tag in [tag::TOUCH, tag::EXEC, tag::RESIDENT] {
                let mut seen = visits(&case, tag);
                seen.sort_unstable();
                assert_eq!(seen, (0..8).map(|n| REGION_IPA + n * (2 << 20)).collect::<Vec<_>>());
            }
            assert_eq!(case.executions(), 8);
        }
    }

    #[test]
    fn shared_touches_once_and_executes_by_all() {
        let case = case(3, Sharing::Shared);
        assert_eq!(visits(&case, tag::TOUCH).len(), 8);
        assert_eq!(visits(&case, tag::EXEC).len() as u64, case.executions());
        assert_eq!(case.executions(), 24);
    }

    #[test]
    fn every_vcpu_meets_the_same_rendezvous() {
        let programs = case(3, Sharing::Shared).guest().programs;
        let meets = |ops: &[Op]| -> Vec<_> {
            ops.iter().filter(|op| op.code == OpCode::Rendezvous as u16).map(|op| op.args).collect()
        };
        assert!(programs.iter().all(|ops| meets(ops) == meets(&programs[0])));
    }
}
