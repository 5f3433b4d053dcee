//! Random programs: legal, the same for the same seed everywhere, most of them synchronised well enough that something
//! is required of what they see.

use abi::op::Barrier;

use crate::legal::{self, Limits};
use crate::program::{Act, Clean, Look, Program, Span, Step};
use guest::event::{Contents, Event};
use units::random::Random;

/// What programs are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Space<'a> {
    /// What they have to fit into.
    pub limits: Limits,
    /// Most vCPUs.
    pub vcpus: usize,
    /// Most steps.
    pub steps: usize,
    /// Events that the machine can do.
    pub events: &'a [Event],
}

/// Distances of slots, in the least that is possible: next to each other, in other pages, in other blocks.
const STRIDES: [u64; 6] = [1, 1, 2, 4, 64, 1024];

/// Returns program number `seed`.
pub fn program(seed: u64, space: &Space<'_>) -> Program {
    let mut random = Random::new(seed);
    let vcpus = 1 + random.below(space.vcpus as u64) as usize;
    let spans = (0..1 + random.below(3)).map(|_| span(&mut random, space.limits)).collect();
    let room = (4 + random.below(space.steps as u64) as usize).min(space.steps);
    let mut draft = Draft { random, space, vcpus, spans, room, generation: 0, epoch: 0, steps: Vec::new() };
    // Old code that was executed is old code that can be held.
    if !draft.random.one_in(4) {
        let (vcpu, span) = (draft.vcpu(), draft.spans[0]);
        draft.push(vcpu, Act::Fetch { span });
    }
    while draft.steps.len() < draft.room {
        draft.phrase();
    }
    Program { vcpus, steps: draft.steps }
}

fn span(random: &mut Random, limits: Limits) -> Span {
    let min = limits.min_stride();
    let slots = (limits.region_bytes / min).max(1);
    let (start, count) = (random.below(slots.min(16)), 1 + random.below(4));
    let stride = random.pick(&STRIDES);
    let count = if start + stride * (count - 1) < slots { count } else { 1 };
    Span { start: min * start, stride: min * stride, count }
}

struct Draft<'a> {
    random: Random,
    space: &'a Space<'a>,
    vcpus: usize,
    spans: Vec<Span>,
    room: usize,
    generation: u16,
    /// First step after the last meeting.
    epoch: usize,
    steps: Vec<Step>,
}

impl Draft<'_> {
    fn vcpu(&mut self) -> usize {
        self.random.below(self.vcpus as u64) as usize
    }

    fn span(&mut self) -> Span {
        let span = self.random.pick(&self.spans);
        if self.random.one_in(4) {
            return Span { start: span.start + span.stride * self.random.below(span.count), count: 1, ..span };
        }
        span
    }

    fn next_generation(&mut self) -> u16 {
        self.generation += 1;
        self.generation
    }

    /// Appends a step, after a meeting where it needs one, while there is room.
    fn push(&mut self, vcpu: usize, act: Act) {
        let step = Step { vcpu, act };
        if self.steps[self.epoch..].iter().any(|other| legal::race(other, &step).is_some()) {
            self.meet();
        }
        if self.steps.len() < self.room {
            self.steps.push(step);
        }
    }

    fn meet(&mut self) {
        if self.steps.len() < self.room {
            self.steps.push(Step { vcpu: 0, act: Act::Meet });
        }
        self.epoch = self.steps.len();
    }

    fn phrase(&mut self) {
        match self.random.below(8) {
            0..3 => self.guest_writes(),
            3 => self.guest_writes_to_the_poc(),
            4..6 => self.host_writes(),
            6 => self.host_acts(),
            _ => self.anything(),
        }
    }

    /// Leaves a step out now and then: what the guest does not do is allowed to show.
    fn mostly(&mut self, vcpu: usize, act: Act) {
        if !self.random.one_in(16) {
            self.push(vcpu, act);
        }
    }

    fn guest_writes(&mut self) {
        let (writer, cleaner, span) = (self.vcpu(), self.vcpu(), self.span());
        let generation = self.next_generation();
        self.push(writer, Act::Write { span, generation });
        let to = self.random.pick(&[Clean::Pou, Clean::Pou, Clean::Poc, Clean::PocInvalidate]);
        let dsb = Act::Barrier { barrier: Barrier::DsbIsh };
        let invalidate = if self.random.one_in(4) { Act::InvalIAll } else { Act::InvalI { span } };
        self.mostly(cleaner, Act::CleanD { span, to });
        self.mostly(cleaner, dsb);
        let invalidator = self.pass_on(cleaner);
        self.mostly(invalidator, invalidate);
        self.mostly(invalidator, dsb);
        self.look(span);
    }

    fn guest_writes_to_the_poc(&mut self) {
        let (vcpu, span) = (self.vcpu(), self.span());
        let generation = self.next_generation();
        self.push(vcpu, Act::Write { span, generation });
        self.mostly(vcpu, Act::CleanD { span, to: Clean::Poc });
        self.mostly(vcpu, Act::Barrier { barrier: Barrier::DsbIsh });
        let (vcpu, look) = (self.pass_on(vcpu), self.random.pick(&[Look::NonCacheable, Look::CachesOff]));
        self.push(vcpu, Act::Load { span, look });
    }

    fn host_writes(&mut self) {
        let Some(event) = self.event(|event| event.contents() == Contents::Written) else { return self.guest_writes() };
        let (vcpu, span, generation) = (self.vcpu(), self.span(), self.next_generation());
        self.push(vcpu, Act::Event { event, span, generation });
        if self.random.one_in(2) {
            self.keeps(vcpu);
        }
        self.look(span);
    }

    fn host_acts(&mut self) {
        let vcpu = self.vcpu();
        self.keeps(vcpu);
        let span = self.span();
        self.look(span);
    }

    /// The host does something that keeps the contents.
    fn keeps(&mut self, vcpu: usize) {
        if let Some(event) = self.event(|event| event.contents() == Contents::Kept) {
            let span = self.spans[0];
            self.push(vcpu, Act::Event { event, span, generation: 0 });
        }
    }

    fn event(&mut self, wanted: impl Fn(Event) -> bool) -> Option<Event> {
        let events: Vec<Event> = self.space.events.iter().copied().filter(|event| wanted(*event)).collect();
        if events.is_empty() { None } else { Some(self.random.pick(&events)) }
    }

    /// Goes on on the same vCPU, or after a meeting on any.
    fn pass_on(&mut self, vcpu: usize) -> usize {
        if self.random.one_in(2) {
            return vcpu;
        }
        self.meet();
        self.vcpu()
    }

    fn look(&mut self, span: Span) {
        if !self.random.one_in(4) {
            self.meet();
        }
        let vcpu = self.vcpu();
        match self.random.below(8) {
            0 => self.push(vcpu, Act::Load { span, look: Look::Cacheable }),
            1 => self.push(vcpu, Act::Load { span, look: Look::NonCacheable }),
            _ => self.push(vcpu, Act::Fetch { span }),
        }
    }

    fn anything(&mut self) {
        let (vcpu, span) = (self.vcpu(), self.span());
        let barriers = [Barrier::DmbIsh, Barrier::DsbIsh, Barrier::Isb, Barrier::DmbIshst, Barrier::DmbIshld];
        let act = match self.random.below(6) {
            0 => Act::Write { span, generation: self.next_generation() },
            1 => Act::CleanD { span, to: Clean::Pou },
            2 => Act::InvalI { span },
            3 => Act::InvalIAll,
            4 => Act::Barrier { barrier: self.random.pick(&barriers) },
            _ => Act::Load { span, look: Look::CachesOff },
        };
        self.push(vcpu, act);
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    const SPACE: Space<'_> =
        Space { limits: Limits { region_bytes: 2 << 20, line_bytes: 64 }, vcpus: 4, steps: 20, events: &Event::ALL };

    #[test]
    fn programs_are_legal_and_of_every_kind() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            let program = program(seed, &SPACE);
            assert_eq!(legal::legal(&program, SPACE.limits), Ok(()), "seed {seed}: {program:?}");
            assert!(program.steps.len() <= 20 && !program.steps.is_empty());
            for Step { act, .. } in &program.steps {
                kinds.insert(match act {
                    Act::Event { event, .. } => event.name().to_owned(),
                    Act::Load { look, .. } => format!("{look:?}"),
                    Act::CleanD { to, .. } => format!("{to:?}"),
                    Act::Barrier { barrier } => format!("{barrier:?}"),
                    other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
                });
            }
        }
        assert_eq!(kinds.len(), 16 + 3 + 3 + 5 + 5, "{kinds:?}");
        let small = Space { limits: Limits { region_bytes: 64, line_bytes: 64 }, vcpus: 1, steps: 4, events: &[] };
        assert!((0..200).all(|seed| legal::legal(&program(seed, &small), small.limits).is_ok()));
    }

    #[test]
    fn a_seed_is_the_same_program_everywhere() {
        let mut hash = Sha256::new();
        for seed in 0..100 {
            hash.update(serde_json::to_vec(&program(seed, &SPACE)).expect("plain data"));
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "a5313b9dd9cb1a90c4ed56ca48cc9fa3fefd843f206a5b1a7ad4b179c2da9d12");
    }
}
