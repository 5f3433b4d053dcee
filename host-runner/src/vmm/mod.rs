//! The VMM: a guest on /dev/kvm with one image, a channel, regions under test and no interrupt controller.
//!
//! Only this module sees KVM types. What comes out is [`GuestRun`].

mod channel;
mod console;
mod fdt;
pub mod layout;
mod limits;
mod memory;
mod vcpu;

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abi::Op;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vm_memory::Bytes;

use crate::guest::{Backing, End, GuestRun, GuestSpec, RegionSpec, ShownCtr};
use channel::Layout;
pub use limits::limits;
use memory::HostMemory;
use vcpu::{Left, Message, Runner, Shared};

/// How often the watching thread looks up when nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// How often a vCPU that should stop is kicked.
const KICK: Duration = Duration::from_millis(10);
/// Kicks a vCPU out of the guest.
const KICK_SIGNAL: i32 = libc::SIGUSR1;

/// Why a guest could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` is not there.
    #[error("no /dev/kvm: boot an arm64 kernel with KVM at EL2 (or try it emulated: faultline lab)")]
    NoKvm,
    /// `/dev/kvm` may not be opened.
    #[error("no permission to open /dev/kvm: run as root, or join the group that owns it (usually kvm)")]
    NoPermission,
    /// A KVM call failed.
    #[error("{0} failed: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    /// A register could not be read or written.
    #[error("KVM register {0:#x}: {1}")]
    Register(u64, kvm_ioctls::Error),
    /// KVM does not show guests this CTR_EL0.
    #[error(
        "KVM refuses to show guests CTR_EL0 {set:#x} in place of {machine:#x}: {error}; since Linux 6.11 it lets lines be \
         smaller and DIC and IDC be cleared, before that nothing"
    )]
    Ctr {
        /// What was asked for.
        set: u64,
        /// The machine's.
        machine: u64,
        /// What KVM said.
        error: kvm_ioctls::Error,
    },
    /// More vCPUs than KVM has.
    #[error("{0} vCPUs asked for, KVM on this machine gives at most {1}: use --vcpus {1}")]
    TooManyVcpus(usize, usize),
    /// Regions end above the IPA limit.
    #[error("the regions end at {0:#x}, above this machine's {1}-bit limit for guests: use a smaller --region")]
    TooHigh(u64, u32),
    /// Memory for a region could not be had.
    #[error("{what}: {1}", what = describe(.0))]
    Memory(RegionSpec, io::Error),
    /// Programs and records do not fit.
    #[error("programs and records do not fit the channel: use fewer rounds or a smaller --region")]
    Channel,
    /// The image does not fit.
    #[error("the payload image has {0} bytes, its place {max}: build it again", max = layout::IMAGE_BYTES)]
    Image(usize),
    /// What a region is to hold does not fit it.
    #[error("contents at {0:#x}: {1}")]
    Contents(u64, io::Error),
    /// Guest memory could not be accessed.
    #[error("guest memory: {0}")]
    Access(#[from] vm_memory::VolatileMemoryError),
    /// The device tree could not be built.
    #[error("device tree: {0}")]
    Fdt(#[from] vm_fdt::Error),
    /// A thread could not be started.
    #[error("thread for vcpu-{0}: {1}")]
    Thread(usize, io::Error),
}

impl Error {
    /// Says whether only what was asked for cannot be had here: a reason to skip it.
    pub fn is_lack(&self) -> bool {
        matches!(self, Self::Memory(..) | Self::Ctr { .. })
    }
}

fn describe(region: &RegionSpec) -> String {
    let pool = |bytes: u64| {
        format!(
            "no {} for a region of hugetlb pages: echo {} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
            crate::size::Size(region.bytes),
            region.bytes / bytes,
            bytes >> 10
        )
    };
    match region.backing {
        Backing::Hugetlb(bytes) => pool(bytes),
        _ => format!("no {} of memory for a region", crate::size::Size(region.bytes)),
    }
}

/// What the caller of [`run`] does while the guest runs.
pub trait Watch {
    /// Does the host event that `op` asks for.
    fn event(&mut self, op: &Op, memory: &Memory);
    /// Looks around; called several times a second.
    fn tick(&mut self);
    /// Returns whether the run should end now.
    fn interrupted(&self) -> bool;
}

/// The regions' host memory, for host events. The VM drops before the memory that it uses.
pub struct Memory {
    vm: VmFd,
    slots: Vec<kvm_userspace_memory_region>,
    memory: Vec<HostMemory>,
}

impl Memory {
    /// Takes stage 2's mappings of region `n` away and leaves its contents.
    ///
    /// # Errors
    ///
    /// What mprotect said; EINVAL if there is no such region.
    pub fn unmap_stage2(&self, n: usize) -> io::Result<()> {
        self.region(n)?.unmap_stage2()
    }

    /// Takes the memory of region `n` away while the VM lives, as the end of a runner does.
    ///
    /// # Errors
    ///
    /// What mmap said; EINVAL if there is no such region.
    pub fn discard(&self, n: usize) -> io::Result<()> {
        self.region(n)?.discard()
    }

    /// Writes the code slot for `ipa` in `generation` into region `n`, whose first IPA is `base`.
    ///
    /// # Errors
    ///
    /// If the region does not hold it.
    pub fn write_code(&self, n: usize, base: u64, ipa: u64, generation: u16) -> io::Result<()> {
        let offset = ipa.checked_sub(base).ok_or(io::ErrorKind::InvalidInput)? as usize;
        let code = abi::slot::encode(ipa, generation).map(u32::to_le_bytes).concat();
        self.region(n)?.slice().write_slice(&code, offset).map_err(io::Error::other)
    }

    /// Switches dirty logging of region `n` on or off: KVM write-protects it when it begins, and splits blocks on write
    /// faults until it ends.
    ///
    /// # Errors
    ///
    /// What KVM said; EINVAL if there is no such region.
    pub fn log_dirty(&self, n: usize, logging: Logging) -> io::Result<()> {
        let slot = self.slots.get(n).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = match logging {
            Logging::On => KVM_MEM_LOG_DIRTY_PAGES,
            Logging::Off => 0,
        };
        // SAFETY: the same memory at the same place as when the slot was made; it is dropped after the VM.
        unsafe { self.vm.set_user_memory_region(kvm_userspace_memory_region { flags, ..*slot }) }
            .map_err(io::Error::from)
    }

    /// Puts bytes where the guest finds them at `ipa`.
    fn write(&self, ipa: u64, bytes: &[u8]) -> io::Result<()> {
        let holds = |slot: &&kvm_userspace_memory_region| {
            (slot.guest_phys_addr..slot.guest_phys_addr + slot.memory_size).contains(&ipa)
        };
        let n = self.slots.iter().position(|slot| holds(&slot)).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = (ipa - self.slots[n].guest_phys_addr) as usize;
        self.memory[n].slice().write_slice(bytes, offset).map_err(io::Error::other)
    }

    fn region(&self, n: usize) -> io::Result<&HostMemory> {
        Ok(self.memory.get(n).ok_or(io::ErrorKind::InvalidInput)?)
    }
}

/// Dirty logging of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logging {
    /// Under way.
    On,
    /// Not.
    Off,
}

/// A guest, set up but not started. Fields drop in this order: vCPUs and VM before the memory they use.
struct Guest {
    vcpus: Vec<VcpuFd>,
    regions: Memory,
    _ram: HostMemory,
    channel: HostMemory,
    layout: Layout,
    shown_ctr: Option<ShownCtr>,
}

/// Checks that KVM is there and gives this many vCPUs, before anything is changed for a run.
///
/// # Errors
///
/// What is missing.
pub fn check(vcpus: u64) -> Result<(), Error> {
    let max_vcpus = max_vcpus(&open_kvm()?);
    let vcpus = usize::try_from(vcpus).unwrap_or(usize::MAX);
    if vcpus > max_vcpus { Err(Error::TooManyVcpus(vcpus, max_vcpus)) } else { Ok(()) }
}

/// Runs `image` as `spec` says, for at most `limit`.
///
/// # Errors
///
/// Names the step of the set-up that failed; whatever the guest itself does is in [`GuestRun`].
pub fn run(spec: &GuestSpec, image: &[u8], limit: Duration, watch: &mut dyn Watch) -> Result<GuestRun, Error> {
    let mut guest = set_up(spec, image)?;
    let shared = Arc::new(Shared::new(spec.programs.clone()));
    let (sender, messages) = channel();
    let cpus = allowed_cpus();
    let mut notes = Vec::new();
    if guest.vcpus.len() > cpus.len() {
        notes.push(format!("{} vCPUs share {} CPUs", guest.vcpus.len(), cpus.len()));
    }
    let mut threads = Vec::new();
    for (index, fd) in std::mem::take(&mut guest.vcpus).into_iter().enumerate() {
        let (for_thread, messages) = (Arc::clone(&shared), sender.clone());
        let cpu = cpus[index % cpus.len()];
        let body = move || vcpu_thread(fd, cpu, index, &for_thread, messages);
        let thread = thread::Builder::new().name(format!("vcpu-{index}")).spawn(body);
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                stop(&shared, &mut threads);
                return Err(Error::Thread(index, error));
            }
        }
    }
    drop(sender);
    let end = watch_run(&messages, &shared, &guest.regions, limit, watch);
    drop(messages);
    let registers = stop(&shared, &mut threads);
    let mut vcpus = Vec::new();
    for (n, registers) in registers.into_iter().enumerate() {
        let mut report = guest.layout.report(&guest.channel.slice(), n)?;
        report.shown_ctr = guest.shown_ctr;
        if end != End::PoweredOff {
            report.registers = registers;
        }
        vcpus.push(report);
    }
    let boot = guest.layout.boot(&guest.channel.slice())?;
    let cpus = cpus.into_iter().take(spec.programs.len()).collect();
    Ok(GuestRun { end, vcpus, cpus, console: shared.console_text(), boot, notes })
}

fn vcpu_thread(
    mut fd: VcpuFd,
    cpu: usize,
    index: usize,
    shared: &Shared,
    messages: std::sync::mpsc::Sender<Message>,
) -> Vec<String> {
    let mut set = CpuSet::new();
    set.set(cpu);
    // The CPU was allowed a moment ago; if it has gone offline since, the vCPU runs wherever the kernel puts it.
    let _ = sched_setaffinity(None, &set);
    let left = Runner { index, shared, messages: messages.clone() }.run(&mut fd);
    let registers = if matches!(left, Left::PoweredOff) { Vec::new() } else { vcpu::registers(&fd) };
    // Nobody listens any more once the run has ended.
    let _ = messages.send(Message::Left(left));
    registers
}

/// Serves events until the guest ends or has to.
fn watch_run(
    messages: &Receiver<Message>,
    shared: &Shared,
    regions: &Memory,
    limit: Duration,
    watch: &mut dyn Watch,
) -> End {
    let deadline = Instant::now() + limit;
    loop {
        match messages.recv_timeout(TICK) {
            Ok(Message::Event { op, done }) => {
                shared.carry_out(|| watch.event(&op, regions));
                // The vCPU waits for this; it is only gone when the run stops.
                let _ = done.send(());
            }
            Ok(Message::Left(Left::PoweredOff)) => return End::PoweredOff,
            Ok(Message::Left(Left::Trapped(what))) => return End::Trapped(what),
            Ok(Message::Left(Left::Stopped)) | Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return End::Trapped("all vCPU threads ended".into()),
        }
        watch.tick();
        if watch.interrupted() {
            return End::Interrupted;
        }
        if Instant::now() > deadline {
            return End::TimedOut;
        }
    }
}

/// Stops all vCPU threads, however long the kernel keeps them, and returns what each had in its registers.
fn stop(shared: &Shared, threads: &mut Vec<JoinHandle<Vec<String>>>) -> Vec<Vec<String>> {
    // SAFETY: the handler does nothing; the signal's only use is that KVM_RUN returns EINTR.
    let handler = unsafe { signal_hook::low_level::register(KICK_SIGNAL, || ()) };
    shared.stop();
    while threads.iter().any(|thread| !thread.is_finished()) {
        if handler.is_ok() {
            for thread in threads.iter().filter(|thread| !thread.is_finished()) {
                // SAFETY: the thread is not joined yet, so its pthread_t is valid; the signal is handled.
                unsafe { libc::pthread_kill(thread.as_pthread_t() as libc::pthread_t, KICK_SIGNAL) };
            }
        }
        thread::sleep(KICK);
    }
    if let Ok(handler) = handler {
        signal_hook::low_level::unregister(handler);
    }
    threads.drain(..).map(|thread| thread.join().unwrap_or_default()).collect()
}

fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

fn open_kvm() -> Result<Kvm, Error> {
    Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::NoKvm,
        libc::EACCES | libc::EPERM => Error::NoPermission,
        _ => Error::Kvm("opening /dev/kvm", error),
    })
}

fn max_vcpus(kvm: &Kvm) -> usize {
    kvm.get_max_vcpus().min(abi::channel::MAX_VCPUS)
}

/// The IPA size asked for where the regions need no more; what KVM gives without asking.
const DEFAULT_IPA_BITS: u32 = 40;
/// The most asked for: larger sizes need LPA or LPA2, and hung on kernels with 16K and 64K pages.
const MAX_IPA_BITS: u32 = 48;

fn create_vm(kvm: &Kvm, spec: &GuestSpec) -> Result<VmFd, Error> {
    let end = spec.regions.iter().map(|region| region.ipa.saturating_add(region.bytes)).max().unwrap_or(0);
    let needed = u64::BITS - end.saturating_sub(1).leading_zeros();
    let limit = match kvm.get_host_ipa_limit() {
        limit if limit > 0 => limit as u32,
        _ => DEFAULT_IPA_BITS,
    };
    if needed > limit.min(MAX_IPA_BITS) {
        return Err(Error::TooHigh(end, limit.min(MAX_IPA_BITS)));
    }
    let bits = needed.max(DEFAULT_IPA_BITS).min(limit);
    // Type 0 means 40 bits. The crate's own default asks for the limit, and with 52 bits and 16K or 64K pages
    // KVM_CREATE_VM does not come back under QEMU.
    let vm = if bits == DEFAULT_IPA_BITS { kvm.create_vm_with_type(0) } else { kvm.create_vm_with_ipa_size(bits) };
    vm.map_err(|error| Error::Kvm("KVM_CREATE_VM", error))
}

fn set_up(spec: &GuestSpec, image: &[u8]) -> Result<Guest, Error> {
    let kvm = open_kvm()?;
    let max_vcpus = max_vcpus(&kvm);
    if spec.programs.len() > max_vcpus {
        return Err(Error::TooManyVcpus(spec.programs.len(), max_vcpus));
    }
    let vm = create_vm(&kvm, spec)?;
    let layout = Layout::new(spec).ok_or(Error::Channel)?;
    let pages = |ipa, bytes| RegionSpec { ipa, bytes, backing: Backing::Pages };
    let mut slots = 0;
    let mut slot = |region: RegionSpec| -> Result<(kvm_userspace_memory_region, HostMemory), Error> {
        let memory = HostMemory::new(&region).map_err(|error| Error::Memory(region, error))?;
        let slot = kvm_userspace_memory_region {
            slot: slots,
            flags: 0,
            guest_phys_addr: region.ipa,
            memory_size: region.bytes,
            userspace_addr: memory.host_va(),
        };
        slots += 1;
        // SAFETY: the memory is mapped, belongs to this guest alone, and is dropped after the VM.
        unsafe { vm.set_user_memory_region(slot) }.map_err(|error| Error::Kvm("KVM_SET_USER_MEMORY_REGION", error))?;
        Ok((slot, memory))
    };
    let (_, ram) = slot(pages(layout::RAM, layout::RAM_BYTES))?;
    let (_, channel) = slot(pages(layout::CHANNEL, layout.bytes))?;
    let regions = spec.regions.iter().map(|region| slot(*region)).collect::<Result<Vec<_>, _>>()?;
    layout.fill(&channel.slice(), spec)?;
    let mut vcpus = Vec::new();
    let mut affinities = Vec::new();
    for index in 0..spec.programs.len() {
        let (fd, affinity) = vcpu::create(&vm, index)?;
        vcpus.push(fd);
        affinities.push(affinity);
    }
    let shown_ctr = spec.ctr.map_or(Ok(None), |wanted| vcpu::show_ctr(&vcpus, wanted))?;
    if image.len() as u64 > layout::IMAGE_BYTES {
        return Err(Error::Image(image.len()));
    }
    ram.slice().write_slice(image, 0)?;
    ram.slice().write_slice(&fdt::build(&affinities, layout.bytes)?, (layout::FDT - layout::RAM) as usize)?;
    if let Some(boot) = vcpus.first() {
        vcpu::set_entry(boot)?;
    }
    let (slots, memory) = regions.into_iter().unzip();
    let regions = Memory { vm, slots, memory };
    for contents in &spec.contents {
        regions.write(contents.ipa, &contents.bytes).map_err(|error| Error::Contents(contents.ipa, error))?;
    }
    Ok(Guest { vcpus, regions, _ram: ram, channel, layout, shown_ctr })
}
