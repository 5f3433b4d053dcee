//! CPUs of a fake machine, which run the guest's own interpreter.

use abi::channel::State;
use abi::op::{Attr, Barrier};
use abi::{Ctr, Op, Record, slot};
use payload::interpreter::{Access, Clean, Cpu, Interpreter, LoadMode, Sink, WaitIn};

use crate::compile::Compiled;
use crate::fake::defect::Defect;
use crate::fake::machine::{LINE_BYTES, Machine};
use crate::fake::seen::Seen;
use crate::oracle::CacheFeatures;
use crate::program::Program;

/// Description of a fake machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeMachine {
    /// Features that the guest sees.
    pub features: CacheFeatures,
    /// Planted defect; `None` for a correct machine.
    pub defect: Option<Defect>,
    /// Seed of everything that happens at random times.
    pub seed: u64,
}

impl FakeMachine {
    /// Runs a compiled program and returns the records of each vCPU.
    ///
    /// # Panics
    ///
    /// As [`FakeMachine::run_observed`].
    #[cfg(test)]
    pub fn run(&self, program: &Program, compiled: &Compiled) -> Vec<Vec<Record>> {
        self.run_observed(program, compiled).0
    }

    /// Runs a compiled program. Returns the records of each vCPU, and the events in their order.
    ///
    /// # Panics
    ///
    /// If the program has more than [`MAX_VCPUS`](crate::fake::MAX_VCPUS) vCPUs, if a vCPU ends while others wait for
    /// it at a meeting, or if the last op of a vCPU is not [`Op::end`].
    pub fn run_observed(&self, program: &Program, compiled: &Compiled) -> (Vec<Vec<Record>>, Vec<Seen>) {
        let mut machine = Machine::new(program, compiled.base_ipa, self.features, self.defect, self.seed);
        let mut programs: Vec<_> = compiled.ops.iter().map(|ops| Interpreter::new(ops)).collect();
        let mut records = vec![Records::default(); program.vcpus];
        let mut states = vec![VcpuState::Running; program.vcpus];
        loop {
            if !states.contains(&VcpuState::Running) {
                if states.iter().all(|state| *state == VcpuState::Ended) {
                    return (records.into_iter().map(|records| records.done).collect(), machine.seen);
                }
                let all_wait = states.iter().all(|state| *state == VcpuState::Waiting);
                assert!(all_wait, "a vCPU ended while others wait for it");
                states.fill(VcpuState::Running);
            }
            let vcpu = machine.random.below(program.vcpus as u64) as usize;
            if states[vcpu] != VcpuState::Running {
                continue;
            }
            machine.disturb();
            machine.tag = compiled.ops[vcpu].get(records[vcpu].next).map_or(0, |op| op.tag as usize);
            let mut cpu = FakeCpu { machine: &mut machine, vcpu, ops: &compiled.ops[vcpu], waits: false };
            let ended = programs[vcpu].step(&mut cpu, &mut records[vcpu]);
            states[vcpu] = match ended {
                Some(state) => {
                    assert_eq!(state, State::Ended);
                    VcpuState::Ended
                }
                None if cpu.waits => VcpuState::Waiting,
                None => VcpuState::Running,
            };
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum VcpuState {
    Running,
    /// The vCPU waits at a meeting.
    Waiting,
    Ended,
}

#[derive(Clone, Default)]
struct Records {
    done: Vec<Record>,
    /// Index of the next guest op.
    next: usize,
}

impl Sink for Records {
    fn at(&mut self, op: u32) {
        self.next = op as usize + 1;
    }

    fn record(&mut self, record: Record) {
        self.done.push(record);
    }
}

/// CPU of one vCPU while it runs one op.
struct FakeCpu<'a> {
    machine: &'a mut Machine,
    vcpu: usize,
    ops: &'a [Op],
    /// True if the op is a meeting.
    waits: bool,
}

impl FakeCpu<'_> {
    /// Does an access between the fences of a timed access.
    fn fenced(&mut self, access: impl FnOnce(&mut Machine, usize) -> u64) -> Access {
        self.machine.dsb(self.vcpu);
        self.machine.isb(self.vcpu);
        let value = access(self.machine, self.vcpu);
        self.machine.dsb(self.vcpu);
        self.machine.isb(self.vcpu);
        Access { value, ..Access::default() }
    }
}

impl Cpu for FakeCpu<'_> {
    fn ctr(&self) -> Ctr {
        let CacheFeatures { idc, dic, .. } = self.machine.features;
        Ctr(0x8444_c004).with_idc(idc).with_dic(dic)
    }

    fn clidr_implies_idc(&self) -> bool {
        false
    }

    fn ticks(&mut self) -> u64 {
        0
    }

    fn fetch(&mut self, ipa: u64) -> Access {
        self.fenced(|machine, vcpu| {
            let word = machine.fetch(vcpu, ipa);
            let generation = slot::generation_of(word);
            if word == slot::first_doubleword(ipa, generation) { slot::token(ipa, generation) } else { word }
        })
    }

    fn load(&mut self, ipa: u64, mode: LoadMode) -> Access {
        self.fenced(|machine, vcpu| machine.load(vcpu, ipa, mode))
    }

    fn prepare_load(&mut self, _: LoadMode, _: u64, _: u64) -> bool {
        true
    }

    fn store(&mut self, ipa: u64, value: u64) -> Access {
        // The first doubleword of a slot contains the generation. The other doublewords never change.
        if !ipa.is_multiple_of(LINE_BYTES) {
            return Access::default();
        }
        self.fenced(|machine, vcpu| {
            machine.store(vcpu, ipa, value);
            0
        })
    }

    fn clean_d(&mut self, clean: Clean, ipa: u64) {
        self.machine.clean(self.vcpu, ipa, clean);
    }

    fn inval_i(&mut self, ipa: u64) {
        self.machine.invalidate(self.vcpu, ipa);
    }

    fn inval_i_all(&mut self) {
        self.machine.invalidate_all(self.vcpu);
    }

    fn barrier(&mut self, barrier: Barrier) {
        match barrier {
            Barrier::DsbIsh => self.machine.dsb(self.vcpu),
            Barrier::Isb => self.machine.isb(self.vcpu),
            Barrier::DmbIsh | Barrier::DmbIshst | Barrier::DmbIshld => {}
        }
    }

    fn remap(&mut self, _: u64, _: u64, _: Attr, _: u64) -> bool {
        false
    }

    fn rendezvous(&mut self, _: u64, _: u64, _: WaitIn) {
        self.waits = true;
    }

    fn event(&mut self, op: u32) {
        self.machine.event(self.vcpu, &self.ops[op as usize]);
    }

    fn wait(&mut self, _: u64) {}

    // Programs of this crate contain no races, so the functions below do the least that a race needs.
    fn call(&mut self, ipa: u64) -> Access {
        self.fetch(ipa)
    }

    fn peek(&mut self, ipa: u64) -> u64 {
        self.load(ipa, LoadMode::Cacheable).value
    }

    fn poke(&mut self, ipa: u64, value: u64) {
        self.store(ipa, value);
    }

    fn meet(&mut self, _: u64, _: u64) {}

    fn spin(&mut self, _: u64) {}
}
