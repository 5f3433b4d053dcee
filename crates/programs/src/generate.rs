//! Generator of random programs. They are legal, and a seed gives the same program on every machine. Most of their
//! looks are synchronised well enough that the oracle requires a generation.

use abi::op::Barrier;

use crate::legal::{self, Limits};
use crate::program::{Action, Clean, LoadMode, Program, ProgramOp, Span};
use guest::event::{Contents, Event};
use units::random::Random;

/// Space that programs are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Space<'a> {
    /// Limits that the programs keep to.
    pub limits: Limits,
    /// Maximum number of vCPUs.
    pub vcpus: usize,
    /// Maximum number of ops.
    pub ops: usize,
    /// Events that the machine can do.
    pub events: &'a [Event],
}

/// Distances between slots, in minimum strides. The slots are neighbours, or on different pages, or in different
/// blocks.
const STRIDES: [u64; 6] = [1, 1, 2, 4, 64, 1024];

/// Returns the program of a seed.
pub fn random_program(seed: u64, space: &Space<'_>) -> Program {
    let mut random = Random::new(seed);
    let vcpus = 1 + random.below(space.vcpus as u64) as usize;
    let spans = (0..1 + random.below(3)).map(|_| random_span(&mut random, space.limits)).collect();
    let length = (4 + random.below(space.ops as u64) as usize).min(space.ops);
    let mut draft = Draft { random, space, vcpus, spans, length, generation: 0, after_meeting: 0, ops: Vec::new() };
    // Caches can hold old code only if it was executed.
    if !draft.random.one_in(4) {
        let (vcpu, span) = (draft.vcpu(), draft.spans[0]);
        draft.push(vcpu, Action::Fetch { span });
    }
    while draft.ops.len() < draft.length {
        draft.sequence();
    }
    Program { vcpus, ops: draft.ops }
}

fn random_span(random: &mut Random, limits: Limits) -> Span {
    let min = limits.min_stride();
    let slots = (limits.region_bytes / min).max(1);
    let (start, count) = (random.below(slots.min(16)), 1 + random.below(4));
    let stride = random.pick(&STRIDES);
    let count = if start + stride * (count - 1) < slots { count } else { 1 };
    Span { start: min * start, stride: min * stride, count }
}

/// Program under construction.
struct Draft<'a> {
    random: Random,
    space: &'a Space<'a>,
    vcpus: usize,
    spans: Vec<Span>,
    /// Number of ops to reach.
    length: usize,
    generation: u16,
    /// Index of the first op after the last meeting.
    after_meeting: usize,
    ops: Vec<ProgramOp>,
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

    /// Appends an op if the program has room for it. A meeting comes first if the op conflicts with an earlier one.
    fn push(&mut self, vcpu: usize, action: Action) {
        let op = ProgramOp::new(vcpu, action);
        if self.ops[self.after_meeting..].iter().any(|other| legal::conflict(other, &op).is_some()) {
            self.meet();
        }
        if self.ops.len() < self.length {
            self.ops.push(op);
        }
    }

    /// Appends an op in 15 of 16 cases. Maintenance that the guest leaves out may have visible effects.
    fn usually_push(&mut self, vcpu: usize, action: Action) {
        if !self.random.one_in(16) {
            self.push(vcpu, action);
        }
    }

    fn meet(&mut self) {
        if self.ops.len() < self.length {
            self.ops.push(ProgramOp::MEET);
        }
        self.after_meeting = self.ops.len();
    }

    /// Appends ops that belong together.
    fn sequence(&mut self) {
        match self.random.below(8) {
            0..3 => self.guest_writes(),
            3 => self.guest_writes_to_the_poc(),
            4..6 => self.host_writes(),
            6 => self.host_keeps_contents(),
            _ => self.single_op(),
        }
    }

    fn guest_writes(&mut self) {
        let (writer, cleaner, span) = (self.vcpu(), self.vcpu(), self.span());
        let generation = self.next_generation();
        self.push(writer, Action::Write { span, generation });
        let to = self.random.pick(&[Clean::Pou, Clean::Pou, Clean::Poc, Clean::PocInvalidate]);
        let dsb = Action::Barrier { barrier: Barrier::DsbIsh };
        let invalidate = if self.random.one_in(4) { Action::InvalIAll } else { Action::InvalI { span } };
        self.usually_push(cleaner, Action::CleanD { span, to });
        self.usually_push(cleaner, dsb);
        let invalidator = self.hand_over(cleaner);
        self.usually_push(invalidator, invalidate);
        self.usually_push(invalidator, dsb);
        self.look(span);
    }

    fn guest_writes_to_the_poc(&mut self) {
        let (vcpu, span) = (self.vcpu(), self.span());
        let generation = self.next_generation();
        self.push(vcpu, Action::Write { span, generation });
        self.usually_push(vcpu, Action::CleanD { span, to: Clean::Poc });
        self.usually_push(vcpu, Action::Barrier { barrier: Barrier::DsbIsh });
        let (vcpu, mode) = (self.hand_over(vcpu), self.random.pick(&[LoadMode::NonCacheable, LoadMode::CachesOff]));
        self.push(vcpu, Action::Load { span, mode });
    }

    fn host_writes(&mut self) {
        let Some(event) = self.event(Contents::Written) else { return self.guest_writes() };
        let (vcpu, span, generation) = (self.vcpu(), self.span(), self.next_generation());
        self.push(vcpu, Action::Event { event, span, generation });
        if self.random.one_in(2) {
            self.push_keeping_event(vcpu);
        }
        self.look(span);
    }

    fn host_keeps_contents(&mut self) {
        let vcpu = self.vcpu();
        self.push_keeping_event(vcpu);
        let span = self.span();
        self.look(span);
    }

    /// Appends an event that keeps the contents, if the machine can do one.
    fn push_keeping_event(&mut self, vcpu: usize) {
        if let Some(event) = self.event(Contents::Kept) {
            let span = self.spans[0];
            self.push(vcpu, Action::Event { event, span, generation: 0 });
        }
    }

    /// Returns an event that does this to the contents, if the machine can do one.
    fn event(&mut self, contents: Contents) -> Option<Event> {
        let events: Vec<Event> =
            self.space.events.iter().copied().filter(|event| event.contents() == contents).collect();
        if events.is_empty() { None } else { Some(self.random.pick(&events)) }
    }

    /// Returns the vCPU that continues: the same one, or any one after a meeting.
    fn hand_over(&mut self, vcpu: usize) -> usize {
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
            0 => self.push(vcpu, Action::Load { span, mode: LoadMode::Cacheable }),
            1 => self.push(vcpu, Action::Load { span, mode: LoadMode::NonCacheable }),
            _ => self.push(vcpu, Action::Fetch { span }),
        }
    }

    fn single_op(&mut self) {
        let (vcpu, span) = (self.vcpu(), self.span());
        let barriers = [Barrier::DmbIsh, Barrier::DsbIsh, Barrier::Isb, Barrier::DmbIshst, Barrier::DmbIshld];
        let action = match self.random.below(6) {
            0 => Action::Write { span, generation: self.next_generation() },
            1 => Action::CleanD { span, to: Clean::Pou },
            2 => Action::InvalI { span },
            3 => Action::InvalIAll,
            4 => Action::Barrier { barrier: self.random.pick(&barriers) },
            _ => Action::Load { span, mode: LoadMode::CachesOff },
        };
        self.push(vcpu, action);
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    const SPACE: Space<'_> =
        Space { limits: Limits { region_bytes: 2 << 20, line_bytes: 64 }, vcpus: 4, ops: 20, events: &Event::ALL };

    #[test]
    fn programs_are_legal_and_of_every_kind() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            let program = random_program(seed, &SPACE);
            assert_eq!(legal::check(&program, SPACE.limits), Ok(()), "seed {seed}: {program:?}");
            assert!(program.ops.len() <= 20 && !program.ops.is_empty());
            for ProgramOp { action, .. } in &program.ops {
                kinds.insert(match action {
                    Action::Event { event, .. } => event.name().to_owned(),
                    Action::Load { mode, .. } => format!("{mode:?}"),
                    Action::CleanD { to, .. } => format!("{to:?}"),
                    Action::Barrier { barrier } => format!("{barrier:?}"),
                    other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
                });
            }
        }
        assert_eq!(kinds.len(), 16 + 3 + 3 + 5 + 5, "{kinds:?}");
        let small = Space { limits: Limits { region_bytes: 64, line_bytes: 64 }, vcpus: 1, ops: 4, events: &[] };
        assert!((0..200).all(|seed| legal::check(&random_program(seed, &small), small.limits).is_ok()));
    }

    #[test]
    fn a_seed_is_the_same_program_everywhere() {
        let mut hash = Sha256::new();
        for seed in 0..100 {
            hash.update(serde_json::to_vec(&random_program(seed, &SPACE)).expect("plain data"));
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "a5313b9dd9cb1a90c4ed56ca48cc9fa3fefd843f206a5b1a7ad4b179c2da9d12");
    }
}
