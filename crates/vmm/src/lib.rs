//! The VMM: a guest on /dev/kvm with one image, a channel, regions under test and no interrupt controller.
//!
//! Only this module sees KVM types. What comes out is [`GuestRun`].

#![cfg(all(target_os = "linux", target_arch = "aarch64"))]

mod channel;
mod console;
mod events;
mod fdt;
mod host;
pub mod layout;
mod limits;
mod memory;
mod serve;
mod userfault;
mod vcpu;

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use abi::Op;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::Bytes;

use channel::Layout;
pub use events::{Act, Refused};
use guest::report::{End, GuestRun, ShownCtr, VcpuReport};
use guest::spec::{Backing, GuestSpec, InitialBytes, RegionSpec};
pub use host::Host;
use hostfacts::affinity;
pub use limits::limits;
use memory::HostMemory;
use vcpu::{Left, Message, Runner, Shared};

/// Memslot of RAM.
const RAM_SLOT: u32 = 0;
/// Memslot of the channel.
const CHANNEL_SLOT: u32 = 1;
/// Memslot of the first region; the others follow.
const REGION_SLOT: u32 = 2;
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
    /// KVM does not split blocks ahead of faults.
    #[error("KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE: {0}; it is there since Linux 6.5")]
    EagerSplit(kvm_ioctls::Error),
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
        matches!(self, Self::Memory(..) | Self::Ctr { .. } | Self::EagerSplit(_))
    }
}

fn describe(region: &RegionSpec) -> String {
    let pool = |bytes: u64| {
        format!(
            "no {} for a region of hugetlb pages: echo {} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
            units::size::Size(region.bytes),
            region.bytes / bytes,
            bytes >> 10
        )
    };
    match region.backing {
        Backing::Hugetlb(bytes) => pool(bytes),
        _ => format!("no {} of memory for a region", units::size::Size(region.bytes)),
    }
}

/// What the caller of [`run`] does while the guest runs.
pub trait Watch {
    /// Does the host event that `op` asks for, for vCPU `vcpu`.
    fn event(&mut self, vcpu: usize, op: &Op, host: &Host<'_>);
    /// Takes what all vCPUs left of programs that ended in [`abi::OpCode::Next`], and returns those to run next; none to
    /// end the guest.
    fn next(&mut self, _reports: &[VcpuReport], _host: &Host<'_>) -> Option<Vec<Vec<Op>>> {
        None
    }
    /// Looks around; called several times a second.
    fn tick(&mut self);
    /// Returns whether the run should end now.
    fn interrupted(&self) -> bool;
}

/// A guest, set up but not started. Fields drop in this order: vCPUs and VM before the memory they use.
struct Guest {
    vcpus: Vec<VcpuFd>,
    vm: VmFd,
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
    // What is too much for any guest is told as that, not as memory that there is too little of.
    ipa_bits(&open_kvm()?, spec)?;
    let memory = |region: &RegionSpec| HostMemory::new(region).map_err(|error| Error::Memory(*region, error));
    let regions = spec.regions.iter().map(memory).collect::<Result<Vec<_>, _>>()?;
    for contents in &spec.contents {
        put(spec, &regions, contents).map_err(|error| Error::Contents(contents.ipa, error))?;
    }
    run_on(spec, image, limit, watch, &regions, "vcpu")
}

/// Puts bytes where the guest finds them.
fn put(spec: &GuestSpec, regions: &[HostMemory], contents: &InitialBytes) -> io::Result<()> {
    let holds = |region: &RegionSpec| (region.ipa..region.ipa + region.bytes).contains(&contents.ipa);
    let n = spec.regions.iter().position(holds).ok_or(io::ErrorKind::InvalidInput)?;
    let offset = (contents.ipa - spec.regions[n].ipa) as usize;
    regions[n].slice().write_slice(&contents.bytes, offset).map_err(io::Error::other)
}

/// Runs a guest on memory that is there already, in threads of that name with the vCPU's number.
fn run_on(
    spec: &GuestSpec,
    image: &[u8],
    limit: Duration,
    watch: &mut dyn Watch,
    regions: &[HostMemory],
    thread_name: &str,
) -> Result<GuestRun, Error> {
    let mut guest = set_up(spec, image, regions)?;
    let shared = Arc::new(Shared::new(spec.programs.clone()));
    let (sender, messages) = channel();
    let cpus = affinity::allowed();
    let mut notes = Vec::new();
    if guest.vcpus.len() > cpus.len() {
        notes.push(format!("{} vCPUs share {} CPUs", guest.vcpus.len(), cpus.len()));
    }
    let mut threads = Vec::new();
    for (index, fd) in std::mem::take(&mut guest.vcpus).into_iter().enumerate() {
        let (for_thread, messages) = (Arc::clone(&shared), sender.clone());
        let cpu = cpus[index % cpus.len()];
        let body = move || vcpu_thread(fd, cpu, index, &for_thread, messages);
        let thread = thread::Builder::new().name(format!("{thread_name}-{index}")).spawn(body);
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                stop(&shared, &mut threads);
                return Err(Error::Thread(index, error));
            }
        }
    }
    drop(sender);
    let host = Host::new(spec, image, regions, &guest.vm, &shared, &cpus);
    let end = serve::until_the_end(&messages, &guest, &host, limit, watch);
    drop(messages);
    let registers = stop(&shared, &mut threads);
    drop(host);
    let mut vcpus = guest.reports(spec.programs.len())?;
    if end != End::PoweredOff {
        for (report, registers) in vcpus.iter_mut().zip(registers) {
            report.registers = registers;
        }
    }
    let boot = guest.layout.boot(&guest.channel.slice())?;
    let cpus = cpus.into_iter().take(spec.programs.len()).collect();
    Ok(GuestRun { end, vcpus, cpus, console: shared.console_text(), boot, notes })
}

impl Guest {
    /// Returns what each vCPU left in the channel.
    fn reports(&self, vcpus: usize) -> Result<Vec<VcpuReport>, Error> {
        let report = |n| {
            let report = self.layout.report(&self.channel.slice(), n)?;
            Ok(VcpuReport { shown_ctr: self.shown_ctr, ..report })
        };
        (0..vcpus).map(report).collect()
    }
}

fn vcpu_thread(
    mut fd: VcpuFd,
    cpu: usize,
    index: usize,
    shared: &Shared,
    messages: std::sync::mpsc::Sender<Message>,
) -> Vec<String> {
    // The CPU was allowed a moment ago; if it has gone offline since, the vCPU runs wherever the kernel puts it.
    let _ = affinity::pin(None, cpu);
    let left = Runner { index, shared, messages: messages.clone() }.run(&mut fd);
    let registers = if matches!(left, Left::PoweredOff) { Vec::new() } else { vcpu::registers(&fd) };
    // Nobody listens any more once the run has ended.
    let _ = messages.send(Message::Left(left));
    registers
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

/// Returns the CPUs that the threads of so many vCPUs are put on.
pub fn cpus(vcpus: usize) -> Vec<usize> {
    let mut cpus = affinity::allowed();
    cpus.truncate(vcpus);
    cpus
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

/// Returns the IPA size that the regions need.
fn ipa_bits(kvm: &Kvm, spec: &GuestSpec) -> Result<u32, Error> {
    let end = spec.regions.iter().map(|region| region.ipa.saturating_add(region.bytes)).max().unwrap_or(0);
    let needed = u64::BITS - end.saturating_sub(1).leading_zeros();
    let limit = match kvm.get_host_ipa_limit() {
        limit if limit > 0 => limit as u32,
        _ => DEFAULT_IPA_BITS,
    };
    if needed > limit.min(MAX_IPA_BITS) {
        return Err(Error::TooHigh(end, limit.min(MAX_IPA_BITS)));
    }
    Ok(needed.max(DEFAULT_IPA_BITS).min(limit))
}

fn create_vm(kvm: &Kvm, spec: &GuestSpec) -> Result<VmFd, Error> {
    let bits = ipa_bits(kvm, spec)?;
    // Type 0 means 40 bits. The crate's own default asks for the limit, and with 52 bits and 16K or 64K pages
    // KVM_CREATE_VM does not come back under QEMU.
    let vm = if bits == DEFAULT_IPA_BITS { kvm.create_vm_with_type(0) } else { kvm.create_vm_with_ipa_size(bits) };
    vm.map_err(|error| Error::Kvm("KVM_CREATE_VM", error))
}

/// Creates a VM that stays as long as this program, once.
///
/// The scheduler calls KVM's preemption notifiers through branches that the kernel patches in with a machine's first VM
/// and out with its last (`preempt_notifier_inc`). Where an emulator goes on with what was there before the patch, a vCPU
/// is loaded twice, and its thread comes back with the guest's TPIDR_EL0: seen once in some hundred VMs on QEMU 7.2 with
/// two CPUs. With a VM kept, none of a run's others is the first or the last.
fn keep_one(kvm: &Kvm) -> Result<(), Error> {
    static KEPT: OnceLock<VmFd> = OnceLock::new();
    if KEPT.get().is_none() {
        let vm = kvm.create_vm_with_type(0).map_err(|error| Error::Kvm("KVM_CREATE_VM", error))?;
        let _ = KEPT.set(vm);
    }
    Ok(())
}

fn set_up(spec: &GuestSpec, image: &[u8], regions: &[HostMemory]) -> Result<Guest, Error> {
    let kvm = open_kvm()?;
    keep_one(&kvm)?;
    let max_vcpus = max_vcpus(&kvm);
    if spec.programs.len() > max_vcpus {
        return Err(Error::TooManyVcpus(spec.programs.len(), max_vcpus));
    }
    let vm = create_vm(&kvm, spec)?;
    if let Some(chunk) = spec.eager_split {
        host::split_eagerly(&vm, chunk)?;
    }
    let layout = Layout::new(spec).ok_or(Error::Channel)?;
    let own = |ipa, bytes| {
        let region = RegionSpec { ipa, bytes, backing: Backing::Pages };
        HostMemory::new(&region).map_err(|error| Error::Memory(region, error))
    };
    let ram = own(layout::RAM, layout::RAM_BYTES)?;
    let channel = own(layout::CHANNEL, layout.bytes)?;
    host::set_slot(&vm, RAM_SLOT, layout::RAM, &ram, 0)?;
    host::set_slot(&vm, CHANNEL_SLOT, layout::CHANNEL, &channel, 0)?;
    for ((slot, region), memory) in (REGION_SLOT..).zip(&spec.regions).zip(regions) {
        host::set_slot(&vm, slot, region.ipa, memory, 0)?;
    }
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
    Ok(Guest { vcpus, vm, _ram: ram, channel, layout, shown_ctr })
}
