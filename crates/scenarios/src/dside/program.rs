//! The guest's program for one case of `dside`. The guest touches memory as data, and the host then unmaps or frees it.
//! Without FWB, KVM cleans the D-cache meanwhile.

use abi::op::{Attr, EACH};
use abi::{Op, OpCode};

use guest::event::RoundEvent;
use guest::region::{REGION_IPA, region};
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
    /// Number of rounds. The host unmaps the memory at the end of each round, but frees it at the end of the last one.
    pub rounds: u64,
    /// Attributes of the guest's own mapping.
    pub attr: Attr,
}

/// Tag of the first touches.
pub const TOUCH: u32 = 1;

impl CaseProgram {
    /// Returns the guest that runs the program.
    pub fn guest(&self) -> GuestSpec {
        let touch = Op::range(OpCode::Store, REGION_IPA, self.region_bytes, self.block_bytes, 1);
        let touch = touch.with_flags(EACH).with_tag(TOUCH);
        let mut ops = Vec::new();
        if self.attr != Attr::Cacheable {
            ops.push(Op::range(OpCode::Remap, REGION_IPA, self.region_bytes, 0, self.attr as u64));
        }
        if self.rounds > 1 {
            let first = ops.len() as u64;
            ops.extend([RoundEvent::Begin.op(), touch, RoundEvent::Unmap.op()]);
            ops.push(Op::plain(OpCode::Repeat, [first, self.rounds - 1, 0, 0]));
        }
        ops.extend([RoundEvent::Begin.op(), touch, RoundEvent::Discard.op(), Op::end()]);
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
            let program = CaseProgram { block_bytes, region_bytes: 8 << 20, backing, rounds, attr: Attr::Cacheable };
            let ops = &program.guest().programs[0];
            let events: Vec<_> = ops.iter().filter(|op| op.code == OpCode::Event as u16).collect();
            assert_eq!(events.last(), Some(&&RoundEvent::Discard.op()));
            assert_eq!(events.iter().filter(|op| ***op == RoundEvent::Discard.op()).count(), 1);
        }
    }

    #[test]
    fn the_region_is_mapped_anew_once_and_before_all_rounds() {
        let (block_bytes, backing, attr) = (2 << 20, Backing::Thp(2 << 20), Attr::NonCacheable);
        let program = CaseProgram { block_bytes, region_bytes: 8 << 20, backing, rounds: 3, attr };
        let ops = &program.guest().programs[0];
        assert_eq!((ops[0].code, ops[0].args[0]), (OpCode::Remap as u16, attr as u64));
        let repeat = ops.iter().find(|op| op.code == OpCode::Repeat as u16).expect("three rounds");
        assert_eq!(repeat.args[0], 1);
    }
}
