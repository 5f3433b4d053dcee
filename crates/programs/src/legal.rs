//! Which programs can be judged.

use crate::program::{Act, Program, Span, Step};
use guest::event::{Event, Mappings};

/// Most steps of a program.
pub const MAX_STEPS: usize = 120;

/// What a program has to fit into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the region under test in bytes.
    pub region_bytes: u64,
    /// The larger of the machine's smallest I- and D-cache lines, in bytes.
    pub line_bytes: u64,
}

impl Limits {
    /// Returns the least distance of two slots: they share neither a line nor memory.
    pub fn min_stride(self) -> u64 {
        self.line_bytes.max(abi::slot::BYTES)
    }
}

/// Why a program cannot be judged. Steps count from 0.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Illegal {
    /// Nobody runs it.
    #[error("a program needs at least one vCPU")]
    NoVcpus,
    /// Too long.
    #[error("{0} steps, a program has at most {MAX_STEPS}")]
    Long(usize),
    /// A vCPU that is not there.
    #[error("step {step} is vCPU {vcpu}'s, the program has {vcpus}")]
    Vcpu {
        /// Which step.
        step: usize,
        /// Whose it is.
        vcpu: usize,
        /// How many there are.
        vcpus: usize,
    },
    /// No slots.
    #[error("step {0} names no slot: count is 0")]
    Empty(usize),
    /// Two slots in one line, or a slot across two.
    #[error(
        "step {step}: start {start:#x} and stride {stride:#x} must be multiples of {min:#x}, the stride at least that"
    )]
    Lines {
        /// Which step.
        step: usize,
        /// Where its span starts.
        start: u64,
        /// Its stride.
        stride: u64,
        /// What they must be multiples of.
        min: u64,
    },
    /// Beyond the region.
    #[error("step {step}: slots up to {end:#x}, the region ends at {region:#x}")]
    Outside {
        /// Which step.
        step: usize,
        /// Where its span ends.
        end: u64,
        /// Where the region ends.
        region: u64,
    },
    /// Two steps between which there is no order, and of which one changes what the other touches.
    #[error("steps {first} and {second} are of different vCPUs with no meeting between, and do not go together: {why}")]
    Race {
        /// The earlier one in the list.
        first: usize,
        /// The later one.
        second: usize,
        /// Why.
        why: Race,
    },
}

impl Illegal {
    /// Returns the step that is to blame, if one is.
    pub const fn step(&self) -> Option<usize> {
        match *self {
            Self::NoVcpus | Self::Long(_) => None,
            Self::Empty(step) => Some(step),
            Self::Vcpu { step, .. } | Self::Lines { step, .. } | Self::Outside { step, .. } => Some(step),
            Self::Race { second, .. } => Some(second),
        }
    }
}

/// Why two unordered steps do not go together.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Race {
    /// Concurrent modification.
    #[error("one writes a slot that the other touches")]
    Slot,
    /// The contents are away for a moment.
    #[error("slots are touched while {} takes them away", .0.name())]
    Taken(Event),
    /// Only looking goes together with an event.
    #[error("a slot is written while {} moves it", .0.name())]
    Moved(Event),
    /// The host does one thing at a time.
    #[error("two host events at once")]
    Events,
}

/// Checks a program.
///
/// # Errors
///
/// See [`Illegal`].
pub fn legal(program: &Program, limits: Limits) -> Result<(), Illegal> {
    if program.vcpus == 0 {
        return Err(Illegal::NoVcpus);
    }
    if program.steps.len() > MAX_STEPS {
        return Err(Illegal::Long(program.steps.len()));
    }
    let mut epoch = 0;
    for (step, Step { vcpu, act }) in program.steps.iter().enumerate() {
        if *vcpu >= program.vcpus {
            return Err(Illegal::Vcpu { step, vcpu: *vcpu, vcpus: program.vcpus });
        }
        if let Some(span) = act.span() {
            fits(step, span, limits)?;
        }
        if *act == Act::Meet {
            epoch = step + 1;
        }
        for first in epoch..step {
            if let Some(why) = race(&program.steps[first], &program.steps[step]) {
                return Err(Illegal::Race { first, second: step, why });
            }
        }
    }
    Ok(())
}

fn fits(step: usize, span: Span, limits: Limits) -> Result<(), Illegal> {
    let Span { start, stride, count } = span;
    let min = limits.min_stride();
    if count == 0 {
        return Err(Illegal::Empty(step));
    }
    if stride < min || !stride.is_multiple_of(min) || !start.is_multiple_of(min) {
        return Err(Illegal::Lines { step, start, stride, min });
    }
    let end = stride.checked_mul(count - 1).and_then(|last| last.checked_add(start)?.checked_add(min));
    match end {
        Some(end) if end <= limits.region_bytes => Ok(()),
        _ => Err(Illegal::Outside { step, end: end.unwrap_or(u64::MAX), region: limits.region_bytes }),
    }
}

/// Returns why two steps with no meeting between them do not go together, if so.
pub fn race(a: &Step, b: &Step) -> Option<Race> {
    if a.vcpu == b.vcpu || a.act == Act::Meet || b.act == Act::Meet {
        return None;
    }
    match (a.act, b.act) {
        (Act::Event { .. }, Act::Event { .. }) => return Some(Race::Events),
        (Act::Event { event, .. }, other) | (other, Act::Event { event, .. }) => {
            if let Some(why) = race_with_event(event, &other) {
                return Some(why);
            }
        }
        _ => {}
    }
    let (Some(span_a), Some(span_b)) = (a.act.span(), b.act.span()) else { return None };
    let writes = a.act.writes().is_some() || b.act.writes().is_some();
    (writes && overlap(span_a, span_b)).then_some(Race::Slot)
}

/// An event that leaves the mappings alone matters to no slot but those of its span.
fn race_with_event(event: Event, other: &Act) -> Option<Race> {
    if event.mappings() == Mappings::Kept || other.span().is_none() {
        return None;
    }
    match other {
        _ if !event.can_be_raced() => Some(Race::Taken(event)),
        Act::Write { .. } => Some(Race::Moved(event)),
        _ => None,
    }
}

/// Says whether two spans have a slot in common.
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

    fn program(steps: &[(usize, Act)]) -> Program {
        Program { vcpus: 2, steps: steps.iter().map(|&(vcpu, act)| Step { vcpu, act }).collect() }
    }

    fn error(steps: &[(usize, Act)]) -> Option<Illegal> {
        legal(&program(steps), LIMITS).err()
    }

    fn event(event: Event) -> Act {
        Act::Event { event, span: SPAN, generation: 9 }
    }

    const WRITE: Act = Act::Write { span: SPAN, generation: 1 };
    const FETCH: Act = Act::Fetch { span: SPAN };

    #[test]
    fn steps_of_two_vcpus_are_ordered_by_meetings_alone() {
        assert_eq!(error(&[(0, WRITE), (0, FETCH)]), None);
        assert_eq!(error(&[(0, WRITE), (0, Act::Meet), (1, FETCH)]), None);
        let race = Illegal::Race { first: 0, second: 1, why: Race::Slot };
        assert_eq!(error(&[(0, WRITE), (1, FETCH)]), Some(race));
        let clean = Act::InvalI { span: Span { start: 64, ..SPAN } };
        assert!(error(&[(1, clean), (0, WRITE)]).is_some(), "maintenance races with a write as well");
        let other = Act::Fetch { span: Span { start: 128, ..SPAN } };
        assert_eq!(error(&[(0, WRITE), (1, other), (1, Act::InvalIAll)]), None);
    }

    #[test]
    fn only_some_events_can_be_raced() {
        assert_eq!(error(&[(0, event(Event::Unmap)), (1, FETCH)]), None);
        assert!(matches!(
            error(&[(0, event(Event::Unmap)), (1, WRITE)]),
            Some(Illegal::Race { why: Race::Moved(_), .. })
        ));
        let far = Act::Fetch { span: Span { start: 0x800, ..SPAN } };
        assert!(matches!(
            error(&[(1, far), (0, event(Event::Discard))]),
            Some(Illegal::Race { why: Race::Taken(_), .. })
        ));
        assert_eq!(error(&[(1, far), (0, event(Event::Rewrite))]), None);
        assert!(error(&[(1, FETCH), (0, event(Event::Rewrite))]).is_some());
        assert!(error(&[(0, event(Event::Unmap)), (1, event(Event::Unmap))]).is_some());
    }

    #[test]
    fn slots_are_in_the_region_and_in_lines_of_their_own() {
        let fetch = |start, stride, count| [(0, Act::Fetch { span: Span { start, stride, count } })];
        assert_eq!(error(&fetch(0xfc0, 64, 1)), None);
        assert_eq!(error(&fetch(0, 0x800, 2)), None);
        assert!(matches!(error(&fetch(0xfc0, 64, 2)), Some(Illegal::Outside { end: 0x1040, .. })));
        assert!(matches!(error(&fetch(64, !63, 3)), Some(Illegal::Outside { .. })));
        assert!(matches!(error(&fetch(0, 32, 2)), Some(Illegal::Lines { .. })));
        assert!(matches!(error(&fetch(32, 64, 2)), Some(Illegal::Lines { .. })));
        assert!(matches!(error(&fetch(0, 96, 2)), Some(Illegal::Lines { .. })));
        assert!(matches!(error(&fetch(0, 64, 0)), Some(Illegal::Empty(0))));
        assert!(matches!(error(&[(2, FETCH)]), Some(Illegal::Vcpu { vcpu: 2, .. })));
        let nobody = Program { vcpus: 0, steps: vec![] };
        assert_eq!(legal(&nobody, LIMITS), Err(Illegal::NoVcpus));
    }
}
