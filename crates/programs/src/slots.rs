//! The slots that a program names, in classes: slots in the spans of the same steps fare alike, so that the oracle looks
//! at a class once however many lines it has.

use std::collections::BTreeMap;

use crate::legal::MAX_STEPS;
use crate::program::Program;

/// Number of a class.
pub type Class = usize;

/// The slots of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// For each class the steps whose span its slots are in, as bits.
    steps: Vec<u128>,
    /// Slots of each class.
    counts: Vec<u64>,
    /// Offsets and classes, by offset.
    slots: Vec<(u64, Class)>,
}

const _: () = assert!(MAX_STEPS <= u128::BITS as usize);

impl Slots {
    /// Returns the slots of a program; steps beyond [`MAX_STEPS`] are not looked at.
    pub fn of(program: &Program) -> Self {
        let mut named: BTreeMap<u64, u128> = BTreeMap::new();
        for (step, act) in program.steps.iter().map(|step| step.act).enumerate().take(MAX_STEPS) {
            for offset in act.span().into_iter().flat_map(|span| span.offsets()) {
                *named.entry(offset).or_default() |= 1 << step;
            }
        }
        let mut steps: Vec<u128> = Vec::new();
        let mut counts = Vec::new();
        let mut known: BTreeMap<u128, Class> = BTreeMap::new();
        let mut slots = Vec::with_capacity(named.len());
        for (offset, bits) in named {
            let class = *known.entry(bits).or_insert_with(|| {
                steps.push(bits);
                counts.push(0);
                steps.len() - 1
            });
            counts[class] += 1;
            slots.push((offset, class));
        }
        Self { steps, counts, slots }
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.steps.len()
    }

    /// Returns the classes in the span of a step.
    pub fn classes_of(&self, step: usize) -> impl Iterator<Item = Class> {
        (0..self.classes()).filter(move |class| self.is_in(*class, step))
    }

    /// Says whether the slots of a class are in the span of a step.
    pub fn is_in(&self, class: Class, step: usize) -> bool {
        self.steps[class] >> step & 1 != 0
    }

    /// Returns how many slots a class has.
    pub fn count(&self, class: Class) -> u64 {
        self.counts[class]
    }

    /// Returns the class of the slot at an offset in the region.
    pub fn class_at(&self, offset: u64) -> Option<Class> {
        let index = self.slots.binary_search_by_key(&offset, |(at, _)| *at).ok()?;
        Some(self.slots[index].1)
    }

    /// Returns the offset of every slot, from low to high: what has to hold generation 0 before the first step.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().map(|(offset, _)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Act, Span, Step};

    #[test]
    fn slots_of_the_same_steps_are_a_class() {
        let span = |start, stride, count| Span { start, stride, count };
        let steps = vec![
            Step { vcpu: 0, act: Act::Fetch { span: span(0, 64, 8) } },
            Step { vcpu: 0, act: Act::InvalIAll },
            Step { vcpu: 0, act: Act::Write { span: span(0, 128, 8), generation: 1 } },
        ];
        let slots = Slots::of(&Program { vcpus: 1, steps });
        assert_eq!((slots.classes(), slots.offsets().count()), (3, 12));
        assert_eq!(slots.class_at(0), slots.class_at(128));
        assert_ne!(slots.class_at(0), slots.class_at(64));
        assert_eq!(slots.class_at(576), None);
        let counts: Vec<_> = slots.classes_of(2).map(|class| slots.count(class)).collect();
        assert_eq!(counts, [4, 4]);
        assert_eq!(slots.classes_of(1).count(), 0);
    }
}
