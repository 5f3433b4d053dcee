//! The oracle: what each look of a program may see. Pure; docs/oracle.md tells it as a page.

mod model;
mod rules;
#[cfg(test)]
mod tests;

use abi::op::Barrier;

pub use model::{Model, Window};
pub use rules::{Geometry, Rule};

use crate::program::{Act, Look, Program, Step};
use crate::slots::{Class, Slots};

/// What a look at one slot may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This generation and no other.
    Required(u16),
    /// The newest, or one of these older ones, the newer first: allowed, but weak.
    Allowed {
        /// The newest.
        newest: u16,
        /// Those that may still be held somewhere.
        older: Vec<u16>,
    },
    /// Looking proves nothing.
    Skipped,
}

/// What the looks of a program may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectations {
    /// The slots, in the classes that the looks tell apart.
    pub slots: Slots,
    /// What machine it was made for.
    pub geometry: Geometry,
    /// By step; empty for steps that do not look.
    steps: Vec<Vec<(Class, Expected)>>,
}

impl Expectations {
    /// Returns what a step may see in the slot at an offset, if it looks there.
    pub fn at(&self, step: usize, offset: u64) -> Option<&Expected> {
        self.of(step, self.slots.class_at(offset)?)
    }

    /// Returns what a step may see in the slots of a class, if it looks there.
    pub fn of(&self, step: usize, class: Class) -> Option<&Expected> {
        self.steps.get(step)?.iter().find(|(of, _)| *of == class).map(|(_, expected)| expected)
    }

    /// Returns every look: the step, how many slots are alike, and what it may see in them.
    pub fn looks(&self) -> impl Iterator<Item = (usize, u64, &Expected)> {
        self.steps.iter().enumerate().flat_map(move |(step, classes)| {
            classes.iter().map(move |(class, expected)| (step, self.slots.count(*class), expected))
        })
    }
}

/// Returns what each look of a legal program may see.
pub fn expect(program: &Program, geometry: &Geometry) -> Expectations {
    let slots = Slots::of(program);
    let mut steps = vec![Vec::new(); program.steps.len()];
    walk(program, &slots, geometry, None, |step, class, look| {
        let expected = match look.window() {
            _ if proves_nothing(&program.steps[step].act, geometry) => Expected::Skipped,
            Window { newest, older, .. } if older.is_empty() => Expected::Required(newest),
            Window { newest, older, .. } => Expected::Allowed { newest, older },
        };
        steps[step].push((class, expected));
    });
    Expectations { slots, geometry: *geometry, steps }
}

/// With FWB the guest cannot look past the caches.
fn proves_nothing(act: &Act, geometry: &Geometry) -> bool {
    geometry.fwb && matches!(act, Act::Load { look: Look::NonCacheable | Look::CachesOff, .. })
}

/// One look of a step at a class of slots.
pub(super) struct At<'a> {
    model: &'a Model,
    vcpu: usize,
    act: &'a Act,
    /// Whether an event may come in between, by a host that breaks its promise.
    raced: bool,
}

impl At<'_> {
    /// Returns what may be seen.
    pub fn window(&self) -> Window {
        let window = match self.act {
            Act::Load { look: Look::Cacheable, .. } => self.model.load(),
            Act::Load { .. } => self.model.load_poc(self.vcpu),
            _ => self.model.fetch(self.vcpu),
        };
        Window { anything: window.anything || self.raced, ..window }
    }

    /// Returns the step at which a rule last took something away from what may be seen.
    pub fn acted(&self, rule: Rule) -> Option<usize> {
        self.model.acted(self.vcpu, rule)
    }
}

/// Goes through a program with every rule kept but `without`, and shows each look at each class of slots.
///
/// The guest times its accesses, and the fence around each is `DSB ISH; ISB` (payload/src/exceptions.rs): it counts.
pub(super) fn walk(
    program: &Program,
    slots: &Slots,
    geometry: &Geometry,
    without: Option<Rule>,
    mut show: impl FnMut(usize, Class, At<'_>),
) {
    let mut models = vec![Model::new(*geometry, program.vcpus, without); slots.classes()];
    for (index, Step { vcpu, act }) in program.steps.iter().enumerate() {
        models.iter_mut().for_each(|model| model.at(index));
        // Without a rule that the host's events rely on, what it does for other vCPUs at the same time may show as well.
        let raced = without.is_some_and(Rule::concerns_the_host) && raced(program, index);
        let fenced = act.observes() || matches!(act, Act::Write { .. });
        if fenced {
            fence(&mut models, *vcpu);
        }
        if act.observes() {
            for class in slots.classes_of(index) {
                show(index, class, At { model: &models[class], vcpu: *vcpu, act, raced });
            }
        }
        apply(&mut models, slots, index, *vcpu, act);
        if raced && without == Some(Rule::ContentsKept) {
            slots.classes_of(index).for_each(|class| models[class].lose());
        }
        if fenced {
            fence(&mut models, *vcpu);
        }
    }
}

/// Says whether another vCPU asks for an event between the same two meetings as a step.
fn raced(program: &Program, index: usize) -> bool {
    let steps = &program.steps;
    let meets = |step: &&Step| step.act == Act::Meet;
    let before = steps[..index].iter().rev().take_while(|step| !meets(step));
    let after = steps[index..].iter().take_while(|step| !meets(step));
    let events = before.chain(after).filter(|step| matches!(step.act, Act::Event { .. }));
    events.into_iter().any(|step| step.vcpu != steps[index].vcpu)
}

fn fence(models: &mut [Model], vcpu: usize) {
    for model in models {
        model.dsb(vcpu);
        model.isb(vcpu);
    }
}

/// Applies what a step does.
fn apply(models: &mut [Model], slots: &Slots, index: usize, vcpu: usize, act: &Act) {
    let mut named = |then: &dyn Fn(&mut Model)| slots.classes_of(index).for_each(|class| then(&mut models[class]));
    match *act {
        Act::Write { generation, .. } => named(&|model| model.write(vcpu, generation)),
        Act::CleanD { to, .. } => named(&|model| model.clean(vcpu, to)),
        Act::InvalI { .. } => named(&|model| model.invalidate(vcpu, Rule::Invalidate)),
        Act::InvalIAll => models.iter_mut().for_each(|model| model.invalidate(vcpu, Rule::InvalidateAll)),
        Act::Barrier { barrier: Barrier::DsbIsh } => models.iter_mut().for_each(|model| model.dsb(vcpu)),
        Act::Barrier { barrier: Barrier::Isb } => models.iter_mut().for_each(|model| model.isb(vcpu)),
        Act::Event { event, generation, .. } => {
            for (class, model) in models.iter_mut().enumerate() {
                model.event(vcpu, event, slots.is_in(class, index).then_some(generation));
            }
        }
        Act::Meet => models.iter_mut().for_each(Model::meet),
        Act::Barrier { .. } | Act::Fetch { .. } | Act::Load { .. } => {}
    }
}
