//! One vCPU: set-up, the loop of its thread, its registers.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use abi::channel::doorbell;
use abi::op::MAX_RENDEZVOUS;
use abi::{Ctr, Op, OpCode};
use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG,
    KVM_REG_SIZE_U64, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::Error;
use crate::console::Console;
use crate::layout;
use guest::ctr::GuestCtr;
use guest::report::ShownCtr;

/// Number of a core register, `KVM_REG_ARM_CORE_REG` of the kernel's API: offset in `struct kvm_regs` in words of 32 bits.
const fn core_register(offset_bytes: u64) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset_bytes / 4)
}

/// Number of a system register, `ARM64_SYS_REG` of the kernel's API.
const fn system_register(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

const SP: u64 = 31 * 8;
const PC: u64 = 32 * 8;
const PSTATE: u64 = 33 * 8;
const SP_EL1: u64 = 34 * 8;
const ELR_EL1: u64 = 35 * 8;
const MPIDR_EL1: u64 = system_register(3, 0, 0, 0, 5);
const CTR_EL0: u64 = system_register(3, 3, 0, 0, 1);
const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// Arm ARM "ID_AA64MMFR2_EL1, AArch64 Memory Model Feature Register 2".
const ID_AA64MMFR2_EL1: u64 = system_register(3, 0, 0, 7, 2);
/// Shift of its field FWB.
const FWB_SHIFT: u32 = 40;

/// Registers that a report on a dead or hung guest holds besides x0 to x30.
const REPORTED: [(&str, u64); 9] = [
    ("pc", core_register(PC)),
    ("pstate", core_register(PSTATE)),
    ("sp", core_register(SP)),
    ("sp_el1", core_register(SP_EL1)),
    ("elr_el1", core_register(ELR_EL1)),
    ("esr_el1", system_register(3, 0, 5, 2, 0)),
    ("far_el1", system_register(3, 0, 6, 0, 0)),
    ("vbar_el1", system_register(3, 0, 12, 0, 0)),
    ("sctlr_el1", system_register(3, 0, 1, 0, 0)),
];

fn get(fd: &VcpuFd, id: u64) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    fd.get_one_reg(id, &mut bytes).map_err(|error| Error::Register(id, error))?;
    Ok(u64::from_le_bytes(bytes))
}

fn set(fd: &VcpuFd, id: u64, value: u64) -> Result<(), Error> {
    fd.set_one_reg(id, &value.to_le_bytes()).map_err(|error| Error::Register(id, error))?;
    Ok(())
}

/// Creates vCPU `index` and returns it with its MPIDR affinity. All but the first wait for PSCI CPU_ON.
///
/// # Errors
///
/// Names the KVM call that failed.
pub fn create(vm: &VmFd, index: usize) -> Result<(VcpuFd, u64), Error> {
    let fd = vm.create_vcpu(index as u64).map_err(|error| Error::Kvm("KVM_CREATE_VCPU", error))?;
    let mut init = kvm_bindings::kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init).map_err(|error| Error::Kvm("KVM_ARM_PREFERRED_TARGET", error))?;
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    if index > 0 {
        init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    fd.vcpu_init(&init).map_err(|error| Error::Kvm("KVM_ARM_VCPU_INIT", error))?;
    let affinity = get(&fd, MPIDR_EL1)? & MPIDR_AFFINITY;
    Ok((fd, affinity))
}

/// Has KVM show another CTR_EL0 to all vCPUs of a VM, which share it, before the first of them runs: `kvm_finalize_sys_regs` decides by it whether
/// reads trap.
///
/// # Errors
///
/// [`Error::Ctr`] where KVM refuses the value.
pub fn show_ctr(vcpus: &[VcpuFd], wanted: GuestCtr) -> Result<Option<ShownCtr>, Error> {
    let Some(first) = vcpus.first() else { return Ok(None) };
    let machine = get(first, CTR_EL0)?;
    let shown = ShownCtr { machine, set: wanted.apply_to(Ctr(machine)).0 };
    for fd in vcpus {
        fd.set_one_reg(CTR_EL0, &shown.set.to_le_bytes()).map_err(|error| Error::Ctr {
            set: shown.set,
            machine,
            error,
        })?;
    }
    Ok(Some(shown))
}

/// Makes the vCPU start at the image with the device tree in x0, as the arm64 boot protocol wants.
///
/// # Errors
///
/// Names the register that KVM refused.
pub fn set_entry(fd: &VcpuFd) -> Result<(), Error> {
    set(fd, core_register(0), layout::FDT)?;
    set(fd, core_register(PC), layout::RAM)
}

/// Returns whether stage 2 forces Write-Back (FEAT_S2FWB), as KVM's copy of the ID register has it: guests read it as 0.
///
/// # Errors
///
/// If KVM does not give the register.
pub fn has_fwb(fd: &VcpuFd) -> Result<bool, Error> {
    Ok((get(fd, ID_AA64MMFR2_EL1)? >> FWB_SHIFT) & 0xf != 0)
}

/// Returns the registers as `name=value`.
pub fn registers(fd: &VcpuFd) -> Vec<String> {
    let general = (0..31).map(|n| (format!("x{n}"), core_register(n * 8)));
    let reported = REPORTED.iter().map(|(name, id)| ((*name).to_owned(), *id));
    reported
        .chain(general)
        .filter_map(|(name, id)| get(fd, id).ok().map(|value| format!("{name}={value:#x}")))
        .collect()
}

/// What a vCPU thread tells the thread that watches the run.
pub enum Message {
    /// A vCPU has run its program; it goes on with another when the sender is used or dropped.
    Next {
        /// To let the vCPU go on.
        done: SyncSender<()>,
    },
    /// The guest asks for the event of an op; it goes on when the sender is used or dropped.
    Event {
        /// Which vCPU asks.
        vcpu: usize,
        /// The op, from the host's own copy of the program.
        op: Op,
        /// To let the vCPU go on.
        done: SyncSender<()>,
    },
    /// The vCPU's thread is through.
    Left(Left),
}

/// How a vCPU's thread ended.
#[derive(Debug)]
pub enum Left {
    /// The guest powered itself off.
    PoweredOff,
    /// The runner asked it to stop.
    Stopped,
    /// It did something that nothing handles.
    Trapped(String),
}

/// Arrivals at each rendezvous whose waiting is done in the host.
type Arrivals = [u64; MAX_RENDEZVOUS as usize];

/// What the vCPU threads of one guest share.
pub struct Shared {
    programs: RwLock<Vec<Vec<Op>>>,
    /// Kernel's ids of the vCPUs' threads; 0 before they run.
    threads: Vec<AtomicI32>,
    arrivals: Mutex<Arrivals>,
    arrived: Condvar,
    stop: AtomicBool,
    console: Mutex<Console>,
    /// Held while a host event is carried out.
    event: Mutex<()>,
    events_done: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Returns the state of a guest with these programs.
    pub fn new(programs: Vec<Vec<Op>>) -> Self {
        Self {
            threads: programs.iter().map(|_| AtomicI32::new(0)).collect(),
            programs: RwLock::new(programs),
            arrivals: Mutex::new([0; MAX_RENDEZVOUS as usize]),
            arrived: Condvar::new(),
            stop: AtomicBool::new(false),
            console: Mutex::new(Console::new()),
            event: Mutex::new(()),
            events_done: AtomicU64::new(0),
        }
    }

    /// Replaces the programs, while all vCPUs wait for that.
    pub fn set_programs(&self, programs: Vec<Vec<Op>>) {
        *self.programs.write().unwrap_or_else(PoisonError::into_inner) = programs;
    }

    /// Returns the kernel's id of vCPU `index`'s thread.
    pub fn thread(&self, index: usize) -> Option<i32> {
        self.threads.get(index).map(|thread| thread.load(Ordering::SeqCst)).filter(|id| *id != 0)
    }

    fn op(&self, vcpu: usize, index: u64) -> Option<Op> {
        let programs = self.programs.read().unwrap_or_else(PoisonError::into_inner);
        programs.get(vcpu)?.get(usize::try_from(index).ok()?).copied()
    }

    /// Asks all threads to stop; those inside the guest have to be kicked as well.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // Taken so that no thread is between its look at `stop` and its wait.
        drop(lock(&self.arrivals));
        self.arrived.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Carries out a host event. vCPUs that run meanwhile may find memory gone for a moment.
    pub fn carry_out(&self, event: impl FnOnce()) {
        let _guard = lock(&self.event);
        event();
        self.events_done.fetch_add(1, Ordering::SeqCst);
    }

    /// Says, once no host event is under way, whether one has ended since there were `before` of them.
    fn event_ended_since(&self, before: u64) -> bool {
        drop(lock(&self.event));
        self.events_done.load(Ordering::SeqCst) != before
    }

    /// Returns what the guest wrote on its console.
    pub fn console_text(&self) -> String {
        lock(&self.console).text()
    }

    /// Blocks until all vCPUs that `op` names have arrived, or until the run stops.
    fn arrive(&self, op: &Op) {
        let [number, vcpus, ..] = op.args;
        let slot = (number % MAX_RENDEZVOUS) as usize;
        let mut arrivals = lock(&self.arrivals);
        arrivals[slot] += 1;
        let all = arrivals[slot].next_multiple_of(vcpus.max(1));
        self.arrived.notify_all();
        while arrivals[slot] < all && !self.stopping() {
            arrivals = self.arrived.wait(arrivals).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One vCPU's thread.
pub struct Runner<'a> {
    /// Its number.
    pub index: usize,
    /// What it shares with the others.
    pub shared: &'a Shared,
    /// Where it reports.
    pub messages: Sender<Message>,
}

impl Runner<'_> {
    /// Runs the vCPU until the guest is off, the run stops or something unexpected happens.
    pub fn run(&self, fd: &mut VcpuFd) -> Left {
        if let Some(thread) = self.shared.threads.get(self.index) {
            thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
        }
        loop {
            if self.shared.stopping() {
                return Left::Stopped;
            }
            let before = self.shared.events_done.load(Ordering::SeqCst);
            let left = match fd.run() {
                Ok(exit) => self.exit(exit),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => None,
                // A fault while mprotect had taken the memory away: the guest did nothing wrong, and tries again.
                Err(error) if error.errno() == libc::EFAULT && self.shared.event_ended_since(before) => None,
                Err(error) => Some(Left::Trapped(format!("vcpu-{}: KVM_RUN failed: {error}", self.index))),
            };
            if let Some(left) = left {
                return left;
            }
        }
    }

    fn exit(&self, exit: VcpuExit<'_>) -> Option<Left> {
        let trapped = |what: String| Some(Left::Trapped(format!("vcpu-{}: {what}", self.index)));
        match exit {
            VcpuExit::MmioWrite(ipa, data) => self.write(ipa, data),
            VcpuExit::MmioRead(ipa, data) => {
                data.fill(0);
                match uart_register(ipa) {
                    Some(register) => data[0] = lock(&self.shared.console).read(register),
                    None => return trapped(format!("the guest read {ipa:#x}, where nothing is")),
                }
                None
            }
            VcpuExit::Intr => None,
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Some(Left::PoweredOff),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => trapped("the guest reset itself".into()),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => trapped("the guest crashed".into()),
            other => trapped(format!("unexpected exit {other:?}")),
        }
    }

    fn write(&self, ipa: u64, data: &[u8]) -> Option<Left> {
        let trapped = |what: String| Some(Left::Trapped(format!("vcpu-{}: {what}", self.index)));
        if let (Some(register), Some(byte)) = (uart_register(ipa), data.first()) {
            lock(&self.shared.console).write(register, *byte);
            return None;
        }
        let value = <[u8; 8]>::try_from(data).map(u64::from_le_bytes);
        match (ipa.checked_sub(layout::DOORBELL), value) {
            (Some(offset @ (doorbell::EVENT | doorbell::ARRIVE | doorbell::NEXT)), Ok(value)) => {
                self.ring(offset, value)
            }
            _ => trapped(format!("the guest wrote {} bytes to {ipa:#x}, where nothing is", data.len())),
        }
    }

    /// Acts on a doorbell write. The op is looked up in the host's copy: a guest can only ask for what it was given.
    fn ring(&self, offset: u64, value: u64) -> Option<Left> {
        let (vcpu, index) = (value >> 32, value & 0xffff_ffff);
        let op = self.shared.op(self.index, index).filter(|_| vcpu == self.index as u64);
        match (offset, op.map(|op| (op, OpCode::from_raw(op.code)))) {
            (doorbell::NEXT, Some((_, Some(OpCode::Next)))) => self.ask(|done| Message::Next { done }),
            (doorbell::ARRIVE, Some((op, Some(OpCode::Rendezvous)))) => self.shared.arrive(&op),
            (doorbell::EVENT, Some((op, Some(OpCode::Event)))) => {
                self.ask(|done| Message::Event { vcpu: self.index, op, done });
            }
            _ => {
                let what = format!("vcpu-{}: rang the doorbell for op {index} of vCPU {vcpu}", self.index);
                return Some(Left::Trapped(what));
            }
        }
        None
    }

    /// Sends a message and waits until it has been acted on.
    fn ask(&self, message: impl FnOnce(SyncSender<()>) -> Message) {
        let (done, wait) = sync_channel(1);
        // Either may fail when the run stops, which the loop notices.
        let _ = self.messages.send(message(done));
        let _ = wait.recv();
    }
}

fn uart_register(ipa: u64) -> Option<u8> {
    let offset = ipa.checked_sub(layout::UART).filter(|offset| *offset < 8)?;
    u8::try_from(offset).ok()
}
