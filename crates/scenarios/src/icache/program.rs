//! The guest's program for the measurement of one block size.
//!
//! One vCPU takes three faults on each block. A load maps it, a fetch relaxes the permission, and after the host has
//! unmapped the block, a fetch maps it. The faults differ only in the I-cache maintenance that the host does. The host
//! writes the code, so that the guest needs no maintenance of its own.

use abi::op::{Barrier, CHECK, EACH};
use abi::{Op, OpCode};

use guest::event::RoundEvent;
use guest::region::{GENERATION, REGION_IPA, region};
use guest::spec::{Backing, GuestSpec};

/// The program of one case, which runs on one kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseProgram {
    /// Size in bytes of the block or page that KVM should map.
    pub block_bytes: u64,
    /// Size of the region in bytes; a multiple of the block size.
    pub region_bytes: u64,
    /// Host memory behind the region.
    pub backing: Backing,
    /// Number of rounds.
    pub rounds: u64,
}

/// Tags of the ops whose records are results.
pub mod tag {
    /// Translation fault by a load.
    pub const BY_LOAD: u32 = 1;
    /// Permission fault by a fetch.
    pub const PERMISSION: u32 = 2;
    /// Fetch without a fault.
    pub const RESIDENT: u32 = 3;
    /// Translation fault by a fetch.
    pub const BY_FETCH: u32 = 4;
}

impl CaseProgram {
    /// Returns the default size of the region: one large block, or enough smaller blocks for a median.
    pub fn default_region_bytes(block_bytes: u64) -> u64 {
        let blocks = if block_bytes >= 32 << 20 {
            1
        } else if block_bytes >= 1 << 20 {
            4
        } else {
            64
        };
        block_bytes * blocks
    }

    /// Returns the IPAs to which the host writes code: the start of each block.
    pub fn host_code(&self) -> Vec<u64> {
        (REGION_IPA..REGION_IPA + self.region_bytes).step_by(self.block_bytes as usize).collect()
    }

    /// Returns the guest that runs the program.
    pub fn guest(&self) -> GuestSpec {
        let over = |code, arg, flags, tag| {
            Op::range(code, REGION_IPA, self.region_bytes, self.block_bytes, arg).with_flags(flags | EACH).with_tag(tag)
        };
        let fetch = |tag| over(OpCode::Fetch, GENERATION, CHECK, tag);
        let ops = vec![
            RoundEvent::Begin.op(),
            over(OpCode::Load, 0, 0, tag::BY_LOAD),
            Op::barrier(Barrier::Isb),
            fetch(tag::PERMISSION),
            fetch(tag::RESIDENT),
            RoundEvent::Unmap.op(),
            Op::barrier(Barrier::Isb),
            fetch(tag::BY_FETCH),
            Op::plain(OpCode::Repeat, [0, self.rounds, 0, 0]),
            Op::end(),
        ];
        let elements = self.region_bytes / self.block_bytes;
        let records = self.rounds * (4 * elements + ops.len() as u64 + 3 * abi::op::MISMATCH_CAP) + 1;
        GuestSpec {
            regions: vec![region(self.region_bytes, self.backing)],
            programs: vec![ops],
            records,
            ..GuestSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a store, the guest would have to do maintenance itself, and a fetch would not be the first access.
    #[test]
    fn guest_never_writes() {
        let program = CaseProgram { block_bytes: 4096, region_bytes: 64 << 10, backing: Backing::Pages, rounds: 1 };
        assert_eq!(program.host_code().len(), 16);
        let writes = [OpCode::WriteCode, OpCode::Store].map(|code| code as u16);
        assert!(program.guest().programs.concat().iter().all(|op| !writes.contains(&op.code)));
    }
}
