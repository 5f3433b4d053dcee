//! The interpreter over a fake CPU whose memory is a map and whose clock counts calls.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Memory is coherent; addresses in `faulting` abort.
#[derive(Default)]
pub(crate) struct FakeCpu {
    ctr: u64,
    clock: u64,
    memory: BTreeMap<u64, u64>,
    faulting: BTreeSet<u64>,
    maintenance: Vec<(&'static str, u64)>,
    rendezvous: Vec<u64>,
    events: Vec<u32>,
}

impl FakeCpu {
    fn access(&mut self, value: u64, ipa: u64) -> Access {
        let esr = if self.faulting.contains(&ipa) { 0x9600_0045 } else { 0 };
        self.clock += 3;
        Access { began: self.clock - 3, ended: self.clock, value, esr, far: ipa, elr: 0 }
    }
}

impl Cpu for FakeCpu {
    fn ctr(&self) -> Ctr {
        Ctr(self.ctr)
    }
    fn clidr_implies_idc(&self) -> bool {
        false
    }
    fn ticks(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
    fn fetch(&mut self, ipa: u64) -> Access {
        let low = self.memory.get(&ipa).copied().unwrap_or(0);
        let generation = (low >> 5) as u16;
        self.access(slot::token(ipa, generation), ipa)
    }
    fn prepare(&mut self, _: Look, _: u64, _: u64) -> bool {
        true
    }
    fn load(&mut self, ipa: u64, _: Look) -> Access {
        let value = self.memory.get(&ipa).copied().unwrap_or(0);
        self.access(value, ipa)
    }
    fn store(&mut self, ipa: u64, value: u64) -> Access {
        self.memory.insert(ipa, value);
        self.access(0, ipa)
    }
    fn clean_d(&mut self, _: Clean, ipa: u64) {
        self.maintenance.push(("dc", ipa));
    }
    fn inval_i(&mut self, ipa: u64) {
        self.maintenance.push(("ic", ipa));
    }
    fn inval_i_all(&mut self) {
        self.maintenance.push(("ialluis", 0));
    }
    fn barrier(&mut self, _: Barrier) {}
    fn remap(&mut self, _: u64, _: u64, _: Attr, _: u64) -> bool {
        true
    }
    fn rendezvous(&mut self, number: u64, _: u64, _: bool, _: u32) {
        self.rendezvous.push(number);
    }
    fn event(&mut self, op: u32) {
        self.events.push(op);
    }
    fn wait(&mut self, ticks: u64) {
        self.clock += ticks;
    }
}

impl Sink for Vec<Record> {
    fn at(&mut self, _: u32) {}
    fn record(&mut self, record: Record) {
        self.push(record);
    }
}

const BASE: u64 = 0x1_0000_0000;

fn n1() -> FakeCpu {
    FakeCpu { ctr: 0x8444_c004, ..FakeCpu::default() }
}

fn run_all(cpu: &mut FakeCpu, ops: &[Op]) -> (State, Vec<Record>) {
    let mut records = Vec::new();
    let state = run(cpu, ops, &mut records);
    (state, records)
}

#[test]
fn fetch_checks_the_token_of_every_element() {
    let ops = [
        Op::range(OpCode::WriteCode, BASE, 0x4000, 0x1000, 7),
        Op::range(OpCode::WriteCode, BASE + 0x2000, 0x1000, 0, 6),
        Op::range(OpCode::Fetch, BASE, 0x4000, 0x1000, 7).with_flags(CHECK | EACH),
        Op::end(),
    ];
    let (state, records) = run_all(&mut n1(), &ops);
    assert_eq!(state, State::Ended);
    let summary = records.last().expect("a summary");
    assert_eq!((summary.op, summary.data[0], summary.data[1]), (2, 4, 1));
    assert_eq!(summary.outcome, Outcome::Wrong as u16);
    let wrong: Vec<_> = records.iter().filter(|r| r.kind == Kind::Mismatch as u16).collect();
    assert_eq!(wrong.len(), 1);
    assert_eq!(slot::decode(wrong[0].data[1]), (BASE + 0x2000, 6));
    assert_eq!(slot::decode(wrong[0].data[2]), (BASE + 0x2000, 7));
    assert_eq!(records.iter().filter(|r| r.kind == Kind::Element as u16).count(), 4);
}

#[test]
fn summary_times_the_elements_alone() {
    let ops = [Op::range(OpCode::Load, BASE, 0x100, 0x40, 0), Op::end()];
    let (_, records) = run_all(&mut n1(), &ops);
    assert_eq!(records[0].data[..5], [4, 0, 3, 3, 12]);
}

#[test]
fn an_abort_is_an_outcome() {
    let mut cpu = n1();
    cpu.faulting.insert(BASE);
    let (state, records) = run_all(&mut cpu, &[Op::range(OpCode::Fetch, BASE, 0x40, 0, 1), Op::end()]);
    assert_eq!(state, State::Ended);
    assert_eq!(records[0].outcome, Outcome::DataAbort as u16);
}

#[test]
fn mismatches_are_capped_and_counted() {
    let ops = [Op::range(OpCode::Load, BASE, 64 * 1000, 64, 1).with_flags(CHECK), Op::end()];
    let (_, records) = run_all(&mut n1(), &ops);
    assert_eq!(records.len() as u64, MISMATCH_CAP + 1);
    assert_eq!(records.last().map(|r| r.data[1]), Some(1000));
}

#[test]
fn maintenance_goes_by_the_machines_lines_and_covers_a_partial_first_line() {
    let mut cpu = n1();
    let ops = [Op::range(OpCode::InvalI, BASE + 32, 0x40, 0, 0), Op::end()];
    let (_, records) = run_all(&mut cpu, &ops);
    assert_eq!(cpu.maintenance, [("ic", BASE), ("ic", BASE + 64)]);
    assert_eq!(records[0].data[0], 2);
}

#[test]
fn idc_and_dic_are_honoured_unless_forced() {
    let ctr = 0x8444_c004 | 0b11 << 28;
    let maintenance = [
        Op::range(OpCode::CleanD, BASE, 64, 0, 0),
        Op::range(OpCode::InvalI, BASE, 64, 0, 0),
        Op::range(OpCode::CleanD, BASE, 64, 0, 1),
        Op::end(),
    ];
    let mut cpu = FakeCpu { ctr, ..FakeCpu::default() };
    run_all(&mut cpu, &maintenance);
    assert_eq!(cpu.maintenance, [("dc", BASE)]);
    let mut cpu = FakeCpu { ctr, ..FakeCpu::default() };
    run_all(&mut cpu, &maintenance.map(|op| op.with_flags(FORCE)));
    assert_eq!(cpu.maintenance.len(), 3);
}

#[test]
fn repeats_nest() {
    let again = |target, times| Op::plain(OpCode::Repeat, [target, times, 0, 0]);
    let mut cpu = n1();
    let ops = [Op::plain(OpCode::Event, [0; 4]), again(0, 3), Op::rendezvous(1, 1), again(0, 2), Op::end()];
    let (state, records) = run_all(&mut cpu, &ops);
    assert_eq!((state, cpu.events.len(), cpu.rendezvous.len()), (State::Ended, 6, 2));
    assert_eq!(records.iter().filter(|r| r.op == 0).map(|r| r.pass).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn bad_programs_stop() {
    let (state, _) = run_all(&mut n1(), &[Op { code: 999, ..Op::end() }]);
    assert_eq!(state, State::BadProgram);
    let (state, _) = run_all(&mut n1(), &[]);
    assert_eq!(state, State::BadProgram);
    let (state, _) = run_all(&mut n1(), &[Op::range(OpCode::Load, u64::MAX - 1, u64::MAX, 64, 0), Op::end()]);
    assert_eq!(state, State::Ended);
}
