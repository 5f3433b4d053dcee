//! Races: functions that the host compiled, called on several vCPUs at the same time, over and over; what they return is
//! counted. Nothing here knows what is raced.

use abi::op::{Barrier, Op};
use abi::race::{ARRIVED, COUNTS, EXCEPTION, LINE_BYTES, MAX_THREADS, OBSERVED, OUTCOMES, STOP, Setup};
use abi::record::{Body, RaceCount};
use abi::{Outcome, Record};

use super::{Cpu, Sink, Tally};

/// One thread's part of a race.
struct Race {
    /// Where the shared memory is.
    at: u64,
    setup: Setup,
    threads: u64,
    /// Which thread this is.
    index: u64,
    random: u64,
}

/// Runs this vCPU's thread; returns whether the op makes sense.
pub fn run(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally, sink: &mut impl Sink) -> bool {
    let [iterations, threads, index, seed] = op.args;
    if index >= threads || threads > MAX_THREADS as u64 {
        return false;
    }
    let words = core::array::from_fn(|n| cpu.peek(op.start + 8 * n as u64));
    let random = seed.wrapping_add(index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut race = Race { at: op.start, setup: Setup::from_words(words), threads, index, random };
    if race.leads() {
        for outcome in 0..=OUTCOMES {
            cpu.poke(race.count_at(outcome), 0);
        }
    }
    let began = cpu.ticks();
    while race.goes_on(cpu, tally.count < iterations, began) {
        let access = race.iteration(cpu);
        if access.esr != 0 {
            tally.mismatch(race.body(), &access, 0, sink);
        }
        tally.count += 1;
    }
    if race.leads() {
        race.report(cpu, tally, sink);
    }
    true
}

impl Race {
    /// Says whether this thread does what is done once.
    fn leads(&self) -> bool {
        self.index == 0
    }

    fn body(&self) -> u64 {
        self.setup.bodies[self.index as usize]
    }

    fn observed_at(&self, thread: u64) -> u64 {
        self.at + OBSERVED + thread * LINE_BYTES
    }

    fn count_at(&self, outcome: u64) -> u64 {
        self.at + COUNTS + 8 * outcome.min(OUTCOMES)
    }

    fn meet(&self, cpu: &mut impl Cpu) {
        cpu.meet(self.at + ARRIVED, self.threads);
    }

    /// Prepares the next iteration, unless there is none.
    fn goes_on(&self, cpu: &mut impl Cpu, more: bool, began: u64) -> bool {
        if self.leads() {
            let limit = self.setup.limit_ticks;
            let in_time = limit == 0 || cpu.ticks().wrapping_sub(began) < limit;
            if more && in_time && self.setup.init != 0 {
                cpu.call(self.setup.init);
            }
            cpu.poke(self.at + STOP, u64::from(!(more && in_time)));
        }
        self.meet(cpu);
        cpu.peek(self.at + STOP) == 0
    }

    /// Runs the body once; returns its call.
    fn iteration(&mut self, cpu: &mut impl Cpu) -> super::Access {
        // Thread 0 changed code and did the maintenance: what this vCPU has fetched before that goes here.
        cpu.barrier(Barrier::Isb);
        if self.setup.prime != 0 {
            cpu.call(self.setup.prime);
            self.meet(cpu);
        }
        let rounds = self.next_random() & self.setup.skew_mask;
        cpu.spin(rounds);
        let access = cpu.call(self.body());
        cpu.poke(self.observed_at(self.index), if access.esr == 0 { access.value } else { EXCEPTION });
        self.meet(cpu);
        if self.leads() {
            self.count(cpu);
        }
        access
    }

    /// Counts the outcome of an iteration.
    fn count(&self, cpu: &mut impl Cpu) {
        let mut outcome = if self.setup.finish == 0 { 0 } else { cpu.call(self.setup.finish).value };
        for thread in 0..self.threads {
            outcome |= cpu.peek(self.observed_at(thread));
        }
        let at = self.count_at(outcome);
        let count = cpu.peek(at);
        cpu.poke(at, count + 1);
    }

    /// Writes an element for each outcome that was seen.
    fn report(&self, cpu: &mut impl Cpu, tally: &Tally, sink: &mut impl Sink) {
        for outcome in 0..=OUTCOMES {
            let iterations = cpu.peek(self.count_at(outcome));
            if iterations > 0 {
                let count = Body::RaceCount(RaceCount { outcome, iterations });
                sink.record(Record::new(tally.place, Outcome::Ok, count));
            }
        }
    }

    /// Returns the next number of a xorshift generator (Marsaglia, "Xorshift RNGs").
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
