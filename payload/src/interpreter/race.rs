//! Races: several vCPUs call functions of the host at the same time, again and again, and thread 0 counts the outcomes.
//!
//! The host compiles the functions. This module does not know what they do.

use abi::op::{Barrier, Op};
use abi::race::{ARRIVED, COUNTS, EXCEPTION, LINE_BYTES, MAX_THREADS, OBSERVED, OUTCOMES, STOP, Setup};
use abi::record::{Body, RaceCount};
use abi::{Outcome, Record};

use super::cpu::{Access, Cpu};
use super::tally::{Sink, Tally};

/// One thread of a race.
struct Thread {
    /// Address of the memory that the threads share.
    shared: u64,
    setup: Setup,
    /// Number of threads.
    threads: u64,
    /// Number of this thread.
    index: u64,
    /// State of the random number generator; not 0.
    random: u64,
}

/// Runs the thread of this vCPU. Returns whether the arguments of the op are valid.
pub(super) fn run(cpu: &mut impl Cpu, op: &Op, tally: &mut Tally, sink: &mut impl Sink) -> bool {
    let [iterations, threads, index, seed] = op.args;
    if index >= threads || threads > MAX_THREADS as u64 {
        return false;
    }
    let words = core::array::from_fn(|n| cpu.peek(op.start + 8 * n as u64));
    let random = seed.wrapping_add(index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut thread = Thread { shared: op.start, setup: Setup::from_words(words), threads, index, random };
    if thread.is_first() {
        for outcome in 0..=OUTCOMES {
            cpu.poke(thread.count_address(outcome), 0);
        }
    }
    let began = cpu.ticks();
    while thread.begin_iteration(cpu, tally.count < iterations, began) {
        let access = thread.run_iteration(cpu);
        if access.esr != 0 {
            tally.mismatch(thread.body(), &access, 0, sink);
        }
        tally.count += 1;
    }
    if thread.is_first() {
        thread.report(cpu, tally, sink);
    }
    true
}

impl Thread {
    /// Returns whether this is thread 0, which does the work that is done once for all threads.
    fn is_first(&self) -> bool {
        self.index == 0
    }

    /// Returns the address of the body of this thread.
    fn body(&self) -> u64 {
        self.setup.bodies[self.index as usize]
    }

    /// Returns the address of the value that `thread` observed.
    fn observed_address(&self, thread: u64) -> u64 {
        self.shared + OBSERVED + thread * LINE_BYTES
    }

    /// Returns the address of the count of `outcome`.
    fn count_address(&self, outcome: u64) -> u64 {
        self.shared + COUNTS + 8 * outcome.min(OUTCOMES)
    }

    /// Waits for the other threads.
    fn meet(&self, cpu: &mut impl Cpu) {
        cpu.meet(self.shared + ARRIVED, self.threads);
    }

    /// Begins the next iteration, together with the other threads. Returns whether there is one.
    ///
    /// Thread 0 decides: there is one if `more` is set and the time limit, which starts at `began`, has not passed.
    fn begin_iteration(&self, cpu: &mut impl Cpu, more: bool, began: u64) -> bool {
        if self.is_first() {
            let limit = self.setup.limit_ticks;
            let in_time = limit == 0 || cpu.ticks().wrapping_sub(began) < limit;
            if more && in_time && self.setup.init != 0 {
                cpu.call(self.setup.init);
            }
            cpu.poke(self.shared + STOP, u64::from(!(more && in_time)));
        }
        self.meet(cpu);
        cpu.peek(self.shared + STOP) == 0
    }

    /// Runs one iteration. Returns the call of the body.
    fn run_iteration(&mut self, cpu: &mut impl Cpu) -> Access {
        // Thread 0 may have changed code, and has done the maintenance. The ISB discards instructions that this vCPU
        // fetched before.
        cpu.barrier(Barrier::Isb);
        if self.setup.prime != 0 {
            cpu.call(self.setup.prime);
            self.meet(cpu);
        }
        let rounds = self.next_random() & self.setup.skew_mask;
        cpu.spin(rounds);
        let access = cpu.call(self.body());
        cpu.poke(self.observed_address(self.index), if access.esr == 0 { access.value } else { EXCEPTION });
        self.meet(cpu);
        if self.is_first() {
            self.count(cpu);
        }
        access
    }

    /// Counts the outcome of an iteration.
    fn count(&self, cpu: &mut impl Cpu) {
        let mut outcome = if self.setup.finish == 0 { 0 } else { cpu.call(self.setup.finish).value };
        for thread in 0..self.threads {
            outcome |= cpu.peek(self.observed_address(thread));
        }
        let address = self.count_address(outcome);
        let count = cpu.peek(address);
        cpu.poke(address, count + 1);
    }

    /// Records the count of each outcome that occurred.
    fn report(&self, cpu: &mut impl Cpu, tally: &Tally, sink: &mut impl Sink) {
        for outcome in 0..=OUTCOMES {
            let iterations = cpu.peek(self.count_address(outcome));
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
