//! A machine whose caches are as stale as the architecture allows, for tests: the guest's own interpreter runs on it,
//! and faults can be planted.

mod host;
mod machine;
mod tests;

use abi::channel::State;
use abi::op::{Attr, Barrier};
use abi::{Ctr, Op, Record, slot};
use payload::interpreter::{Access, Clean, Cpu, Interpreter, LoadMode, Sink, WaitIn};

use crate::compile::Compiled;
use crate::oracle::Geometry;
use crate::program::Program;
use machine::Machine;

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// DC does nothing.
    NoClean,
    /// DC leaves out every second line.
    CleanEverySecond,
    /// IC IVAU does nothing.
    NoInvalidate,
    /// IC IVAU leaves out every second line.
    InvalidateEverySecond,
    /// IC IALLUIS does nothing.
    NoInvalidateAll,
    /// Broadcast invalidations do not reach the CPU that vCPU 0 starts on.
    ForgottenCpu,
    /// ISB does nothing.
    NoIsb,
    /// The host does not clean what it maps.
    HostNoClean,
    /// The host does not invalidate what it makes executable.
    HostNoInvalidate,
    /// The host leaves out every second line.
    HostInvalidateEverySecond,
    /// Events lose contents.
    ContentsLost,
    /// A vCPU goes on with the frames that an event took away.
    OldFrames,
    /// CTR_EL0.IDC is set, but stores are not at the PoU.
    IdcUntrue,
    /// CTR_EL0.DIC is set, but I-caches are not coherent.
    DicUntrue,
}

/// Size of a line in bytes.
pub const LINE_BYTES: u64 = 64;

/// Runs a compiled program and returns the records of each vCPU.
pub fn run(
    program: &Program,
    compiled: &Compiled,
    geometry: Geometry,
    fault: Option<Fault>,
    seed: u64,
) -> Vec<Vec<Record>> {
    let mut machine = Machine::new(program, compiled.base_ipa, geometry, fault, seed);
    let mut programs: Vec<_> = compiled.ops.iter().map(|ops| Interpreter::new(ops)).collect();
    let mut records = vec![Records::default(); program.vcpus];
    let mut standing = vec![Standing::Running; program.vcpus];
    loop {
        if !standing.contains(&Standing::Running) {
            if standing.iter().all(|at| *at == Standing::Ended) {
                return records.into_iter().map(|records| records.0).collect();
            }
            assert!(standing.iter().all(|at| *at == Standing::Waiting), "a vCPU ended while others wait for it");
            standing.fill(Standing::Running);
        }
        let vcpu = machine.random.below(program.vcpus as u64) as usize;
        if standing[vcpu] != Standing::Running {
            continue;
        }
        machine.happen();
        let mut cpu = FakeCpu { machine: &mut machine, vcpu, ops: &compiled.ops[vcpu], waits: false };
        let ended = programs[vcpu].step(&mut cpu, &mut records[vcpu]);
        standing[vcpu] = match ended {
            Some(state) => {
                assert_eq!(state, State::Ended);
                Standing::Ended
            }
            None if cpu.waits => Standing::Waiting,
            None => Standing::Running,
        };
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Running,
    Waiting,
    Ended,
}

#[derive(Clone, Default)]
struct Records(Vec<Record>);

impl Sink for Records {
    fn at(&mut self, _: u32) {}

    fn record(&mut self, record: Record) {
        self.0.push(record);
    }
}

struct FakeCpu<'a> {
    machine: &'a mut Machine,
    vcpu: usize,
    ops: &'a [Op],
    waits: bool,
}

impl FakeCpu<'_> {
    /// The fence around a timed access.
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
        let Geometry { idc, dic, .. } = self.machine.geometry;
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
        self.fenced(|machine, vcpu| machine.load(vcpu, ipa, mode == LoadMode::Cacheable))
    }

    fn prepare_load(&mut self, _: LoadMode, _: u64, _: u64) -> bool {
        true
    }

    fn store(&mut self, ipa: u64, value: u64) -> Access {
        // The generation is in the first doubleword; the others are always the same.
        if !ipa.is_multiple_of(LINE_BYTES) {
            return Access::default();
        }
        self.fenced(|machine, vcpu| {
            machine.store(vcpu, ipa, value);
            0
        })
    }

    fn clean_d(&mut self, clean: Clean, ipa: u64) {
        self.machine.clean(self.vcpu, ipa, clean != Clean::ToPou);
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

    // Programs of this model hold no races: these are only as right as a race with nobody.
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
