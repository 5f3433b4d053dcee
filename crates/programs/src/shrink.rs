//! Shrinker: finds a smaller program that still fails.

use crate::legal::{self, Limits};
use crate::program::{Action, Program, ProgramOp, Span};

/// Removes ops, slots and vCPUs while the program stays legal and `fails` returns true for it. Returns a program that
/// still fails. With any one further change, it no longer fails.
pub fn shrink(program: &Program, limits: Limits, mut fails: impl FnMut(&Program) -> bool) -> Program {
    let mut still = |candidate: &Program| legal::check(candidate, limits).is_ok() && fails(candidate);
    let mut smallest = program.clone();
    loop {
        let before = smallest.clone();
        remove_ops(&mut smallest, &mut still);
        merge_vcpus(&mut smallest, &mut still);
        halve_spans(&mut smallest, &mut still);
        renumber_generations(&mut smallest, &mut still);
        if smallest == before {
            return smallest;
        }
    }
}

/// Replaces the program by a candidate if the candidate still fails. Returns whether it does.
fn accept(program: &mut Program, candidate: Program, still: &mut impl FnMut(&Program) -> bool) -> bool {
    let better = candidate != *program && still(&candidate);
    if better {
        *program = candidate;
    }
    better
}

/// Removes ops: first halves of the program, then smaller and smaller pieces (Zeller and Hildebrandt, "Simplifying and
/// isolating failure-inducing input").
fn remove_ops(program: &mut Program, still: &mut impl FnMut(&Program) -> bool) {
    let mut piece = program.ops.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < program.ops.len() {
            let mut candidate = program.clone();
            candidate.ops.drain(at..(at + piece).min(program.ops.len()));
            if !accept(program, candidate, still) {
                at += piece;
            }
        }
        piece /= 2;
    }
}

/// Moves the ops of vCPUs to vCPUs with lower numbers, then removes the vCPUs that have no ops.
fn merge_vcpus(program: &mut Program, still: &mut impl FnMut(&Program) -> bool) {
    for from in (1..program.vcpus).rev() {
        for to in 0..from {
            let mut candidate = program.clone();
            candidate.ops.iter_mut().filter(|op| op.vcpu == from).for_each(|op| op.vcpu = to);
            accept(program, candidate, still);
        }
    }
    let used = program.ops.iter().map(|op| op.vcpu + 1).max().unwrap_or(1);
    accept(program, Program { vcpus: used, ..program.clone() }, still);
}

/// Replaces each span by its first or its last half, in one op and then in all ops with the same span.
fn halve_spans(program: &mut Program, still: &mut impl FnMut(&Program) -> bool) {
    for index in 0..program.ops.len() {
        while let Some(span) = span_mut(&mut program.ops[index]).copied()
            && span.count > 1
        {
            let half = span.count / 2;
            let first = Span { count: half, ..span };
            let last = Span { start: span.start + half * span.stride, count: span.count - half, ..span };
            let smaller = [first, last].into_iter().any(|part| {
                accept(program, with_span(program, Some(index), span, part), still)
                    || accept(program, with_span(program, None, span, part), still)
            });
            if !smaller {
                break;
            }
        }
    }
}

/// Returns the program with `part` in place of `span`, in the op `only` or in all ops.
fn with_span(program: &Program, only: Option<usize>, span: Span, part: Span) -> Program {
    let mut candidate = program.clone();
    for (index, op) in candidate.ops.iter_mut().enumerate() {
        if let Some(named) = span_mut(op)
            && only.is_none_or(|only| only == index)
            && *named == span
        {
            *named = part;
        }
    }
    candidate
}

fn span_mut(op: &mut ProgramOp) -> Option<&mut Span> {
    match &mut op.action {
        Action::Write { span, .. }
        | Action::CleanD { span, .. }
        | Action::InvalI { span }
        | Action::Fetch { span }
        | Action::Load { span, .. }
        | Action::Event { span, .. } => Some(span),
        Action::InvalIAll | Action::Barrier { .. } | Action::Meet => None,
    }
}

/// Numbers the generations from 1.
fn renumber_generations(program: &mut Program, still: &mut impl FnMut(&Program) -> bool) {
    let mut candidate = program.clone();
    let mut next = 0;
    for op in &mut candidate.ops {
        if op.action.writes().is_some()
            && let Action::Write { generation, .. } | Action::Event { generation, .. } = &mut op.action
        {
            next += 1;
            *generation = next;
        }
    }
    accept(program, candidate, still);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Space, random_program};
    use guest::event::Event;

    #[test]
    fn only_the_failing_ops_are_left() {
        let limits = Limits { region_bytes: 0x10000, line_bytes: 64 };
        let space = Space { limits, vcpus: 4, ops: 20, events: &[Event::Rewrite] };
        // A program fails if a vCPU fetches a slot that was written before.
        let fails = |program: &Program| {
            program.ops.iter().enumerate().any(|(index, op)| {
                let Action::Fetch { span } = op.action else { return false };
                program.ops[..index].iter().any(
                    |earlier| matches!(earlier.action, Action::Write { span: written, .. } if written.start == span.start),
                )
            })
        };
        let failing: Vec<_> = (0..200).map(|seed| random_program(seed, &space)).filter(|p| fails(p)).collect();
        assert!(failing.len() > 50);
        for program in failing {
            let small = shrink(&program, limits, fails);
            assert!(fails(&small) && legal::check(&small, limits).is_ok());
            assert_eq!((small.ops.len(), small.vcpus), (2, 1), "{small:?}");
            assert!(matches!(small.ops[0].action, Action::Write { generation: 1, span } if span.count == 1));
        }
    }
}
