//! The guest's program for one case of `dside`. The guest touches memory as data, and the host then unmaps or frees it.
//! Without FWB, KVM cleans the D-cache meanwhile.

use abi::op::EACH;
use abi::{Op, OpCode};

use guest::region::{REGION_IPA, event, region};
use guest::run::{Backing, GuestSpec};

/// The program of one case, which runs on one kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseProgram {
    /// Size in bytes of the block or page that KVM should map.
    pub block_bytes: u64,
    /// Size of the region in bytes; a multiple of the block size.
    pub region_bytes: u64,
    /// Host memory behind the region.
    pub backing: Backing,
    /// Number of rounds. The host unmaps the memory at the end of each round, but frees it at the end of the last one.
    pub rounds: u64,
}

/// Tag of the first touches.
pub const TOUCH: u32 = 1;

impl CaseProgram {
    /// Returns the guest that runs the program.
    pub fn guest(&self) -> GuestSpec {
        let touch = Op::range(OpCode::Store, REGION_IPA, self.region_bytes, self.block_bytes, 1);
        let touch = touch.with_flags(EACH).with_tag(TOUCH);
        let host = |event| Op::plain(OpCode::Event, [event, 0, 0, 0]);
        let mut ops = Vec::new();
        if self.rounds > 1 {
            ops.extend([host(event::ROUND), touch, host(event::UNMAP)]);
            ops.push(Op::plain(OpCode::Repeat, [0, self.rounds - 1, 0, 0]));
        }
        ops.extend([host(event::ROUND), touch, host(event::DISCARD), Op::end()]);
        let elements = self.region_bytes / self.block_bytes;
        let records = self.rounds * (elements + ops.len() as u64) + 1;
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

    #[test]
    fn memory_is_freed_once_and_last() {
        for rounds in [1, 3] {
            let (block_bytes, backing) = (2 << 20, Backing::Thp(2 << 20));
            let program = CaseProgram { block_bytes, region_bytes: 8 << 20, backing, rounds };
            let ops = &program.guest().programs[0];
            let events: Vec<_> = ops.iter().filter(|op| op.code == OpCode::Event as u16).map(|op| op.args[0]).collect();
            assert_eq!(events.last(), Some(&event::DISCARD));
            assert_eq!(events.iter().filter(|e| **e == event::DISCARD).count(), 1);
        }
    }
}
