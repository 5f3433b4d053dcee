//! The smallest program that still fails.

use crate::legal::{Limits, legal};
use crate::program::{Act, Program, Span, Step};

/// Takes away steps, slots and vCPUs while the program stays legal and `fails` says that it still fails. What comes back
/// fails as well: nothing smaller that one change away does.
pub fn shrink(program: &Program, limits: Limits, mut fails: impl FnMut(&Program) -> bool) -> Program {
    let mut still = |candidate: &Program| legal(candidate, limits).is_ok() && fails(candidate);
    let mut smallest = program.clone();
    loop {
        let before = smallest.clone();
        steps(&mut smallest, &mut still);
        vcpus(&mut smallest, &mut still);
        spans(&mut smallest, &mut still);
        generations(&mut smallest, &mut still);
        if smallest == before {
            return smallest;
        }
    }
}

/// Keeps a candidate if it still fails.
fn take(program: &mut Program, candidate: Program, still: &mut impl FnMut(&Program) -> bool) -> bool {
    let better = candidate != *program && still(&candidate);
    if better {
        *program = candidate;
    }
    better
}

/// Takes steps away: first halves, then ever smaller pieces (Zeller, "Simplifying and isolating failure-inducing input").
fn steps(program: &mut Program, still: &mut impl FnMut(&Program) -> bool) {
    let mut piece = program.steps.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < program.steps.len() {
            let mut candidate = program.clone();
            candidate.steps.drain(at..(at + piece).min(program.steps.len()));
            if !take(program, candidate, still) {
                at += piece;
            }
        }
        piece /= 2;
    }
}

/// Has vCPUs' steps done by lower ones, then takes away those that do nothing.
fn vcpus(program: &mut Program, still: &mut impl FnMut(&Program) -> bool) {
    for from in (1..program.vcpus).rev() {
        for to in 0..from {
            let mut candidate = program.clone();
            candidate.steps.iter_mut().filter(|step| step.vcpu == from).for_each(|step| step.vcpu = to);
            take(program, candidate, still);
        }
    }
    let used = program.steps.iter().map(|step| step.vcpu + 1).max().unwrap_or(1);
    take(program, Program { vcpus: used, ..program.clone() }, still);
}

/// Leaves the first or the last half of every span, of one step and then of all that have the same.
fn spans(program: &mut Program, still: &mut impl FnMut(&Program) -> bool) {
    for index in 0..program.steps.len() {
        while let Some(span) = span_mut(&mut program.steps[index]).copied()
            && span.count > 1
        {
            let half = span.count / 2;
            let first = Span { count: half, ..span };
            let last = Span { start: span.start + half * span.stride, count: span.count - half, ..span };
            let smaller = [first, last].into_iter().any(|part| {
                take(program, with_span(program, Some(index), span, part), still)
                    || take(program, with_span(program, None, span, part), still)
            });
            if !smaller {
                break;
            }
        }
    }
}

/// Returns the program with `part` instead of `span` in one step, or in all.
fn with_span(program: &Program, only: Option<usize>, span: Span, part: Span) -> Program {
    let mut candidate = program.clone();
    for (index, step) in candidate.steps.iter_mut().enumerate() {
        if let Some(named) = span_mut(step)
            && only.is_none_or(|only| only == index)
            && *named == span
        {
            *named = part;
        }
    }
    candidate
}

fn span_mut(step: &mut Step) -> Option<&mut Span> {
    match &mut step.act {
        Act::Write { span, .. }
        | Act::CleanD { span, .. }
        | Act::InvalI { span }
        | Act::Fetch { span }
        | Act::Load { span, .. }
        | Act::Event { span, .. } => Some(span),
        Act::InvalIAll | Act::Barrier { .. } | Act::Meet => None,
    }
}

/// Numbers the generations from 1.
fn generations(program: &mut Program, still: &mut impl FnMut(&Program) -> bool) {
    let mut candidate = program.clone();
    let mut next = 0;
    for step in &mut candidate.steps {
        if step.act.writes().is_some()
            && let Act::Write { generation, .. } | Act::Event { generation, .. } = &mut step.act
        {
            next += 1;
            *generation = next;
        }
    }
    take(program, candidate, still);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{self, Space};
    use guest::event::Event;

    #[test]
    fn what_matters_is_left() {
        let limits = Limits { region_bytes: 0x10000, line_bytes: 64 };
        let space = Space { limits, vcpus: 4, steps: 20, events: &[Event::Rewrite] };
        // Fails if some vCPU fetches a slot after a write of it.
        let fails = |program: &Program| {
            program.steps.iter().enumerate().any(|(index, step)| {
                let Act::Fetch { span } = step.act else { return false };
                program.steps[..index].iter().any(
                    |earlier| matches!(earlier.act, Act::Write { span: written, .. } if written.start == span.start),
                )
            })
        };
        let failing: Vec<_> = (0..200).map(|seed| generate::program(seed, &space)).filter(|p| fails(p)).collect();
        assert!(failing.len() > 50);
        for program in failing {
            let small = shrink(&program, limits, fails);
            assert!(fails(&small) && legal(&small, limits).is_ok());
            assert_eq!((small.steps.len(), small.vcpus), (2, 1), "{small:?}");
            assert!(matches!(small.steps[0].act, Act::Write { generation: 1, span } if span.count == 1));
        }
    }
}
