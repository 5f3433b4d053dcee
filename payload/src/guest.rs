//! What the guest does once it runs Rust: the boot CPU's way and the other CPUs'.

use core::panic::PanicInfo;

use aarch64_cpu::registers::{CLIDR_EL1, CNTFRQ_EL0, ELR_EL1, ESR_EL1, FAR_EL1, MIDR_EL1, MPIDR_EL1, Readable};
use abi::channel::{MAX_VCPUS, State};
use abi::line::{END, PREFIX, ResultLine, START, Status};
use abi::record::{Body, Exception, Place};
use abi::{Op, Outcome, Record};
use dtoolkit::fdt::Fdt;
use payload::builtin;
use payload::interpreter::{self, Sink};
use spin::mutex::SpinMutex;
use spin::once::Once;

use crate::channel::{Channel, Local};
use crate::cpu::RealCpu;
use crate::exceptions::{self, Frame};
use crate::platform::{self, Platform, Range};
use crate::tables::{self, Memory};
use crate::{asm, console, layout, psci, smp};

const BLOCK_BYTES: u64 = 2 << 20;
/// The boot protocol's limit on the size of a device tree.
const FDT_MAX_BYTES: u64 = 2 << 20;

/// What every CPU needs to know to run its program.
struct Job {
    channel: Option<Channel>,
    doorbell: Option<u64>,
    cpus: usize,
    /// Memory of the built-in plan, [`builtin::BYTES_PER_CPU`] for each CPU.
    builtin_base: u64,
}

static JOB: Once<Job> = Once::new();

/// Records of the built-in plan, by CPU.
static LOCAL: [SpinMutex<Local<{ builtin::RECORDS }>>; BUILTIN_CPUS] =
    [const { SpinMutex::new(Local::new()) }; BUILTIN_CPUS];
/// The most CPUs on which the built-in plan runs: room for their records is in the image.
const BUILTIN_CPUS: usize = 16;

/// Entered from boot code on the boot CPU.
pub extern "C" fn main(fdt_pa: u64, image_pa: usize, entry_ticks: u64) -> ! {
    exceptions::init(0);
    tables::init(image_pa);
    let platform = match read_fdt(fdt_pa) {
        Some(platform) => platform,
        None => psci::system_off(),
    };
    if platform.psci_by_smc {
        psci::use_smc();
    }
    if let Some(uart) = platform.uart
        && tables::map(uart.registers.base, uart.registers.bytes, Memory::Device).is_ok()
    {
        // SAFETY: the tree names this UART as the console, it is mapped above, and nothing else drives it.
        unsafe { console::init(uart.model, uart.registers.base as usize) };
    }
    let job = JOB.call_once(|| prepare(&platform, fdt_pa, image_pa as u64, entry_ticks));
    if job.channel.is_none() {
        console::line(format_args!("{PREFIX} {START}"));
    }
    let refused = smp::start(&platform.cpus, job.cpus, image_pa);
    if refused != 0 {
        panic!("{refused} CPUs did not start");
    }
    run(0, job);
    smp::wait_done(job.cpus);
    if job.channel.is_none() {
        report(job);
        console::line(format_args!("{PREFIX} {END}"));
    }
    psci::system_off()
}

/// Entered from boot code on every other CPU.
pub extern "C" fn main_secondary(index: usize) -> ! {
    exceptions::init(index);
    tables::activate_secondary();
    match JOB.get() {
        Some(job) => run(index, job),
        None => unreachable!("CPUs are started after the job is set"),
    }
    psci::cpu_off()
}

/// Maps and reads the device tree.
fn read_fdt(fdt_pa: u64) -> Option<Platform> {
    if fdt_pa == 0 || !fdt_pa.is_multiple_of(8) {
        return None;
    }
    tables::map(fdt_pa, FDT_MAX_BYTES, Memory::ReadOnly).ok()?;
    // SAFETY: the boot protocol puts a tree of at most 2 MiB at x0; it is mapped above and nobody writes to it.
    let fdt = unsafe { Fdt::from_raw_unchecked(fdt_pa as *const u8) };
    let fdt = Fdt::new(fdt.data()).ok()?;
    Some(platform::read(&fdt))
}

/// Maps what the programs work on.
fn prepare(platform: &Platform, fdt_pa: u64, image_pa: u64, entry_ticks: u64) -> Job {
    if let Some(node) = platform.channel
        && tables::map(node.memory.base, node.memory.bytes, Memory::Data).is_ok()
        && tables::map(node.doorbell.base, node.doorbell.bytes, Memory::Device).is_ok()
    {
        // SAFETY: mapped above, and the tree says that it is the channel.
        let Some(channel) = (unsafe { Channel::open(node.memory) }) else {
            panic!("the channel speaks another version than this guest");
        };
        channel.set_entry_ticks(entry_ticks);
        return prepare_regions(platform, channel, node.doorbell.base);
    }
    let cpus = platform.cpu_count.min(BUILTIN_CPUS);
    let bytes = cpus as u64 * builtin::BYTES_PER_CPU;
    let image = Range { base: image_pa, bytes: (layout::image_end() - layout::image_start()) as u64 };
    let fdt = Range { base: fdt_pa, bytes: FDT_MAX_BYTES };
    let Some(builtin_base) = free_memory(platform.memory, bytes, &[image, fdt]) else {
        panic!("no {bytes} bytes of free memory for the built-in plan");
    };
    if let Err(error) = tables::map(builtin_base, bytes, Memory::Code) {
        panic!("cannot map the built-in plan's memory: {error}");
    }
    Job { channel: None, doorbell: None, cpus, builtin_base }
}

fn prepare_regions(platform: &Platform, channel: Channel, doorbell: u64) -> Job {
    let before = tables::descriptor_writes();
    for region in channel.regions() {
        if let Err(error) = tables::map(region.ipa, region.bytes, Memory::Code) {
            panic!("cannot map the region at {:#x}: {error}", region.ipa);
        }
    }
    channel.set_descriptor_writes(tables::descriptor_writes() - before);
    let cpus = (channel.header().vcpus as usize).min(platform.cpu_count).min(MAX_VCPUS);
    Job { channel: Some(channel), doorbell: Some(doorbell), cpus, builtin_base: 0 }
}

/// Returns the first level 2 blocks of `memory`, `bytes` long, that touch none of `used`.
fn free_memory(memory: Range, bytes: u64, used: &[Range]) -> Option<u64> {
    let end = memory.base.checked_add(memory.bytes)?;
    let mut base = memory.base.next_multiple_of(BLOCK_BYTES);
    while base + bytes <= end {
        match used.iter().find(|u| base < u.base + u.bytes && u.base < base + bytes) {
            Some(u) => base = (u.base + u.bytes).next_multiple_of(BLOCK_BYTES),
            None => return Some(base),
        }
    }
    None
}

/// Runs this CPU's program.
fn run(index: usize, job: &Job) {
    let mut cpu = RealCpu::new(index, CLIDR_EL1.get(), job.doorbell);
    match job.channel {
        Some(channel) => run_program(index, &mut cpu, channel),
        None => {
            let base = job.builtin_base + index as u64 * builtin::BYTES_PER_CPU;
            let program: [Op; builtin::OPS] = builtin::program(base, job.cpus as u64);
            let mut local = LOCAL[index].lock();
            local.ctr_el0 = asm::ctr_el0();
            interpreter::run(&mut cpu, &program, &mut *local);
        }
    }
    smp::done();
}

fn run_program(index: usize, cpu: &mut RealCpu, channel: Channel) {
    let mut vcpu = channel.vcpu(index);
    vcpu.describe(asm::ctr_el0(), CLIDR_EL1.get(), MIDR_EL1.get(), MPIDR_EL1.get(), CNTFRQ_EL0.get());
    vcpu.set_resolution(counter_resolution());
    if index == 0 {
        channel.set_first_op_ticks(asm::cntvct_el0_ordered());
    }
    loop {
        vcpu.set_state(State::Running);
        let state = interpreter::run(cpu, vcpu.program(), &mut vcpu);
        vcpu.set_state(state);
        if state != State::BetweenPrograms {
            return;
        }
        cpu.next_program(vcpu.current_op());
        vcpu = channel.vcpu(index);
    }
}

/// Returns the smallest step seen between two reads of the counter, in ticks.
fn counter_resolution() -> u64 {
    let mut smallest = u64::MAX;
    for _ in 0..16 {
        let before = asm::cntvct_el0_ordered();
        let mut after = before;
        while after == before {
            after = asm::cntvct_el0_ordered();
        }
        smallest = smallest.min(after - before);
    }
    smallest
}

/// Reports the built-in plan's results.
fn report(job: &Job) {
    let mut print = |line: ResultLine<'_>| console::line(format_args!("{line}"));
    let value = |name, value, unit| ResultLine { name, cpu: Some(0), status: Status::Pass, value, unit };
    print(ResultLine { cpu: None, ..value("cpus", job.cpus as u64, "cpus") });
    print(value("cntfrq", CNTFRQ_EL0.get(), "hz"));
    for (cpu, local) in LOCAL.iter().enumerate().take(job.cpus) {
        let local = local.lock();
        let ctr = abi::Ctr(local.ctr_el0);
        let line = |name, value, unit| ResultLine { name, cpu: Some(cpu), status: Status::Pass, value, unit };
        print(line("ctr-el0", ctr.0, "raw"));
        print(line("imin-line", ctr.imin_line_bytes(), "bytes"));
        print(line("dmin-line", ctr.dmin_line_bytes(), "bytes"));
        print(line("idc", u64::from(ctr.idc()), "bool"));
        print(line("dic", u64::from(ctr.dic()), "bool"));
        print(line("l1ip", ctr.0 >> 14 & 0b11, ctr.l1ip().name()));
        builtin::judge(cpu, &local.records[..local.len], &mut print);
    }
}

/// Entered from the vectors on an exception that nothing expects.
pub extern "C" fn unexpected_exception(frame: &Frame) -> ! {
    let (esr, far, elr) = (ESR_EL1.get(), FAR_EL1.get(), ELR_EL1.get());
    let cpu = exceptions::this_cpu();
    if let Some(channel) = JOB.get().and_then(|job| job.channel) {
        let mut vcpu = channel.vcpu(cpu);
        vcpu.resume();
        let exception = Exception { esr_el1: esr, far_el1: far, elr_el1: elr, vector: frame.vector };
        let place = Place { op: vcpu.current_op(), ..Place::default() };
        vcpu.record(Record::new(place, Outcome::from_esr(esr), Body::Exception(exception)));
        vcpu.set_state(State::Died);
    }
    panic!(
        "cpu {cpu}: exception at vector {:#x}: ESR_EL1 {esr:#x} FAR_EL1 {far:#x} ELR_EL1 {elr:#x} x0 {:#x} x1 {:#x} x30 {:#x}",
        frame.vector, frame.x[0], frame.x[1], frame.x[30]
    );
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::last_line(format_args!("faultline payload: {info}"));
    if JOB.get().is_none_or(|job| job.channel.is_none()) {
        console::last_line(format_args!("{PREFIX} result name=payload status=fail value=0 unit=none"));
        console::last_line(format_args!("{PREFIX} {END}"));
    }
    psci::system_off()
}
