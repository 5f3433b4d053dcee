//! Oracle: computes the generations that each look of a program may return. `docs/oracle.md` describes the model.

mod model;
mod rules;
#[cfg(test)]
mod tests;

use abi::op::Barrier;

pub(crate) use model::Possible;
pub use rules::{CacheFeatures, Rule};

use crate::program::{Action, LoadMode, Program, ProgramOp};
use crate::slots::{Class, Slots};
use model::Model;

/// Generations that a look at one slot may return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This generation and no other.
    Required(u16),
    /// The newest generation, or an older one, which is allowed but weak.
    Allowed {
        /// Newest generation.
        newest: u16,
        /// Older generations that may still be held somewhere, the newer first.
        older: Vec<u16>,
    },
    /// Anything: the look proves nothing.
    Skipped,
}

/// Generations that the looks of a program may return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectations {
    /// Slots of the program in their classes.
    pub(crate) slots: Slots,
    /// Features of the machine that the expectations are for.
    pub(crate) features: CacheFeatures,
    /// Classes and expectations of each op; empty for an op that does not look.
    by_op: Vec<Vec<(Class, Expected)>>,
}

impl Expectations {
    /// Returns the expectation for the slot at an offset, if the op looks there.
    pub fn at(&self, op: usize, offset: u64) -> Option<&Expected> {
        self.of(op, self.slots.class_at(offset)?)
    }

    /// Returns the expectation for the slots of a class, if the op looks there.
    pub(crate) fn of(&self, op: usize, class: Class) -> Option<&Expected> {
        self.by_op.get(op)?.iter().find(|(of, _)| *of == class).map(|(_, expected)| expected)
    }

    /// Returns every look: the op, the number of slots in the class, and the expectation for them.
    pub fn looks(&self) -> impl Iterator<Item = (usize, u64, &Expected)> {
        self.by_op.iter().enumerate().flat_map(move |(op, classes)| {
            classes.iter().map(move |(class, expected)| (op, self.slots.count(*class), expected))
        })
    }
}

/// Returns the generations that each look of a legal program may return.
pub fn expect(program: &Program, features: &CacheFeatures) -> Expectations {
    let slots = Slots::of(program);
    let mut by_op = vec![Vec::new(); program.ops.len()];
    walk(program, &slots, features, None, |op, class, look| {
        let expected = match look.possible() {
            _ if proves_nothing(&program.ops[op].action, features) => Expected::Skipped,
            Possible { newest, older, .. } if older.is_empty() => Expected::Required(newest),
            Possible { newest, older, .. } => Expected::Allowed { newest, older },
        };
        by_op[op].push((class, expected));
    });
    Expectations { slots, features: *features, by_op }
}

/// Returns whether a look proves nothing. With FWB, a guest cannot look past the caches.
fn proves_nothing(action: &Action, features: &CacheFeatures) -> bool {
    features.fwb && matches!(action, Action::Load { mode: LoadMode::NonCacheable | LoadMode::CachesOff, .. })
}

/// Look of an op at a class of slots, at the state that the model has then.
pub(crate) struct Look<'a> {
    model: &'a Model,
    vcpu: usize,
    action: &'a Action,
    /// True if a host that breaks its promise may do an event during the look.
    raced: bool,
}

impl Look<'_> {
    /// Returns the generations that the look may return.
    pub(crate) fn possible(&self) -> Possible {
        let possible = match self.action {
            Action::Load { mode: LoadMode::Cacheable, .. } => self.model.load(),
            Action::Load { .. } => self.model.load_poc(self.vcpu),
            _ => self.model.fetch(self.vcpu),
        };
        Possible { anything: possible.anything || self.raced, ..possible }
    }

    /// Returns the op at which a rule last made older generations impossible for this look.
    pub(crate) fn narrowed_by(&self, rule: Rule) -> Option<usize> {
        self.model.narrowed_by(self.vcpu, rule)
    }
}

/// Runs the model over a program and calls `show` for each look at each class of slots. The model keeps every rule
/// except `without`.
///
/// The guest measures the time of its accesses and therefore executes `DSB ISH; ISB` before and after each of them
/// (`payload/src/access.rs`). The model includes this fence.
pub(crate) fn walk(
    program: &Program,
    slots: &Slots,
    features: &CacheFeatures,
    without: Option<Rule>,
    mut show: impl FnMut(usize, Class, Look<'_>),
) {
    let mut models = vec![Model::new(*features, program.vcpus, without); slots.classes()];
    for (index, ProgramOp { vcpu, action }) in program.ops.iter().enumerate() {
        models.iter_mut().for_each(|model| model.begin_op(index));
        // A host that breaks one of its rules may do so while it does an event for another vCPU.
        let raced = without.is_some_and(Rule::concerns_the_host) && raced_by_event(program, index);
        let fenced = action.is_look() || matches!(action, Action::Write { .. });
        if fenced {
            fence(&mut models, *vcpu);
        }
        if action.is_look() {
            for class in slots.classes_of(index) {
                show(index, class, Look { model: &models[class], vcpu: *vcpu, action, raced });
            }
        }
        apply(&mut models, slots, index, *vcpu, action);
        if raced && without == Some(Rule::ContentsKept) {
            slots.classes_of(index).for_each(|class| models[class].lose());
        }
        if fenced {
            fence(&mut models, *vcpu);
        }
    }
}

/// Returns whether another vCPU asks for an event between the same two meetings as an op.
fn raced_by_event(program: &Program, index: usize) -> bool {
    let ops = &program.ops;
    let meets = |op: &&ProgramOp| op.action == Action::Meet;
    let before = ops[..index].iter().rev().take_while(|op| !meets(op));
    let after = ops[index..].iter().take_while(|op| !meets(op));
    let events = before.chain(after).filter(|op| matches!(op.action, Action::Event { .. }));
    events.into_iter().any(|op| op.vcpu != ops[index].vcpu)
}

fn fence(models: &mut [Model], vcpu: usize) {
    for model in models {
        model.dsb(vcpu);
        model.isb(vcpu);
    }
}

/// Applies the action of an op to the models.
fn apply(models: &mut [Model], slots: &Slots, index: usize, vcpu: usize, action: &Action) {
    let mut to_span = |then: &dyn Fn(&mut Model)| slots.classes_of(index).for_each(|class| then(&mut models[class]));
    match *action {
        Action::Write { generation, .. } => to_span(&|model| model.write(vcpu, generation)),
        Action::CleanD { to, .. } => to_span(&|model| model.clean(vcpu, to)),
        Action::InvalI { .. } => to_span(&|model| model.invalidate(vcpu, Rule::Invalidate)),
        Action::InvalIAll => models.iter_mut().for_each(|model| model.invalidate(vcpu, Rule::InvalidateAll)),
        Action::Barrier { barrier: Barrier::DsbIsh } => models.iter_mut().for_each(|model| model.dsb(vcpu)),
        Action::Barrier { barrier: Barrier::Isb } => models.iter_mut().for_each(|model| model.isb(vcpu)),
        Action::Event { event, generation, .. } => {
            for (class, model) in models.iter_mut().enumerate() {
                model.event(vcpu, event, slots.is_in(class, index).then_some(generation));
            }
        }
        Action::Meet => models.iter_mut().for_each(Model::meet),
        Action::Barrier { .. } | Action::Fetch { .. } | Action::Load { .. } => {}
    }
}
