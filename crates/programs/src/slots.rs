//! Slots of a program, divided into classes. Slots in the spans of the same ops behave alike, so the oracle computes
//! one result for each class, however many slots the class has.

use std::collections::BTreeMap;

use crate::program::{MAX_OPS, Program};

/// Number of a class.
pub(crate) type Class = usize;

/// Slots of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Ops that have the slots of a class in their span, one bit each, by class.
    ops: Vec<u128>,
    /// Number of slots, by class.
    counts: Vec<u64>,
    /// Offset and class of each slot, by rising offset.
    slots: Vec<(u64, Class)>,
}

const _: () = assert!(MAX_OPS <= u128::BITS as usize);

impl Slots {
    /// Returns the slots of the first [`MAX_OPS`] ops of a program.
    pub fn of(program: &Program) -> Self {
        let mut ops_by_offset: BTreeMap<u64, u128> = BTreeMap::new();
        for (index, op) in program.ops.iter().enumerate().take(MAX_OPS) {
            for offset in op.action.span().into_iter().flat_map(|span| span.offsets()) {
                *ops_by_offset.entry(offset).or_default() |= 1 << index;
            }
        }
        let mut ops: Vec<u128> = Vec::new();
        let mut counts = Vec::new();
        let mut classes: BTreeMap<u128, Class> = BTreeMap::new();
        let mut slots = Vec::with_capacity(ops_by_offset.len());
        for (offset, bits) in ops_by_offset {
            let class = *classes.entry(bits).or_insert_with(|| {
                ops.push(bits);
                counts.push(0);
                ops.len() - 1
            });
            counts[class] += 1;
            slots.push((offset, class));
        }
        Self { ops, counts, slots }
    }

    /// Returns the number of classes.
    pub(crate) fn classes(&self) -> usize {
        self.ops.len()
    }

    /// Returns the classes whose slots are in the span of an op.
    pub(crate) fn classes_of(&self, op: usize) -> impl Iterator<Item = Class> {
        (0..self.classes()).filter(move |class| self.is_in(*class, op))
    }

    /// Returns whether the slots of a class are in the span of an op.
    pub(crate) fn is_in(&self, class: Class, op: usize) -> bool {
        self.ops[class] >> op & 1 != 0
    }

    /// Returns the number of slots of a class.
    pub(crate) fn count(&self, class: Class) -> u64 {
        self.counts[class]
    }

    /// Returns the class of the slot at an offset in the region.
    pub(crate) fn class_at(&self, offset: u64) -> Option<Class> {
        let index = self.slots.binary_search_by_key(&offset, |(at, _)| *at).ok()?;
        Some(self.slots[index].1)
    }

    /// Returns the offset of every slot, in rising order. These slots must hold generation 0 before the first op.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().map(|(offset, _)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Action, ProgramOp, Span};

    #[test]
    fn slots_of_the_same_ops_are_a_class() {
        let span = |start, stride, count| Span { start, stride, count };
        let ops = vec![
            ProgramOp::new(0, Action::Fetch { span: span(0, 64, 8) }),
            ProgramOp::new(0, Action::InvalIAll),
            ProgramOp::new(0, Action::Write { span: span(0, 128, 8), generation: 1 }),
        ];
        let slots = Slots::of(&Program { vcpus: 1, ops });
        assert_eq!((slots.classes(), slots.offsets().count()), (3, 12));
        assert_eq!(slots.class_at(0), slots.class_at(128));
        assert_ne!(slots.class_at(0), slots.class_at(64));
        assert_eq!(slots.class_at(576), None);
        let counts: Vec<_> = slots.classes_of(2).map(|class| slots.count(class)).collect();
        assert_eq!(counts, [4, 4]);
        assert_eq!(slots.classes_of(1).count(), 0);
    }
}
