//! Ops over ranges: accesses under test, and cache maintenance.

use abi::op::{CHECK, EACH, FORCE, SLOT};
use abi::{Op, slot};

use super::cpu::{Access, Clean, Cpu, LoadMode};
use super::tally::{Sink, Tally, Times};

/// Writes a code slot at each element. The timed access is the store of its first two instructions.
pub(super) fn write_code(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally, sink: &mut impl Sink) {
    let write = |ipa| {
        let [a, b, c, d, e] = slot::encode(ipa, op.args[0] as u16).map(u64::from);
        let access = cpu.store(ipa, a | b << 32);
        if access.esr == 0 {
            cpu.store(ipa + 8, c | d << 32);
            cpu.store(ipa + 16, e);
        }
        access
    };
    elements(op, tally, sink, write, |_, access| access.value);
}

/// Loads from each element. Returns whether the CPU can load in the mode that the op asks for.
pub(super) fn load(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally, sink: &mut impl Sink) -> bool {
    let mode = LoadMode::from_flags(op.flags);
    if mode != LoadMode::Cacheable && !cpu.prepare_load(mode, op.start, op.bytes) {
        return false;
    }
    if op.flags & SLOT == 0 {
        elements(op, tally, sink, |ipa| cpu.load(ipa, mode), |_, _| op.args[0]);
    } else {
        let expected = |ipa, _: &Access| slot::first_doubleword(ipa, op.args[0] as u16);
        elements(op, tally, sink, |ipa| cpu.load(ipa, mode), expected);
    }
    true
}

/// Stores to each element.
pub(super) fn store(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally, sink: &mut impl Sink) {
    elements(op, tally, sink, |ipa| cpu.store(ipa, op.args[0]), |_, access| access.value);
}

/// Calls the slot at each element.
pub(super) fn fetch(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally, sink: &mut impl Sink) {
    let expected = |ipa, _: &Access| slot::token(ipa, op.args[0] as u16);
    elements(op, tally, sink, |ipa| cpu.fetch(ipa), expected);
}

/// Cleans the D-cache lines of the range, unless IDC makes that unnecessary.
pub(super) fn clean_d(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally) {
    let clean = match op.args[0] {
        1 => Clean::ToPoc,
        2 => Clean::AndInvalidate,
        _ => Clean::ToPou,
    };
    let needed = clean != Clean::ToPou || !(cpu.ctr().idc() || cpu.clidr_implies_idc());
    if needed || op.flags & FORCE != 0 {
        lines(op, cpu.ctr().dmin_line_bytes(), tally, |ipa| cpu.clean_d(clean, ipa));
    }
}

/// Invalidates the I-cache lines of the range, unless DIC makes that unnecessary.
pub(super) fn inval_i(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally) {
    if !cpu.ctr().dic() || op.flags & FORCE != 0 {
        lines(op, cpu.ctr().imin_line_bytes(), tally, |ipa| cpu.inval_i(ipa));
    }
}

/// Makes a timed access to each element, and compares its value with the expected one.
///
/// The counts are local variables and the access stays where it was returned, so that an element executes few
/// instructions outside the timed window.
#[inline(always)]
fn elements(
    op: &Op,
    tally: &mut Tally,
    sink: &mut impl Sink,
    mut access: impl FnMut(u64) -> Access,
    expected: impl Fn(u64, &Access) -> u64,
) {
    let (each, check) = (op.flags & EACH != 0, op.flags & CHECK != 0);
    let (mut sum, mut min, mut max) = (0, u64::MAX, 0);
    let count = for_each(op, op.stride, |ipa| {
        let access = access(ipa);
        let expected = expected(ipa, &access);
        let ticks = access.ticks();
        sum += ticks;
        min = min.min(ticks);
        max = max.max(ticks);
        if each || access.esr != 0 || (check && access.value != expected) {
            tally.element(ipa, &access, expected, sink);
        }
    });
    tally.set_times(count, Times { min: if count == 0 { 0 } else { min }, max, sum });
}

/// Visits each cache line of the range, from the start of the first line.
fn lines(op: &Op, line_bytes: u64, tally: &mut Tally, visit: impl FnMut(u64)) {
    let stride = if op.stride == 0 { line_bytes } else { op.stride };
    let start = op.start & !(line_bytes - 1);
    let aligned = Op { start, bytes: op.bytes.saturating_add(op.start - start), ..*op };
    tally.count = for_each(&aligned, stride, visit);
}

/// Visits `start`, `start + stride`, … below the end of the range, or with a stride of 0 the start alone.
///
/// Returns the number of visits.
#[inline(always)]
fn for_each(op: &Op, stride: u64, mut visit: impl FnMut(u64)) -> u64 {
    // A range that would end beyond the address space ends with it.
    let bytes = op.bytes.min(u64::MAX - op.start);
    let count = if stride == 0 { u64::from(bytes > 0) } else { bytes.div_ceil(stride) };
    let mut ipa = op.start;
    let mut left = count;
    while left > 0 {
        visit(ipa);
        ipa = ipa.wrapping_add(stride);
        left -= 1;
    }
    count
}
