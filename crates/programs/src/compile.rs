//! Compiler from a program to the ops that the guest runs, [`abi::Op`].

use std::collections::BTreeMap;

use abi::op::{CACHES_OFF, CHECK, FORCE, MAX_RENDEZVOUS, MISMATCH_CAP, NON_CACHEABLE, SLEEP, SLOT};
use abi::{Op, OpCode};

use crate::program::{Action, Clean, LoadMode, Program, ProgramOp, Span};
use crate::slots::{Class, Slots};

/// Rule by which the guest does its cache maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Leave out the maintenance that IDC or DIC makes unnecessary.
    ByCtr,
    /// Do all maintenance.
    Always,
}

/// Place where vCPUs wait at a meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// In the guest.
    Guest,
    /// In the host, until all vCPUs have arrived.
    Host,
}

/// Options of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// IPA of the region under test.
    pub base_ipa: u64,
    /// Rule for cache maintenance.
    pub maintenance: Maintenance,
    /// Place where vCPUs wait at a meeting.
    pub waiting: Waiting,
    /// Number of meetings in the earlier programs of the same guest. It keeps the numbers of neighbouring meetings
    /// different.
    pub meetings_before: u64,
    /// Last op of every vCPU, for example [`Op::end`].
    pub last: Op,
}

impl Options {
    /// Returns the default options: maintenance by CTR_EL0, waiting in the guest, and [`Op::end`] as the last op.
    pub const fn new(base_ipa: u64) -> Self {
        Self { base_ipa, maintenance: Maintenance::ByCtr, waiting: Waiting::Guest, meetings_before: 0, last: Op::end() }
    }
}

/// Program as ops of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// IPA of the region under test.
    pub base_ipa: u64,
    /// Guest ops of each vCPU. The tag of a guest op is the number of its op in the program plus one. The last guest op
    /// is [`Options::last`].
    pub ops: Vec<Vec<Op>>,
}

impl Compiled {
    /// Returns the maximum number of records that a vCPU writes if no exception ends the guest.
    pub fn records_needed(&self, vcpu: usize) -> u64 {
        self.ops[vcpu].iter().map(|op| 1 + if op.flags & CHECK != 0 { elements(op).min(MISMATCH_CAP) } else { 0 }).sum()
    }
}

/// Returns the number of slots that a guest op visits.
pub fn elements(op: &Op) -> u64 {
    if op.stride == 0 { u64::from(op.bytes > 0) } else { op.bytes.div_ceil(op.stride) }
}

/// Returns the guest ops of each vCPU. The program must be legal ([`crate::legal::check`]), and exactly its vCPUs must
/// run it.
///
/// A guest op compares all its slots with one generation, and it records few mismatches. A look therefore becomes at
/// least one guest op for each class of slots, which expects the newest generation of that class.
pub fn compile(program: &Program, options: &Options) -> Compiled {
    let mut guest_ops = vec![Vec::new(); program.vcpus];
    let mut newest = Newest::at_first(program);
    let mut meetings = options.meetings_before;
    for (index, ProgramOp { vcpu, action }) in program.ops.iter().enumerate() {
        let tag = index as u32 + 1;
        if *action == Action::Meet {
            let meet = meeting(meetings, program.vcpus as u64, options.waiting).with_tag(tag);
            guest_ops.iter_mut().for_each(|ops: &mut Vec<Op>| ops.push(meet));
            meetings += 1;
            continue;
        }
        let from = guest_ops[*vcpu].len();
        compile_action(action, index, &newest, options, &mut guest_ops[*vcpu]);
        guest_ops[*vcpu][from..].iter_mut().for_each(|op| op.tag = tag);
        if let Some((_, generation)) = action.writes() {
            newest.write(index, generation);
        }
    }
    guest_ops.iter_mut().for_each(|ops| ops.push(options.last));
    Compiled { base_ipa: options.base_ipa, ops: guest_ops }
}

/// Newest generation of each class of slots at some op of a program.
struct Newest {
    slots: Slots,
    /// Generations, by class.
    generations: Vec<u16>,
}

impl Newest {
    /// Returns the generations before the first op.
    fn at_first(program: &Program) -> Self {
        let slots = Slots::of(program);
        let generations = vec![0; slots.classes()];
        Self { slots, generations }
    }

    /// Gives the slots of an op a new generation.
    fn write(&mut self, op: usize, generation: u16) {
        self.slots.classes_of(op).for_each(|class| self.generations[class] = generation);
    }

    /// Splits a span into spans of slots of one class. Returns each with the newest generation of its class.
    fn split(&self, span: Span) -> Vec<(Span, u16)> {
        let mut by_class: BTreeMap<Class, Vec<u64>> = BTreeMap::new();
        for offset in span.offsets() {
            if let Some(class) = self.slots.class_at(offset) {
                by_class.entry(class).or_default().push(offset);
            }
        }
        let parts = by_class.into_iter().flat_map(|(class, offsets)| {
            progressions(&offsets, span.stride).into_iter().map(move |part| (part, self.generations[class]))
        });
        parts.collect()
    }
}

/// Returns the guest op of the meeting that follows `before` others.
///
/// The numbers of meetings repeat. When a vCPU reaches the meeting after the next, all vCPUs have left this one, so two
/// numbers would be enough.
fn meeting(before: u64, vcpus: u64, waiting: Waiting) -> Op {
    let sleep = if waiting == Waiting::Host { SLEEP } else { 0 };
    Op::rendezvous(before % MAX_RENDEZVOUS, vcpus).with_flags(sleep)
}

/// Appends the guest ops of one op.
fn compile_action(action: &Action, index: usize, newest: &Newest, options: &Options, ops: &mut Vec<Op>) {
    let base = options.base_ipa;
    let force = if options.maintenance == Maintenance::Always { FORCE } else { 0 };
    match *action {
        Action::Write { span, generation } => ops.push(range(OpCode::WriteCode, base, span, u64::from(generation))),
        Action::CleanD { span, to } => {
            let instruction = match to {
                Clean::Pou => 0,
                Clean::Poc => 1,
                Clean::PocInvalidate => 2,
            };
            ops.push(range(OpCode::CleanD, base, span, instruction).with_flags(force));
        }
        Action::InvalI { span } => ops.push(range(OpCode::InvalI, base, span, 0).with_flags(force)),
        Action::InvalIAll => ops.push(Op::plain(OpCode::InvalIAll, [0; 4])),
        Action::Barrier { barrier } => ops.push(Op::barrier(barrier)),
        Action::Fetch { span } => {
            let fetch = |(part, generation)| range(OpCode::Fetch, base, part, u64::from(generation)).with_flags(CHECK);
            ops.extend(newest.split(span).into_iter().map(fetch));
        }
        Action::Load { span, mode } => {
            let flags = CHECK | SLOT | load_flag(mode);
            let load = |(part, generation)| range(OpCode::Load, base, part, u64::from(generation)).with_flags(flags);
            ops.extend(newest.split(span).into_iter().map(load));
        }
        Action::Event { event, span, generation } => {
            let args = [event as u64, u64::from(generation), index as u64, 0];
            let Span { start, stride, .. } = span;
            let op = Op { start: base + start, bytes: span.bytes(), stride, ..Op::plain(OpCode::Event, args) };
            ops.push(op);
        }
        Action::Meet => {}
    }
}

const fn load_flag(mode: LoadMode) -> u16 {
    match mode {
        LoadMode::Cacheable => 0,
        LoadMode::NonCacheable => NON_CACHEABLE,
        LoadMode::CachesOff => CACHES_OFF,
    }
}

/// Returns the guest op that visits the slots of a span.
///
/// Its range ends one byte after the start of the last slot. If the cache lines are larger than the stride of the
/// slots, maintenance therefore does not reach one more slot.
fn range(code: OpCode, base: u64, span: Span, argument: u64) -> Op {
    let bytes = span.stride * (span.count - 1) + 1;
    Op::range(code, base + span.start, bytes, span.stride, argument)
}

/// Splits rising offsets into spans, each as long as the distance stays equal.
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

    fn compiled(ops: &[(usize, Action)]) -> Vec<Vec<Op>> {
        let ops = ops.iter().map(|&(vcpu, action)| ProgramOp::new(vcpu, action)).collect();
        compile(&Program { vcpus: 2, ops }, &Options::new(BASE)).ops
    }

    #[test]
    fn tags_name_the_op_and_meetings_differ() {
        let ops = compiled(&[
            (0, Action::Write { span: SPAN, generation: 1 }),
            (0, Action::Meet),
            (1, Action::Barrier { barrier: Barrier::Isb }),
            (0, Action::Meet),
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
            (0, Action::Write { span: every_second, generation: 7 }),
            (0, Action::Fetch { span: SPAN }),
            (0, Action::Load { span: SPAN, mode: LoadMode::CachesOff }),
        ])[0];
        let range = |op: &Op| (op.start - BASE, op.stride, elements(op), op.args[0]);
        assert_eq!(
            ops[1..4].iter().map(range).collect::<Vec<_>>(),
            [(0x40, 0x80, 4, 0), (0x200, 0x40, 1, 0), (0x80, 0x80, 3, 7),]
        );
        assert_eq!(ops[4].flags, CHECK | SLOT | CACHES_OFF);
        assert_eq!(elements(&ops[0]), 3);
    }

    #[test]
    fn events_carry_their_span_generation_and_op() {
        let ops = &compiled(&[(0, Action::Event { event: Event::Remap, span: SPAN, generation: 3 })])[0];
        let op =
            Op { start: BASE + 0x40, bytes: 0x200, stride: 0x40, tag: 1, ..Op::plain(OpCode::Event, [20, 3, 0, 0]) };
        assert_eq!(ops[0], op);
    }

    #[test]
    fn records_are_counted_up_to_the_cap() {
        let many = Span { start: 0, stride: 64, count: 1000 };
        let actions = [Action::Write { span: SPAN, generation: 1 }, Action::Fetch { span: many }];
        let ops = actions.into_iter().map(|action| ProgramOp::new(0, action)).collect();
        let mut options = Options::new(BASE);
        options.maintenance = Maintenance::Always;
        let compiled = compile(&Program { vcpus: 1, ops }, &options);
        // The write; two fetches of generation 0, before and after the written slots; one of generation 1; the end.
        assert_eq!(compiled.records_needed(0), 1 + (1 + 2) + (1 + 64) + (1 + 8) + 1);
    }
}
