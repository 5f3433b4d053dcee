//! Programs as the ops that the guest runs. Pure.

use std::collections::BTreeMap;

use abi::op::{CACHES_OFF, CHECK, FORCE, MAX_RENDEZVOUS, MISMATCH_CAP, NON_CACHEABLE, SLEEP, SLOT};
use abi::{Op, OpCode};

use crate::program::{Act, Clean, Look, Program, Span, Step};
use crate::slots::{Class, Slots};

/// Whether the guest leaves out maintenance that IDC or DIC makes unnecessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// As CTR_EL0 says.
    ByCtr,
    /// Never.
    Always,
}

/// How vCPUs wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// In the guest.
    Guest,
    /// In the host until all have arrived.
    Host,
}

/// What is not the program's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// IPA of the region under test.
    pub base_ipa: u64,
    /// Whether CTR_EL0 is honoured.
    pub maintenance: Maintenance,
    /// Where meetings wait.
    pub waiting: Waiting,
    /// Meetings that these vCPUs have had before, so that neighbouring ones never have the same number.
    pub meetings_before: u64,
    /// Last op of every vCPU, such as [`Op::end`].
    pub last: Op,
}

impl Options {
    /// Returns the plain choice: by CTR_EL0, waiting in the guest, then the end.
    pub const fn new(base_ipa: u64) -> Self {
        Self { base_ipa, maintenance: Maintenance::ByCtr, waiting: Waiting::Guest, meetings_before: 0, last: Op::end() }
    }
}

/// A program in ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// IPA of the region under test.
    pub base_ipa: u64,
    /// Ops of each vCPU. The tag of an op is the index of its step plus one; the last op has the tag it came with.
    pub ops: Vec<Vec<Op>>,
}

impl Compiled {
    /// Returns how many records a vCPU writes at most while nothing dies.
    pub fn records_needed(&self, vcpu: usize) -> u64 {
        self.ops[vcpu].iter().map(|op| 1 + if op.flags & CHECK != 0 { elements(op).min(MISMATCH_CAP) } else { 0 }).sum()
    }
}

/// Returns how many slots an op visits.
pub fn elements(op: &Op) -> u64 {
    if op.stride == 0 { u64::from(op.bytes > 0) } else { op.bytes.div_ceil(op.stride) }
}

/// Returns the ops of each vCPU. The program must be legal ([`crate::legal::legal`]), its vCPUs those that run it.
///
/// Where slots in the span of an observing step have another history than the rest, the step becomes several ops: what
/// is expected is the newest generation, only what deviates is worth a record, and all slots of an op fare alike.
pub fn compile(program: &Program, options: &Options) -> Compiled {
    let mut ops = vec![Vec::new(); program.vcpus];
    let slots = Slots::of(program);
    let mut newest = vec![0; slots.classes()];
    let mut meetings = options.meetings_before;
    for (index, Step { vcpu, act }) in program.steps.iter().enumerate() {
        let tag = index as u32 + 1;
        if *act == Act::Meet {
            let meet = meeting(meetings, program.vcpus as u64, options.waiting).with_tag(tag);
            ops.iter_mut().for_each(|ops: &mut Vec<Op>| ops.push(meet));
            meetings += 1;
            continue;
        }
        let from = ops[*vcpu].len();
        step(act, index, (&slots, &newest), options, &mut ops[*vcpu]);
        ops[*vcpu][from..].iter_mut().for_each(|op| op.tag = tag);
        if let Some((_, generation)) = act.writes() {
            slots.classes_of(index).for_each(|class| newest[class] = generation);
        }
    }
    ops.iter_mut().for_each(|ops| ops.push(options.last));
    Compiled { base_ipa: options.base_ipa, ops }
}

/// A vCPU that is at the meeting after the next has left this one, so two numbers would do.
fn meeting(before: u64, vcpus: u64, waiting: Waiting) -> Op {
    let sleep = if waiting == Waiting::Host { SLEEP } else { 0 };
    Op::rendezvous(before % MAX_RENDEZVOUS, vcpus).with_flags(sleep)
}

/// Appends the ops of one step of one vCPU.
fn step(act: &Act, index: usize, newest: (&Slots, &[u16]), options: &Options, ops: &mut Vec<Op>) {
    let base = options.base_ipa;
    let force = if options.maintenance == Maintenance::Always { FORCE } else { 0 };
    match *act {
        Act::Write { span, generation } => ops.push(range(OpCode::WriteCode, base, span, u64::from(generation))),
        Act::CleanD { span, to } => {
            let depth = match to {
                Clean::Pou => 0,
                Clean::Poc => 1,
                Clean::PocInvalidate => 2,
            };
            ops.push(range(OpCode::CleanD, base, span, depth).with_flags(force));
        }
        Act::InvalI { span } => ops.push(range(OpCode::InvalI, base, span, 0).with_flags(force)),
        Act::InvalIAll => ops.push(Op::plain(OpCode::InvalIAll, [0; 4])),
        Act::Barrier { barrier } => ops.push(Op::barrier(barrier)),
        Act::Fetch { span } => {
            let fetch = |(part, generation)| range(OpCode::Fetch, base, part, u64::from(generation)).with_flags(CHECK);
            ops.extend(alike(span, newest).into_iter().map(fetch));
        }
        Act::Load { span, look } => {
            let flags = CHECK | SLOT | look_flag(look);
            let load = |(part, generation)| range(OpCode::Load, base, part, u64::from(generation)).with_flags(flags);
            ops.extend(alike(span, newest).into_iter().map(load));
        }
        Act::Event { event, span, generation } => {
            let args = [event as u64, u64::from(generation), index as u64, 0];
            let Span { start, stride, .. } = span;
            let op = Op { start: base + start, bytes: span.bytes(), stride, ..Op::plain(OpCode::Event, args) };
            ops.push(op);
        }
        Act::Meet => {}
    }
}

const fn look_flag(look: Look) -> u16 {
    match look {
        Look::Cacheable => 0,
        Look::NonCacheable => NON_CACHEABLE,
        Look::CachesOff => CACHES_OFF,
    }
}

/// Returns the op that visits the slots of a span. Its range ends with the last slot's first byte, so that maintenance
/// on lines larger than the slots' alignment does not reach one slot further.
fn range(code: OpCode, base: u64, span: Span, argument: u64) -> Op {
    let bytes = span.stride * (span.count - 1) + 1;
    Op::range(code, base + span.start, bytes, span.stride, argument)
}

/// Splits a span into spans of slots of one class, with their newest generation.
fn alike(span: Span, (slots, newest): (&Slots, &[u16])) -> Vec<(Span, u16)> {
    let mut by_class: BTreeMap<Class, Vec<u64>> = BTreeMap::new();
    for offset in span.offsets() {
        if let Some(class) = slots.class_at(offset) {
            by_class.entry(class).or_default().push(offset);
        }
    }
    let parts = by_class.into_iter().flat_map(|(class, offsets)| {
        progressions(&offsets, span.stride).into_iter().map(move |part| (part, newest[class]))
    });
    parts.collect()
}

/// Splits offsets in rising order into even distances, each as long as it goes.
fn progressions(offsets: &[u64], stride: u64) -> Vec<Span> {
    let mut parts: Vec<Span> = Vec::new();
    for &offset in offsets {
        match parts.last_mut() {
            Some(part) if part.count == 1 => (part.stride, part.count) = (offset - part.start, 2),
            Some(part) if offset == part.start + part.stride * part.count => part.count += 1,
            _ => parts.push(Span { start: offset, stride, count: 1 }),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use abi::op::Barrier;

    use super::*;
    use guest::event::Event;

    const BASE: u64 = 0x1_0000_0000;
    const SPAN: Span = Span { start: 0x40, stride: 0x40, count: 8 };

    fn compiled(steps: &[(usize, Act)]) -> Vec<Vec<Op>> {
        let steps = steps.iter().map(|&(vcpu, act)| Step { vcpu, act }).collect();
        compile(&Program { vcpus: 2, steps }, &Options::new(BASE)).ops
    }

    #[test]
    fn tags_name_the_step_and_meetings_differ() {
        let ops = compiled(&[
            (0, Act::Write { span: SPAN, generation: 1 }),
            (0, Act::Meet),
            (1, Act::Barrier { barrier: Barrier::Isb }),
            (0, Act::Meet),
        ]);
        let tags = |vcpu: usize| ops[vcpu].iter().map(|op| op.tag).collect::<Vec<_>>();
        assert_eq!((tags(0), tags(1)), (vec![1, 2, 4, 0], vec![2, 3, 4, 0]));
        assert_eq!(ops[0][1], Op::rendezvous(0, 2).with_tag(2));
        assert_eq!(ops[1][2], Op::rendezvous(1, 2).with_tag(4));
    }

    #[test]
    fn a_fetch_is_split_where_the_newest_generation_differs() {
        let every_second = Span { start: 0x80, stride: 0x80, count: 3 };
        let ops = &compiled(&[
            (0, Act::Write { span: every_second, generation: 7 }),
            (0, Act::Fetch { span: SPAN }),
            (0, Act::Load { span: SPAN, look: Look::CachesOff }),
        ])[0];
        let seen = |op: &Op| (op.start - BASE, op.stride, elements(op), op.args[0]);
        assert_eq!(
            ops[1..4].iter().map(seen).collect::<Vec<_>>(),
            [(0x40, 0x80, 4, 0), (0x200, 0x40, 1, 0), (0x80, 0x80, 3, 7),]
        );
        assert_eq!(ops[4].flags, CHECK | SLOT | CACHES_OFF);
        assert_eq!(elements(&ops[0]), 3);
    }

    #[test]
    fn events_carry_their_span_generation_and_step() {
        let ops = &compiled(&[(0, Act::Event { event: Event::Remap, span: SPAN, generation: 3 })])[0];
        let op =
            Op { start: BASE + 0x40, bytes: 0x200, stride: 0x40, tag: 1, ..Op::plain(OpCode::Event, [20, 3, 0, 0]) };
        assert_eq!(ops[0], op);
    }

    #[test]
    fn records_are_counted_up_to_the_cap() {
        let many = Span { start: 0, stride: 64, count: 1000 };
        let steps = [Act::Write { span: SPAN, generation: 1 }, Act::Fetch { span: many }];
        let steps = steps.into_iter().map(|act| Step { vcpu: 0, act }).collect();
        let mut options = Options::new(BASE);
        options.maintenance = Maintenance::Always;
        let compiled = compile(&Program { vcpus: 1, steps }, &options);
        // The write, the slots of generation 0 before and behind it in two ops, those of generation 1, the end.
        assert_eq!(compiled.records_needed(0), 1 + (1 + 2) + (1 + 64) + (1 + 8) + 1);
    }
}
