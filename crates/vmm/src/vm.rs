//! A VM with its memory and its vCPUs, set up but not started.

use guest::report::{Boot, ShownCtr, VcpuReport};
use guest::spec::{Backing, GuestSpec, RegionSpec};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::Bytes;

use crate::channel::ChannelLayout;
use crate::error::Error;
use crate::memory::HostMemory;
use crate::memslots::{self, CHANNEL_SLOT, RAM_SLOT, region_slot};
use crate::{fdt, kvm, layout, registers};

/// The parts from which a VM is built.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The specification of the guest.
    pub spec: &'a GuestSpec,
    /// The payload's image.
    pub image: &'a [u8],
    /// The memory of each region in the specification.
    pub regions: &'a [HostMemory],
}

/// A VM. Its fields drop in the order of their declaration: vCPUs and VM before the memory that they use.
pub struct Vm {
    /// The vCPUs, until their threads take them.
    pub vcpus: Vec<VcpuFd>,
    /// The VM itself.
    pub fd: VmFd,
    _ram: HostMemory,
    channel: HostMemory,
    channel_layout: ChannelLayout,
    shown_ctr: Option<ShownCtr>,
}

impl Vm {
    /// Creates a VM, loads the image, and writes the device tree and the channel.
    ///
    /// # Errors
    ///
    /// The step that failed.
    pub fn new(parts: Parts<'_>) -> Result<Self, Error> {
        let Parts { spec, image, regions } = parts;
        let kvm = kvm::open()?;
        kvm::check_vcpus(&kvm, spec.programs.len())?;
        let fd = kvm::create_vm(&kvm, spec)?;
        if let Some(chunk_bytes) = spec.eager_split {
            kvm::split_eagerly(&fd, chunk_bytes)?;
        }
        let channel_layout = ChannelLayout::new(spec).ok_or(Error::Channel)?;
        let ram = base_pages(layout::RAM, layout::RAM_BYTES)?;
        let channel = base_pages(layout::CHANNEL, channel_layout.bytes())?;
        memslots::set(&fd, RAM_SLOT, layout::RAM, &ram, 0)?;
        memslots::set(&fd, CHANNEL_SLOT, layout::CHANNEL, &channel, 0)?;
        for (n, (region, memory)) in spec.regions.iter().zip(regions).enumerate() {
            memslots::set(&fd, region_slot(n), region.ipa, memory, 0)?;
        }
        channel_layout.fill(&channel.slice(), spec)?;
        let vcpus =
            (0..spec.programs.len()).map(|index| kvm::create_vcpu(&fd, index)).collect::<Result<Vec<_>, _>>()?;
        let affinities = vcpus.iter().map(registers::affinity).collect::<Result<Vec<_>, _>>()?;
        let shown_ctr = spec.ctr.map_or(Ok(None), |wanted| registers::set_ctr(&vcpus, wanted))?;
        if image.len() as u64 > layout::IMAGE_BYTES {
            return Err(Error::Image(image.len()));
        }
        let device_tree = fdt::build(&affinities, channel_layout.bytes())?;
        ram.slice().write_slice(image, 0)?;
        ram.slice().write_slice(&device_tree, (layout::FDT - layout::RAM) as usize)?;
        if let Some(first) = vcpus.first() {
            registers::set_entry(first)?;
        }
        Ok(Self { vcpus, fd, _ram: ram, channel, channel_layout, shown_ctr })
    }

    /// Returns the report of each vCPU, without its registers.
    ///
    /// # Errors
    ///
    /// [`Error::Access`].
    pub fn reports(&self, vcpus: usize) -> Result<Vec<VcpuReport>, Error> {
        let report = |n| {
            let report = self.channel_layout.report(&self.channel.slice(), n)?;
            Ok(VcpuReport { shown_ctr: self.shown_ctr, ..report })
        };
        (0..vcpus).map(report).collect()
    }

    /// Returns the cost of the guest's start.
    ///
    /// # Errors
    ///
    /// [`Error::Access`].
    pub fn boot(&self) -> Result<Boot, Error> {
        Ok(self.channel_layout.boot(&self.channel.slice())?)
    }

    /// Returns whether vCPU `n` has room for a program of this many ops.
    pub fn has_room(&self, n: usize, ops: usize) -> bool {
        self.channel_layout.has_room(n, ops)
    }

    /// Replaces the program of vCPU `n`, which waits at [`abi::OpCode::Next`].
    ///
    /// # Errors
    ///
    /// [`Error::Access`].
    pub fn put_program(&self, n: usize, program: &[abi::Op]) -> Result<(), Error> {
        Ok(self.channel_layout.put_program(&self.channel.slice(), n, program)?)
    }
}

fn base_pages(ipa: u64, bytes: u64) -> Result<HostMemory, Error> {
    let region = RegionSpec { ipa, bytes, backing: Backing::Pages };
    HostMemory::new(&region).map_err(|error| Error::Memory(region, error))
}
