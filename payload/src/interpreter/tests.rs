//! Tests of the interpreter on a fake CPU, whose memory is a map and whose counter counts calls.

use std::collections::{BTreeMap, BTreeSet};

use abi::op::{CHECK, EACH, FORCE, MISMATCH_CAP};
use abi::record::Summary;
use abi::{Ctr, Outcome, Record, race, slot};

use super::*;

/// CPU with coherent memory. Accesses to the addresses in `faulting` abort.
#[derive(Default)]
pub(crate) struct FakeCpu {
    ctr: u64,
    clock: u64,
    memory: BTreeMap<u64, u64>,
    faulting: BTreeSet<u64>,
    maintenance: Vec<(&'static str, u64)>,
    rendezvous: Vec<u64>,
    events: Vec<u32>,
    /// Addresses that were called.
    calls: Vec<u64>,
    /// Values that the calls of an address return.
    returns: BTreeMap<u64, std::vec::IntoIter<u64>>,
    meetings: Vec<u64>,
    /// Values that thread 0 of a race writes to the stop word before each meeting.
    stops: std::vec::IntoIter<u64>,
    spins: Vec<u64>,
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
    fn prepare_load(&mut self, _: LoadMode, _: u64, _: u64) -> bool {
        true
    }
    fn load(&mut self, ipa: u64, _: LoadMode) -> Access {
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
    fn rendezvous(&mut self, number: u64, _: u64, _: WaitIn) {
        self.rendezvous.push(number);
    }
    fn event(&mut self, op: u32) {
        self.events.push(op);
    }
    fn wait(&mut self, ticks: u64) {
        self.clock += ticks;
    }
    fn call(&mut self, ipa: u64) -> Access {
        self.calls.push(ipa);
        let value = self.returns.get_mut(&ipa).and_then(Iterator::next).unwrap_or(0);
        Access { esr: if self.faulting.contains(&ipa) { 0x8600_000f } else { 0 }, value, ..Access::default() }
    }
    fn peek(&mut self, ipa: u64) -> u64 {
        self.memory.get(&ipa).copied().unwrap_or(0)
    }
    fn poke(&mut self, ipa: u64, value: u64) {
        self.memory.insert(ipa, value);
    }
    fn meet(&mut self, ipa: u64, _: u64) {
        self.meetings.push(ipa);
        // Thread 0 would write this word.
        if let Some(stop) = self.stops.next() {
            self.memory.insert(BASE + race::STOP, stop);
        }
    }
    fn spin(&mut self, rounds: u64) {
        self.spins.push(rounds);
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

fn summary(record: &Record) -> Summary {
    record.summary().expect("the record is a summary")
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
    let last = records.last().expect("a summary");
    assert_eq!((last.op, last.outcome()), (2, Some(Outcome::Wrong)));
    let summary = summary(last);
    assert_eq!((summary.elements, summary.mismatches), (4, 1));
    let wrong: Vec<_> = records.iter().filter_map(Record::mismatch).collect();
    assert_eq!(wrong.len(), 1);
    assert_eq!(slot::decode(wrong[0].value), (BASE + 0x2000, 6));
    assert_eq!(slot::decode(wrong[0].expected), (BASE + 0x2000, 7));
    assert_eq!(records.iter().filter_map(Record::element).count(), 4);
}

#[test]
fn summary_times_the_elements_alone() {
    let ops = [Op::range(OpCode::Load, BASE, 0x100, 0x40, 0), Op::end()];
    let (_, records) = run_all(&mut n1(), &ops);
    let began_ticks = summary(&records[0]).began_ticks;
    let expected = Summary { elements: 4, mismatches: 0, min_ticks: 3, max_ticks: 3, sum_ticks: 12, began_ticks };
    assert_eq!(summary(&records[0]), expected);
}

#[test]
fn an_abort_is_an_outcome() {
    let mut cpu = n1();
    cpu.faulting.insert(BASE);
    let (state, records) = run_all(&mut cpu, &[Op::range(OpCode::Fetch, BASE, 0x40, 0, 1), Op::end()]);
    assert_eq!(state, State::Ended);
    assert_eq!(records[0].outcome(), Some(Outcome::DataAbort));
}

#[test]
fn mismatches_are_capped_and_counted() {
    let ops = [Op::range(OpCode::Load, BASE, 64 * 1000, 64, 1).with_flags(CHECK), Op::end()];
    let (_, records) = run_all(&mut n1(), &ops);
    assert_eq!(records.len() as u64, MISMATCH_CAP + 1);
    assert_eq!(records.last().map(|r| summary(r).mismatches), Some(1000));
}

#[test]
fn maintenance_goes_by_the_machines_lines_and_covers_a_partial_first_line() {
    let mut cpu = n1();
    let ops = [Op::range(OpCode::InvalI, BASE + 32, 0x40, 0, 0), Op::end()];
    let (_, records) = run_all(&mut cpu, &ops);
    assert_eq!(cpu.maintenance, [("ic", BASE), ("ic", BASE + 64)]);
    assert_eq!(summary(&records[0]).elements, 2);
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

const INIT: u64 = BASE + 0x10_0000;
const PRIME: u64 = INIT + 0x100;
const FINISH: u64 = INIT + 0x200;
const BODY: u64 = INIT + 0x300;

/// Returns a CPU whose memory holds this setup of a race.
fn racing(setup: race::Setup) -> FakeCpu {
    let words = setup.to_words().into_iter().enumerate();
    FakeCpu { memory: words.map(|(n, word)| (BASE + 8 * n as u64, word)).collect(), ..n1() }
}

fn race_op(iterations: u64, threads: u64, index: u64) -> [Op; 2] {
    let args = [iterations, threads, index, 7];
    [Op { args, ..Op::range(OpCode::Race, BASE, race::BYTES, 0, 0) }, Op::end()]
}

#[test]
fn the_first_thread_of_a_race_prepares_and_counts() {
    let bodies = [BODY, 0, 0, 0, 0, 0, 0, 0];
    let setup = race::Setup { init: INIT, prime: PRIME, finish: FINISH, skew_mask: 15, bodies, ..Default::default() };
    let mut cpu = racing(setup);
    cpu.returns.insert(BODY, vec![1, 2, 1].into_iter());
    cpu.returns.insert(FINISH, vec![0x10, 0, 0x10].into_iter());
    cpu.memory.insert(BASE + race::OBSERVED + race::LINE_BYTES, 4);
    let (state, records) = run_all(&mut cpu, &race_op(3, 2, 0));
    assert_eq!(state, State::Ended);
    let counted: Vec<_> = records.iter().filter_map(Record::race_count).map(|c| (c.outcome, c.iterations)).collect();
    assert_eq!(counted, [(0x06, 1), (0x15, 2)]);
    let summary = summary(records.last().expect("a summary"));
    assert_eq!((summary.elements, summary.mismatches), (3, 0));
    assert_eq!(cpu.calls[..8], [INIT, PRIME, BODY, FINISH, INIT, PRIME, BODY, FINISH]);
    // There are three meetings in each iteration, and one at the end.
    assert_eq!(cpu.meetings, [BASE + race::ARRIVED; 10]);
    assert!(cpu.spins.len() == 3 && cpu.spins.iter().all(|rounds| *rounds < 16), "{:?}", cpu.spins);
}

#[test]
fn the_other_threads_of_a_race_follow() {
    let setup = race::Setup { init: INIT, finish: FINISH, bodies: [0, BODY, 0, 0, 0, 0, 0, 0], ..Default::default() };
    let mut cpu = FakeCpu { stops: vec![0, 0, 0, 0, 1].into_iter(), ..racing(setup) };
    let (state, records) = run_all(&mut cpu, &race_op(99, 2, 1));
    assert_eq!((state, records.len(), summary(&records[0]).elements), (State::Ended, 1, 2));
    assert_eq!(cpu.calls, [BODY, BODY]);
}

#[test]
fn an_exception_in_a_race_is_an_outcome() {
    let mut cpu = racing(race::Setup { bodies: [BODY; 8], ..Default::default() });
    cpu.faulting.insert(BODY);
    let (state, records) = run_all(&mut cpu, &race_op(2, 1, 0));
    assert_eq!(state, State::Ended);
    let count = records.iter().find_map(Record::race_count).expect("it is counted");
    assert_eq!((count.outcome, count.iterations), (race::OUTCOMES, 2));
    let last = records.last().expect("a summary");
    assert_eq!((summary(last).mismatches, last.outcome()), (2, Some(Outcome::InstructionAbort)));
}

#[test]
fn a_race_ends_in_time() {
    let mut cpu = racing(race::Setup { limit_ticks: 10, bodies: [BODY; 8], ..Default::default() });
    let (_, records) = run_all(&mut cpu, &race_op(u64::MAX, 1, 0));
    let iterations = records.last().map_or(0, |r| summary(r).elements);
    assert!((1..20).contains(&iterations), "{iterations}");
    assert_eq!(run_all(&mut cpu, &race_op(1, 1, 1)).0, State::BadProgram);
    assert_eq!(run_all(&mut cpu, &race_op(1, 9, 1)).0, State::BadProgram);
}
