//! Main functions of the guest, which boot code enters: one for the boot CPU, one for the others.

use aarch64_cpu::registers::{CLIDR_EL1, CNTFRQ_EL0, MIDR_EL1, MPIDR_EL1, Readable};
use abi::channel::{MAX_VCPUS, State};
use abi::line::{END, PREFIX, ResultLine, START, Status};
use dtoolkit::fdt::Fdt;
use payload::builtin;
use payload::interpreter;
use spin::mutex::SpinMutex;

use crate::channel::{Channel, LocalRecords};
use crate::cpu::RealCpu;
use crate::job::{JOB, Job, Programs};
use crate::platform::{self, IpaRange, Platform};
use crate::tables::{self, Memory};
use crate::{asm, console, layout, per_cpu, psci, smp};

/// Size of a level 2 block, in bytes.
const BLOCK_BYTES: u64 = 2 << 20;
/// Maximum size of a device tree, in bytes, according to the boot protocol.
const FDT_MAX_BYTES: u64 = 2 << 20;

/// Maximum number of CPUs that run the built-in program. The image has room for the records of this many.
const BUILTIN_CPUS: usize = 16;
/// Records of the built-in program, by CPU.
static LOCAL: [SpinMutex<LocalRecords<{ builtin::RECORDS }>>; BUILTIN_CPUS] =
    [const { SpinMutex::new(LocalRecords::new()) }; BUILTIN_CPUS];

/// Runs the boot CPU: prepares the guest, starts the other CPUs, runs a program, and powers the guest off.
///
/// `entry_ticks` is the counter at the first instruction, and `secondary_pa` the physical address at which the other
/// CPUs enter the image.
pub(crate) extern "C" fn main(fdt_pa: u64, image_pa: usize, entry_ticks: u64, secondary_pa: u64) -> ! {
    per_cpu::init(0);
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
        // SAFETY: the device tree names this UART as the console. It is mapped above, and no other code drives it.
        unsafe { console::init(uart.model, uart.registers.base as usize) };
    }
    let job = JOB.call_once(|| prepare(&platform, fdt_pa, image_pa as u64, entry_ticks));
    let built_in = matches!(job.programs, Programs::BuiltIn { .. });
    if built_in {
        console::line(format_args!("{PREFIX} {START}"));
    }
    let refused = smp::start(&platform.cpus, job.cpus, secondary_pa);
    if refused != 0 {
        panic!("{refused} CPUs did not start");
    }
    run(0, job);
    smp::wait_done(job.cpus);
    if built_in {
        report(job.cpus);
        console::line(format_args!("{PREFIX} {END}"));
    }
    psci::system_off()
}

/// Runs another CPU: runs its program and turns it off.
pub(crate) extern "C" fn main_secondary(index: usize) -> ! {
    per_cpu::init(index);
    tables::activate_secondary();
    match JOB.get() {
        Some(job) => run(index, job),
        None => unreachable!("the boot CPU sets the job before it starts the others"),
    }
    psci::cpu_off()
}

/// Maps and reads the device tree.
fn read_fdt(fdt_pa: u64) -> Option<Platform> {
    if fdt_pa == 0 || !fdt_pa.is_multiple_of(8) {
        return None;
    }
    tables::map(fdt_pa, FDT_MAX_BYTES, Memory::ReadOnly).ok()?;
    // SAFETY: by the boot protocol a device tree of at most 2 MiB is at x0. It is mapped above, and nothing writes to
    // it.
    let fdt = unsafe { Fdt::from_raw_unchecked(fdt_pa as *const u8) };
    let fdt = Fdt::new(fdt.data()).ok()?;
    Some(platform::read(&fdt))
}

/// Chooses the programs, and maps the memory on which they work.
fn prepare(platform: &Platform, fdt_pa: u64, image_pa: u64, entry_ticks: u64) -> Job {
    if let Some(node) = platform.channel
        && tables::map(node.memory.base, node.memory.bytes, Memory::Data).is_ok()
        && tables::map(node.doorbell.base, node.doorbell.bytes, Memory::Device).is_ok()
    {
        // SAFETY: the memory is mapped above, and the device tree says that it is the channel.
        let Some(channel) = (unsafe { Channel::open(node.memory) }) else {
            panic!("the channel speaks another version than this guest");
        };
        channel.set_entry_ticks(entry_ticks);
        map_regions(channel);
        let cpus = (channel.header().vcpus as usize).min(platform.cpu_count).min(MAX_VCPUS);
        return Job { programs: Programs::Host { channel, doorbell: node.doorbell.base }, cpus };
    }
    let cpus = platform.cpu_count.min(BUILTIN_CPUS);
    let bytes = cpus as u64 * builtin::BYTES_PER_CPU;
    let image = IpaRange { base: image_pa, bytes: (layout::image_end() - layout::image_start()) as u64 };
    let fdt = IpaRange { base: fdt_pa, bytes: FDT_MAX_BYTES };
    let Some(base) = free_memory(platform.memory, bytes, &[image, fdt]) else {
        panic!("no {bytes} bytes of free memory for the built-in program");
    };
    if let Err(error) = tables::map(base, bytes, Memory::Code) {
        panic!("cannot map the built-in program's memory: {error}");
    }
    Job { programs: Programs::BuiltIn { base }, cpus }
}

/// Maps the regions of the channel.
fn map_regions(channel: Channel) {
    let before = tables::descriptor_writes();
    for region in channel.regions() {
        if let Err(error) = tables::map(region.ipa, region.bytes, Memory::Code) {
            panic!("cannot map the region at {:#x}: {error}", region.ipa);
        }
    }
    channel.set_descriptor_writes(tables::descriptor_writes() - before);
}

/// Returns the start of the first `bytes` of `memory` that begin at a level 2 block and overlap none of `used`.
fn free_memory(memory: IpaRange, bytes: u64, used: &[IpaRange]) -> Option<u64> {
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

/// Runs the programs of this CPU.
fn run(index: usize, job: &Job) {
    match job.programs {
        Programs::Host { channel, doorbell } => {
            let mut cpu = RealCpu::new(index, CLIDR_EL1.get(), Some(doorbell));
            run_host_programs(index, &mut cpu, channel);
        }
        Programs::BuiltIn { base } => {
            let mut cpu = RealCpu::new(index, CLIDR_EL1.get(), None);
            let base = base + index as u64 * builtin::BYTES_PER_CPU;
            let program = builtin::program(base, job.cpus as u64);
            let mut local = LOCAL[index].lock();
            local.ctr_el0 = asm::ctr_el0();
            interpreter::run(&mut cpu, &program, &mut *local);
        }
    }
    smp::done();
}

/// Runs the programs that the host writes to the channel, until one ends without asking for another.
fn run_host_programs(index: usize, cpu: &mut RealCpu, channel: Channel) {
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

/// Returns the smallest difference between two reads of the counter, other than zero, in ticks.
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

/// Prints the results of the built-in program.
fn report(cpus: usize) {
    let mut print = |line: ResultLine<'_>| console::line(format_args!("{line}"));
    let value = |name, value, unit| ResultLine { name, cpu: Some(0), status: Status::Pass, value, unit };
    print(ResultLine { cpu: None, ..value("cpus", cpus as u64, "cpus") });
    print(value("cntfrq", CNTFRQ_EL0.get(), "hz"));
    for (cpu, local) in LOCAL.iter().enumerate().take(cpus) {
        let local = local.lock();
        let ctr = abi::Ctr(local.ctr_el0);
        let line = |name, value, unit| ResultLine { name, cpu: Some(cpu), status: Status::Pass, value, unit };
        print(line("ctr-el0", ctr.0, "raw"));
        print(line("imin-line", ctr.imin_line_bytes(), "bytes"));
        print(line("dmin-line", ctr.dmin_line_bytes(), "bytes"));
        print(line("idc", u64::from(ctr.idc()), "bool"));
        print(line("dic", u64::from(ctr.dic()), "bool"));
        print(line("l1ip", ctr.0 >> 14 & 0b11, ctr.l1ip().name()));
        builtin::judge(cpu, local.records(), &mut print);
    }
}
