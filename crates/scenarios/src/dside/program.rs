//! `dside`: first touch of memory as data, and taking it away again: where KVM cleans the D-cache, without FWB.

use abi::op::EACH;
use abi::{Op, OpCode};

use guest::event::RoundEvent;
use guest::region::{REGION_IPA, region};
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
    /// How often all of it is done; the last time, the host takes the memory itself away.
    pub rounds: u64,
}

/// Tag of the first touches.
pub const TOUCH: u32 = 1;

impl Case {
    /// Returns the guest that runs this case.
    pub fn guest(&self) -> GuestSpec {
        let touch = Op::range(OpCode::Store, REGION_IPA, self.region_bytes, self.block_bytes, 1);
        let touch = touch.with_flags(EACH).with_tag(TOUCH);
        let mut program = Vec::new();
        if self.rounds > 1 {
            program.extend([RoundEvent::Begin.op(), touch, RoundEvent::Unmap.op()]);
            program.push(Op::plain(OpCode::Repeat, [0, self.rounds - 1, 0, 0]));
        }
        program.extend([RoundEvent::Begin.op(), touch, RoundEvent::Discard.op(), Op::end()]);
        let elements = self.region_bytes / self.block_bytes;
        let records = self.rounds * (elements + program.len() as u64) + 1;
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

    #[test]
    fn memory_goes_away_last() {
        for rounds in [1, 3] {
            let case = Case { block_bytes: 2 << 20, region_bytes: 8 << 20, backing: Backing::Thp(2 << 20), rounds };
            let program = &case.guest().programs[0];
            let events: Vec<_> = program.iter().filter(|op| op.code == OpCode::Event as u16).collect();
            assert_eq!(events.last(), Some(&&RoundEvent::Discard.op()));
            assert_eq!(events.iter().filter(|op| ***op == RoundEvent::Discard.op()).count(), 1);
        }
    }
}
