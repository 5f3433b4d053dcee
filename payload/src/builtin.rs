//! Built-in program, which the guest runs if there is no channel, and the checks of its records.
//!
//! Each CPU writes code to its own part of memory, does the maintenance, executes the code, and does so again with
//! other code.

use abi::line::{ResultLine, Status};
use abi::op::{Attr, Barrier, CHECK};
use abi::record::Summary;
use abi::{Op, OpCode, Outcome, Record, slot};

/// Size of the memory of one CPU, in bytes: one level 2 block.
pub const BYTES_PER_CPU: u64 = 2 << 20;

/// Number of ops in the program.
const OPS: usize = 28;

/// Maximum number of records of one CPU: a summary for each op, and some mismatches.
pub const RECORDS: usize = 128;

const PAGE_BYTES: u64 = 4 << 10;
const CODE_BYTES: u64 = 64 << 10;
const LINE_BYTES: u64 = 64;
const UNDEFINED_INSTRUCTION: u64 = 0;

/// Check of one op, whose tag is the index of the check plus one.
struct Check {
    name: &'static str,
    outcome: Outcome,
    elements: u64,
}

const CHECKS: [Check; 6] = [
    Check { name: "fetch-first", outcome: Outcome::Ok, elements: CODE_BYTES / LINE_BYTES },
    Check { name: "fetch-rewritten", outcome: Outcome::Ok, elements: CODE_BYTES / LINE_BYTES },
    Check { name: "fetch-after-rendezvous", outcome: Outcome::Ok, elements: CODE_BYTES / LINE_BYTES },
    Check { name: "fetch-undefined", outcome: Outcome::Undefined, elements: 1 },
    Check { name: "load-as-pages", outcome: Outcome::Ok, elements: CODE_BYTES / PAGE_BYTES },
    Check { name: "fetch-unmapped", outcome: Outcome::InstructionAbort, elements: 1 },
];

/// Returns the program of one of `cpus` CPUs. `base` is the address of its memory, a mapped level 2 block.
pub fn program(base: u64, cpus: u64) -> [Op; OPS] {
    let code = |op, arg| Op::range(op, base, CODE_BYTES, LINE_BYTES, arg);
    let checked = |op: Op, check: u32| op.with_flags(CHECK).with_tag(check + 1);
    let dsb = Op::barrier(Barrier::DsbIsh);
    let isb = Op::barrier(Barrier::Isb);
    let clean = Op::range(OpCode::CleanD, base, CODE_BYTES, 0, 0);
    let inval = Op::range(OpCode::InvalI, base, CODE_BYTES, 0, 0);
    let data = base + BYTES_PER_CPU / 2;
    let remap = |attr: Attr, block| Op {
        args: [attr as u64, block, 0, 0],
        ..Op::range(OpCode::Remap, base, BYTES_PER_CPU, 0, 0)
    };
    [
        code(OpCode::WriteCode, 1),
        clean,
        dsb,
        inval,
        dsb,
        isb,
        checked(code(OpCode::Fetch, 1), 0),
        code(OpCode::WriteCode, 2),
        clean,
        dsb,
        inval,
        dsb,
        isb,
        checked(code(OpCode::Fetch, 2), 1),
        Op::rendezvous(0, cpus),
        checked(code(OpCode::Fetch, 2), 2),
        Op::range(OpCode::Store, base, LINE_BYTES, 0, UNDEFINED_INSTRUCTION),
        clean,
        dsb,
        inval,
        dsb,
        isb,
        checked(Op::range(OpCode::Fetch, base, LINE_BYTES, 0, 0), 3),
        Op::range(OpCode::Store, data, CODE_BYTES, PAGE_BYTES, 0x5aa5),
        remap(Attr::Cacheable, PAGE_BYTES),
        checked(Op::range(OpCode::Load, data, CODE_BYTES, PAGE_BYTES, 0x5aa5), 4),
        checked(Op::range(OpCode::Fetch, BYTES_PER_CPU, slot::BYTES, 0, 0), 5),
        Op::end(),
    ]
}

/// Checks the records of one CPU and reports a line for each check. Returns whether all checks passed.
pub fn judge(cpu: usize, records: &[Record], report: &mut impl FnMut(ResultLine<'_>)) -> bool {
    let mut all = true;
    for (check, tag) in CHECKS.iter().zip(1..) {
        let found = summaries(records).find(|(_, record, _)| record.tag == tag);
        let holds = found.is_some_and(|(_, record, summary)| {
            record.outcome() == Some(check.outcome) && summary.elements == check.elements
        });
        let status = if holds { Status::Pass } else { Status::Fail };
        let value = found.map_or(0, |(_, _, summary)| summary.max_ticks);
        report(ResultLine { name: check.name, cpu: Some(cpu), status, value, unit: "ticks" });
        all &= holds;
    }
    if let Some((window, outside)) = fetch_cost(records) {
        let line = |name, value| ResultLine { name, cpu: Some(cpu), status: Status::Pass, value, unit: "ticks" };
        report(line("fetch-window", window));
        report(line("fetch-outside", outside));
    }
    all
}

/// Returns the summaries in `records`, each with its index and its record.
fn summaries(records: &[Record]) -> impl Iterator<Item = (usize, &Record, Summary)> {
    records.iter().enumerate().filter_map(|(index, record)| Some((index, record, record.summary()?)))
}

/// Returns the cost of a fetch that takes no fault and has no record of its own: its ticks inside the timed window, and
/// those outside it.
///
/// With QEMU's icount a tick is an instruction, so that these are instruction counts.
fn fetch_cost(records: &[Record]) -> Option<(u64, u64)> {
    let after_rendezvous = 3;
    let (at, _, fetches) = summaries(records).find(|(_, record, _)| record.tag == after_rendezvous)?;
    let next = records.get(at + 1)?.summary()?;
    let outside = next.began_ticks.checked_sub(fetches.began_ticks)?.checked_sub(fetches.sum_ticks)?;
    Some((fetches.min_ticks, outside.div_ceil(fetches.elements.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpreter::{run, tests::FakeCpu};
    use abi::channel::State;

    #[test]
    fn every_check_is_in_the_program_once() {
        let ops = program(0x8000_0000, 1);
        for tag in 1..=CHECKS.len() as u32 {
            assert_eq!(ops.iter().filter(|op| op.tag == tag).count(), 1);
        }
        assert_eq!(OpCode::from_raw(ops[OPS - 1].code), Some(OpCode::End));
    }

    /// The fake CPU implements neither undefined instructions nor unmapped memory, so those two checks fail on it.
    #[test]
    fn judged_over_the_fake_cpu() {
        let mut cpu = FakeCpu::default();
        let mut records = Vec::new();
        assert_eq!(run(&mut cpu, &program(0x8000_0000, 1), &mut records), State::Ended);
        let mut failed = Vec::new();
        let all = judge(0, &records, &mut |line| {
            if line.status == Status::Fail {
                failed.push(line.name.to_owned());
            }
        });
        assert!(!all);
        assert_eq!(failed, ["fetch-undefined", "fetch-unmapped"]);
        assert!(!judge(0, &[], &mut |_| ()));
    }
}
