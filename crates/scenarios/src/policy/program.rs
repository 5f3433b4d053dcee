//! `policy`: one vCPU takes three faults on each block that differ in the I-cache maintenance alone: mapped by a load,
//! relaxed by a fetch, and mapped by a fetch. The host writes the code.

use abi::op::{Barrier, CHECK, EACH};
use abi::{Op, OpCode};

use guest::event::RoundEvent;
use guest::region::{GENERATION, REGION_IPA, region};
use guest::spec::{Backing, GuestSpec};

/// One case: one kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Size in bytes of what KVM should map at once.
    pub block_bytes: u64,
    /// Region size in bytes; a multiple of the block size.
    pub region_bytes: u64,
    /// What stands behind the region.
    pub backing: Backing,
    /// How often all of it is done.
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

impl Case {
    /// Returns one large block, or enough smaller ones for a median.
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

    /// Returns where the host has to put code.
    pub fn host_code(&self) -> Vec<u64> {
        (REGION_IPA..REGION_IPA + self.region_bytes).step_by(self.block_bytes as usize).collect()
    }

    /// Returns the guest that runs this case.
    pub fn guest(&self) -> GuestSpec {
        let over = |code, arg, flags, tag| {
            Op::range(code, REGION_IPA, self.region_bytes, self.block_bytes, arg).with_flags(flags | EACH).with_tag(tag)
        };
        let fetch = |tag| over(OpCode::Fetch, GENERATION, CHECK, tag);
        let program = vec![
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
        let records = self.rounds * (4 * elements + program.len() as u64 + 3 * abi::op::MISMATCH_CAP) + 1;
        GuestSpec {
            regions: vec![region(self.region_bytes, self.backing)],
            programs: vec![program],
            records,
            ..GuestSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store would need the guest's own maintenance, and the fetch would then not be the first access.
    #[test]
    fn the_guest_never_writes() {
        let case = Case { block_bytes: 4096, region_bytes: 64 << 10, backing: Backing::Pages, rounds: 1 };
        assert_eq!(case.host_code().len(), 16);
        let writes = [OpCode::WriteCode, OpCode::Store].map(|code| code as u16);
        assert!(case.guest().programs.concat().iter().all(|op| !writes.contains(&op.code)));
    }
}
