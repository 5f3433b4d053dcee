//! Legality of programs: the check that a program can be judged.

use crate::program::{Action, MAX_OPS, Program, ProgramOp, Span};
use guest::event::{Event, Mappings};

/// Limits of the machine that a program must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the region under test in bytes.
    pub region_bytes: u64,
    /// Size of a cache line in bytes: the larger of IminLine and DminLine.
    pub line_bytes: u64,
}

impl Limits {
    /// Returns the minimum distance between two slots, at which they share neither a cache line nor memory.
    pub fn min_stride(self) -> u64 {
        self.line_bytes.max(abi::slot::BYTES)
    }
}

/// Reason why a program cannot be judged. Ops are numbered from 0.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Illegal {
    /// The program has no vCPU.
    #[error("a program needs at least one vCPU")]
    NoVcpus,
    /// The program has too many ops.
    #[error("{0} ops, but a program has at most {MAX_OPS}")]
    Long(usize),
    /// An op is for a vCPU that does not exist.
    #[error("op {op} is for vCPU {vcpu}, but the program has {vcpus} vCPUs, numbered from 0")]
    Vcpu {
        /// Number of the op.
        op: usize,
        /// vCPU that it names.
        vcpu: usize,
        /// Number of vCPUs of the program.
        vcpus: usize,
    },
    /// An op has an empty span.
    #[error("op {0} names no slot: its count is 0")]
    Empty(usize),
    /// Two slots of an op share a cache line, or a slot lies across two lines.
    #[error("op {op}: start {start:#x} and stride {stride:#x} must be multiples of {min:#x}, the stride at least that")]
    Lines {
        /// Number of the op.
        op: usize,
        /// First slot of its span.
        start: u64,
        /// Stride of its span.
        stride: u64,
        /// Number that both must be multiples of.
        min: u64,
    },
    /// A slot of an op is beyond the end of the region.
    #[error("op {op}: its slots end at {end:#x}, but the region ends at {region:#x}")]
    Outside {
        /// Number of the op.
        op: usize,
        /// End of its last slot.
        end: u64,
        /// End of the region.
        region: u64,
    },
    /// Two ops conflict and have no order.
    #[error("ops {first} and {second} are of different vCPUs with no meeting between them, and conflict: {why}")]
    Conflict {
        /// Op that comes first in the list.
        first: usize,
        /// Op that comes second.
        second: usize,
        /// Kind of the conflict.
        why: Conflict,
    },
}

impl Illegal {
    /// Returns the number of the op that is wrong, if a single op is.
    pub const fn op(&self) -> Option<usize> {
        match *self {
            Self::NoVcpus | Self::Long(_) => None,
            Self::Empty(op) => Some(op),
            Self::Vcpu { op, .. } | Self::Lines { op, .. } | Self::Outside { op, .. } => Some(op),
            Self::Conflict { second, .. } => Some(second),
        }
    }
}

/// Conflict of two ops that have no order.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Conflict {
    /// Concurrent modification.
    #[error("one writes a slot that the other touches")]
    Slot,
    /// The event removes the contents for a moment, so nothing may touch them.
    #[error("one touches slots while {} takes them away", .0.name())]
    Taken(Event),
    /// Looks may happen during the event, but writes may not.
    #[error("one writes a slot while {} moves it", .0.name())]
    Moved(Event),
    /// The host does one event at a time.
    #[error("both are host events")]
    Events,
}

/// Checks that a program keeps to the limits and that its ops do not conflict.
///
/// # Errors
///
/// See [`Illegal`].
pub fn check(program: &Program, limits: Limits) -> Result<(), Illegal> {
    if program.vcpus == 0 {
        return Err(Illegal::NoVcpus);
    }
    if program.ops.len() > MAX_OPS {
        return Err(Illegal::Long(program.ops.len()));
    }
    let mut after_meeting = 0;
    for (index, ProgramOp { vcpu, action }) in program.ops.iter().enumerate() {
        if *vcpu >= program.vcpus {
            return Err(Illegal::Vcpu { op: index, vcpu: *vcpu, vcpus: program.vcpus });
        }
        if let Some(span) = action.span() {
            check_span(index, span, limits)?;
        }
        if *action == Action::Meet {
            after_meeting = index + 1;
        }
        for first in after_meeting..index {
            if let Some(why) = conflict(&program.ops[first], &program.ops[index]) {
                return Err(Illegal::Conflict { first, second: index, why });
            }
        }
    }
    Ok(())
}

fn check_span(op: usize, span: Span, limits: Limits) -> Result<(), Illegal> {
    let Span { start, stride, count } = span;
    let min = limits.min_stride();
    if count == 0 {
        return Err(Illegal::Empty(op));
    }
    if stride < min || !stride.is_multiple_of(min) || !start.is_multiple_of(min) {
        return Err(Illegal::Lines { op, start, stride, min });
    }
    let end = stride.checked_mul(count - 1).and_then(|last| last.checked_add(start)?.checked_add(min));
    match end {
        Some(end) if end <= limits.region_bytes => Ok(()),
        _ => Err(Illegal::Outside { op, end: end.unwrap_or(u64::MAX), region: limits.region_bytes }),
    }
}

/// Returns the conflict of two ops with no meeting between them, if they have one.
pub(crate) fn conflict(a: &ProgramOp, b: &ProgramOp) -> Option<Conflict> {
    if a.vcpu == b.vcpu || a.action == Action::Meet || b.action == Action::Meet {
        return None;
    }
    match (a.action, b.action) {
        (Action::Event { .. }, Action::Event { .. }) => return Some(Conflict::Events),
        (Action::Event { event, .. }, other) | (other, Action::Event { event, .. }) => {
            if let Some(why) = conflict_with_event(event, &other) {
                return Some(why);
            }
        }
        _ => {}
    }
    let (Some(span_a), Some(span_b)) = (a.action.span(), b.action.span()) else { return None };
    let writes = a.action.writes().is_some() || b.action.writes().is_some();
    (writes && overlap(span_a, span_b)).then_some(Conflict::Slot)
}

/// Returns the conflict of an action with the mappings that an event changes. An event that keeps the mappings affects
/// only the slots of its span.
fn conflict_with_event(event: Event, other: &Action) -> Option<Conflict> {
    if event.mappings() == Mappings::Kept || other.span().is_none() {
        return None;
    }
    match other {
        _ if !event.can_be_raced() => Some(Conflict::Taken(event)),
        Action::Write { .. } => Some(Conflict::Moved(event)),
        _ => None,
    }
}

/// Returns whether two spans have a slot in common.
fn overlap(a: Span, b: Span) -> bool {
    let (few, many) = if a.count <= b.count { (a, b) } else { (b, a) };
    let end = many.start + many.stride * many.count;
    few.offsets().any(|offset| (many.start..end).contains(&offset) && (offset - many.start).is_multiple_of(many.stride))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { region_bytes: 0x1000, line_bytes: 64 };
    const SPAN: Span = Span { start: 0, stride: 64, count: 2 };

    fn program(ops: &[(usize, Action)]) -> Program {
        Program { vcpus: 2, ops: ops.iter().map(|&(vcpu, action)| ProgramOp::new(vcpu, action)).collect() }
    }

    fn error(ops: &[(usize, Action)]) -> Option<Illegal> {
        check(&program(ops), LIMITS).err()
    }

    fn event(event: Event) -> Action {
        Action::Event { event, span: SPAN, generation: 9 }
    }

    const WRITE: Action = Action::Write { span: SPAN, generation: 1 };
    const FETCH: Action = Action::Fetch { span: SPAN };

    #[test]
    fn only_meetings_order_the_ops_of_two_vcpus() {
        assert_eq!(error(&[(0, WRITE), (0, FETCH)]), None);
        assert_eq!(error(&[(0, WRITE), (0, Action::Meet), (1, FETCH)]), None);
        let conflict = Illegal::Conflict { first: 0, second: 1, why: Conflict::Slot };
        assert_eq!(error(&[(0, WRITE), (1, FETCH)]), Some(conflict));
        let invalidate = Action::InvalI { span: Span { start: 64, ..SPAN } };
        assert!(error(&[(1, invalidate), (0, WRITE)]).is_some(), "maintenance conflicts with a write, too");
        let other = Action::Fetch { span: Span { start: 128, ..SPAN } };
        assert_eq!(error(&[(0, WRITE), (1, other), (1, Action::InvalIAll)]), None);
    }

    #[test]
    fn only_some_events_can_be_raced() {
        assert_eq!(error(&[(0, event(Event::Unmap)), (1, FETCH)]), None);
        assert!(matches!(
            error(&[(0, event(Event::Unmap)), (1, WRITE)]),
            Some(Illegal::Conflict { why: Conflict::Moved(_), .. })
        ));
        let far = Action::Fetch { span: Span { start: 0x800, ..SPAN } };
        assert!(matches!(
            error(&[(1, far), (0, event(Event::Discard))]),
            Some(Illegal::Conflict { why: Conflict::Taken(_), .. })
        ));
        assert_eq!(error(&[(1, far), (0, event(Event::Rewrite))]), None);
        assert!(error(&[(1, FETCH), (0, event(Event::Rewrite))]).is_some());
        assert!(error(&[(0, event(Event::Unmap)), (1, event(Event::Unmap))]).is_some());
    }

    #[test]
    fn slots_are_in_the_region_and_in_lines_of_their_own() {
        let fetch = |start, stride, count| [(0, Action::Fetch { span: Span { start, stride, count } })];
        assert_eq!(error(&fetch(0xfc0, 64, 1)), None);
        assert_eq!(error(&fetch(0, 0x800, 2)), None);
        assert!(matches!(error(&fetch(0xfc0, 64, 2)), Some(Illegal::Outside { end: 0x1040, .. })));
        assert!(matches!(error(&fetch(64, !63, 3)), Some(Illegal::Outside { .. })));
        assert!(matches!(error(&fetch(0, 32, 2)), Some(Illegal::Lines { .. })));
        assert!(matches!(error(&fetch(32, 64, 2)), Some(Illegal::Lines { .. })));
        assert!(matches!(error(&fetch(0, 96, 2)), Some(Illegal::Lines { .. })));
        assert!(matches!(error(&fetch(0, 64, 0)), Some(Illegal::Empty(0))));
        assert!(matches!(error(&[(2, FETCH)]), Some(Illegal::Vcpu { vcpu: 2, .. })));
        let no_vcpus = Program { vcpus: 0, ops: vec![] };
        assert_eq!(check(&no_vcpus, LIMITS), Err(Illegal::NoVcpus));
    }
}
